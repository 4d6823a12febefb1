"""Schema: the tables of this library, as SQLAlchemy metadata."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata: MetaData = MetaData()
"""The tables below; give it to Alembic as one of its `target_metadata`."""


_SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows only where the type is INTEGER


def _identity() -> Identity:
    """Numbers in the order in which they are drawn: no session keeps some in advance. SQLite does so without asking."""
    return Identity(always=False, cache=1)


def _event_columns() -> list[Column[object]]:
    return [
        Column("id", String(64), nullable=False, unique=True),
        Column("type", String(255), nullable=False),
        Column("time", String(40), nullable=False),
        Column("partition_key", String(255)),
        Column("bucket", Integer, nullable=False),
        Column("content_type", String(127), nullable=False),
        Column("extensions", Text, nullable=False),
        Column("data", LargeBinary, nullable=False),
    ]


def _partial_index(name: str, column: str, condition: str) -> Index:
    return Index(name, column, sqlite_where=text(condition), postgresql_where=text(condition))


outbox: Table = Table(
    "mediator_outbox",
    metadata,
    Column("sequence", _SEQUENCE, _identity(), primary_key=True),
    *_event_columns(),
    Column("deliver_at", Float),
    _partial_index("mediator_outbox_ready", "sequence", "deliver_at IS NULL"),
    _partial_index("mediator_outbox_by_due", "deliver_at", "deliver_at IS NOT NULL"),
    sqlite_autoincrement=True,
)
"""Committed events that the broker has not stored yet. A row's sequence orders it among those of its key.

`deliver_at` is the time, in seconds since the epoch, before which a delayed event is not published; a relay
sets it to NULL when the event is due.
"""

archive: Table = Table(
    "mediator_outbox_archive",
    metadata,
    Column("sequence", _SEQUENCE, primary_key=True, autoincrement=False),
    *_event_columns(),
    Column("archived_at", Float, nullable=False),
    Index("mediator_outbox_archive_by_time", "archived_at"),
)
"""Events that the broker has stored, kept for a while: a broker that lost its disk can be filled again."""

inbox: Table = Table(
    "mediator_inbox",
    metadata,
    Column("consumer", String(64), primary_key=True),
    Column("source", String(255), primary_key=True),
    Column("event_id", String(255), primary_key=True),
    Column("received_at", Float, nullable=False),
    Index("mediator_inbox_by_time", "received_at"),
)
"""Events that have taken effect in this database, or are parked in it."""

attempts: Table = Table(
    "mediator_attempts",
    metadata,
    Column("consumer", String(64), primary_key=True),
    Column("source", String(255), primary_key=True),
    Column("event_id", String(255), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("last_start", String(8), nullable=False),
    Index("mediator_attempts_by_time", "started_at"),
)
"""How often a handler was started for an event that has not taken effect yet, and what is known of the last start."""

parked: Table = Table(
    "mediator_parked",
    metadata,
    Column("number", _SEQUENCE, _identity(), primary_key=True),
    Column("direction", String(3), nullable=False),
    Column("consumer", String(64), nullable=False),
    Column("source", String(255), nullable=False),
    Column("event_id", String(255), nullable=False),
    Column("type", String(255), nullable=False),
    Column("time", String(40), nullable=False),
    Column("partition_key", String(255)),
    Column("content_type", String(127), nullable=False),
    Column("extensions", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("subject", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("error", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("parked_at", Float, nullable=False),
    UniqueConstraint("direction", "consumer", "source", "event_id", name="mediator_parked_once"),
    Index("mediator_parked_by_key", "consumer", "partition_key", "number"),
    sqlite_autoincrement=True,
)
"""Events set aside: those that came in and could not be handled, and those that could not be published.

`direction` is `in` or `out`, `consumer` empty for those that go out. `number` orders the events of one consumer and key.
`sequence` is the place in the stream, or that in the outbox.
"""

idempotency: Table = Table(
    "mediator_idempotency",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("mediator_idempotency_by_time", "created_at"),
)
"""Commands that committed, by a hash of their idempotency key, with what they returned."""

buckets: Table = Table(
    "mediator_relay_buckets",
    metadata,
    Column("bucket", Integer, primary_key=True, autoincrement=False),
)
"""One row for each bucket of partition keys: what relays lock on PostgreSQL."""

versions: Table = Table(
    "mediator_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", Float, nullable=False),
)
"""The versions of these tables that were applied to the database; the highest one counts."""
