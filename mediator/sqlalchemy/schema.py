"""Schema: the tables of this library, as SQLAlchemy metadata, and the conversion between events and their rows."""

from dataclasses import fields
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.parking import ParkedEvent, from_json, to_json
from mediator.distributed.starts import LastStart
from mediator.distributed.storable import (
    LONGEST_EVENT_ID,
    LONGEST_GROUP,
    LONGEST_MEDIA_TYPE,
    LONGEST_TEXT,
    LONGEST_TIME,
    time_text,
)

metadata: MetaData = MetaData()
"""The tables of this library. Give this `MetaData` to Alembic, in the list `target_metadata`."""


_SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows only where the type is INTEGER


def _identity() -> Identity:
    """Return an identity that numbers rows in the order of insertion.

    With `cache=1`, no session of PostgreSQL reserves numbers in advance. SQLite ignores the identity.
    """
    return Identity(always=False, cache=1)


def _event_columns() -> list[Column[object]]:
    return [
        Column("id", String(LONGEST_EVENT_ID), nullable=False, unique=True),
        Column("type", String(LONGEST_TEXT), nullable=False),
        Column("time", String(LONGEST_TIME), nullable=False),
        Column("partition_key", String(LONGEST_TEXT)),
        Column("bucket", Integer, nullable=False),
        Column("content_type", String(LONGEST_MEDIA_TYPE), nullable=False),
        Column("extensions", Text, nullable=False),
        Column("data", LargeBinary, nullable=False),
    ]


def _identity_of_event() -> list[Column[str]]:
    """Return primary key columns that identify an incoming event of a consumer."""
    longest = {"consumer": LONGEST_GROUP, "source": LONGEST_TEXT, "event_id": LONGEST_TEXT}
    return [Column(name, String(length), primary_key=True) for name, length in longest.items()]


def _source() -> Column[str]:
    """Return the column for the source of an event.

    The column is the last column of its table, since an upgrade adds a column at the end. The column has a default,
    because processes of version 1 do not set the column.
    """
    return Column("source", String(LONGEST_TEXT), nullable=False, server_default="")


def _later_try_columns() -> list[Column[Any]]:
    """Return the columns for the later tries of a parked event.

    The columns are the last columns of their table, since an upgrade adds columns at the end. Each column has a default
    or may be NULL, because processes of version 2 do not set the columns.
    """
    return [
        Column("ordered", Integer, nullable=False, server_default=text("1")),
        Column("due_at", Float),
        Column("tries", Integer, nullable=False, server_default=text("0")),
        Column("last_start", String(8), nullable=False, server_default=LastStart.ENDED.value),
        Column("claim", Integer, nullable=False, server_default=text("0")),
        Column("held_by", Text),
        Column("asked_at", Float),
    ]


def _partial_index(name: str, *columns: str, condition: str) -> Index:
    return Index(name, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


outbox: Table = Table(
    "mediator_outbox",
    metadata,
    Column("sequence", _SEQUENCE, _identity(), primary_key=True),
    *_event_columns(),
    Column("deliver_at", Float),
    _source(),
    _partial_index("mediator_outbox_ready", "sequence", condition="deliver_at IS NULL"),
    _partial_index("mediator_outbox_by_due", "deliver_at", condition="deliver_at IS NOT NULL"),
    _partial_index("mediator_outbox_unnamed", "sequence", condition="source = ''"),
    sqlite_autoincrement=True,
)
"""Committed events that the broker has not stored yet. `sequence` orders the events of one key.

`source` is the name of the application. If the process that added the event did not know the name, `source` is empty. A
relay then sets `source` before the event is published. `deliver_at` is the time at which a delayed event is due, in
seconds since the epoch. When the event is due, a relay sets `deliver_at` to NULL, and the event can be published.
"""

archive: Table = Table(
    "mediator_outbox_archive",
    metadata,
    Column("sequence", _SEQUENCE, primary_key=True, autoincrement=False),
    *_event_columns(),
    Column("archived_at", Float, nullable=False),
    _source(),
    Index("mediator_outbox_archive_by_time", "archived_at"),
)
"""Events that the broker has stored. For some time, these events can be published again if the broker lost its data."""

inbox: Table = Table(
    "mediator_inbox",
    metadata,
    *_identity_of_event(),
    Column("received_at", Float, nullable=False),
    Index("mediator_inbox_by_time", "received_at"),
)
"""Incoming events that have taken effect in this database, or are parked in this database."""

attempts: Table = Table(
    "mediator_attempts",
    metadata,
    *_identity_of_event(),
    Column("attempts", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("last_start", String(8), nullable=False),
    Index("mediator_attempts_by_time", "started_at"),
)
"""The number of handler starts of each event that has not taken effect yet. `last_start` has a value of `LastStart`."""

parked: Table = Table(
    "mediator_parked",
    metadata,
    Column("number", _SEQUENCE, _identity(), primary_key=True),
    Column("direction", String(3), nullable=False),
    Column("consumer", String(LONGEST_GROUP), nullable=False),
    Column("source", String(LONGEST_TEXT), nullable=False),
    Column("event_id", String(LONGEST_TEXT), nullable=False),
    Column("type", String(LONGEST_TEXT), nullable=False),
    Column("time", String(LONGEST_TIME), nullable=False),
    Column("partition_key", String(LONGEST_TEXT)),
    Column("content_type", String(LONGEST_MEDIA_TYPE), nullable=False),
    Column("extensions", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("subject", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("error", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("parked_at", Float, nullable=False),
    *_later_try_columns(),
    UniqueConstraint("direction", "consumer", "source", "event_id", name="mediator_parked_once"),
    Index("mediator_parked_by_key", "consumer", "partition_key", "number"),
    _partial_index("mediator_parked_by_due", "consumer", "due_at", "number", condition="due_at IS NOT NULL"),
    _partial_index("mediator_parked_held", "consumer", "held_by", "claim", "number", condition="held_by IS NOT NULL"),
    sqlite_autoincrement=True,
)
"""Parked events (dead letters): incoming events that could not be handled, outgoing events that could not be published.

`direction` is `in` or `out`; `consumer` is empty for outgoing events. `number` orders the events of one consumer and
key. `sequence` is the sequence of an incoming event in the stream, or of an outgoing event in the outbox.

If `ordered` is 0, the group keeps no order: the event is independent of other events, although its key is stored.
`due_at` is the time at which the consumer tries the event again by itself, in seconds since the epoch; NULL if the event
waits for a person or for an earlier event of its key. `tries` counts the failed later tries. `last_start` has a value of
`LastStart`. `claim` counts the claims of the event. The count shows a process that its claim is no longer the last one.
`held_by` is the name of the handler class whose open circuit holds the event; NULL if no circuit holds the event. A held
event has no `due_at`. `asked_at` is the time at which the handlers of the event first raised `RetryLater`.
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
"""The responses of committed commands. `key` is a hash of the idempotency key."""

buckets: Table = Table(
    "mediator_relay_buckets", metadata, Column("bucket", Integer, primary_key=True, autoincrement=False)
)
"""One row for each bucket (a group of partition keys). On PostgreSQL, a relay locks rows to claim the buckets' events."""

versions: Table = Table(
    "mediator_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", Float, nullable=False),
)
"""The versions of the tables that were applied to the database. The highest number is the version of the tables."""


ENVELOPE = ("id", "source", "type", "time", "partition_key", "bucket", "content_type", "extensions", "data")
"""The columns of the outbox and its archive that contain an event."""


def columns_of(event: CloudEvent) -> dict[str, Any]:
    """Return the values of the columns in `ENVELOPE` for an event."""
    return {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": time_text(event.time),
        "partition_key": event.partitionkey,
        "bucket": event.bucket,
        "content_type": event.datacontenttype,
        "extensions": msgspec.json.encode(dict(event.extensions)).decode(),
        "data": event.data,
    }


def event_of(row: Row[Any], application: str | None = None) -> CloudEvent:
    """Return the event in a row of the outbox or its archive.

    When the row has no source yet, `application` is the source of the event.
    """
    return CloudEvent(
        id=row.id,
        source=row.source or application or "",
        type=row.type,
        time=datetime.fromisoformat(row.time),
        data=bytes(row.data),
        datacontenttype=row.content_type,
        partitionkey=row.partition_key or None,  # version 1 of the tables treated an empty key as no key
        extensions=msgspec.json.decode(row.extensions, type=dict[str, str]),
    )


_COLUMNS = tuple(field.name for field in fields(ParkedEvent))


def row_of(event: ParkedEvent) -> dict[str, Any]:
    """Return the values of a parked event's columns. The number is left out, since the database assigns it."""
    row = {name: getattr(event, name) for name in _COLUMNS if name != "number"}
    texts = {"extensions": to_json(event.extensions), "headers": to_json(event.headers)}
    return {**row, **texts, "ordered": int(event.ordered), "last_start": event.last_start.value}


def parked_of(row: Any) -> ParkedEvent:
    """Return the parked event in a row. If the row lacks the column `data`, the body of the event is empty."""
    values: dict[str, Any] = {name: getattr(row, name, b"") for name in _COLUMNS}
    values["data"] = bytes(values["data"])
    values["partition_key"] = row.partition_key or None
    values["ordered"] = bool(row.ordered)
    values["last_start"] = LastStart(row.last_start)
    for name in ("extensions", "headers"):
        values[name] = from_json(getattr(row, name))
    return ParkedEvent(**values)
