"""Statements that move events between the outbox, its archive and the parked events, in the caller's transaction."""

from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    FromClause,
    ScalarSelect,
    Select,
    Table,
    bindparam,
    delete,
    false,
    func,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import Erased
from mediator.distributed.parking import refused_event
from mediator.distributed.storable import LONGEST_TEXT, is_storable
from mediator.sqlalchemy.database import MACHINE_TIME, SERVER_TIME
from mediator.sqlalchemy.schema import ENVELOPE, archive, outbox, parked, row_of

_NUMBERS = range(2**63)


def is_number(value: int) -> bool:
    """Return whether a value fits into a column of row numbers, such as `sequence`."""
    return value in _NUMBERS


def is_text(column: ColumnElement[Any], value: str, longest: int = LONGEST_TEXT) -> ColumnElement[bool]:
    """Match the rows in which a column of at most `longest` characters equals the given text."""
    return column == value if is_storable(value, longest) else false()


def starts_with(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    """Match the rows in which a column of at most 255 characters begins with the given text. Wildcards are escaped."""
    return column.startswith(value, autoescape=True) if is_storable(value) else false()


def is_one_of_texts(column: ColumnElement[Any], values: Collection[str]) -> ColumnElement[bool]:
    """Match the rows in which a column of at most 255 characters equals one of the given texts."""
    return column.in_([value for value in values if is_storable(value)])


def is_one_of_numbers(column: ColumnElement[Any], values: Collection[int]) -> ColumnElement[bool]:
    """Match the rows in which a column equals one of the given numbers. Negative and too large numbers are ignored."""
    return column.in_([value for value in values if is_number(value)])


_ARCHIVED = ("sequence", *ENVELOPE)
_OUTGOING = (parked.c.direction == "out") & (parked.c.consumer == "")
_PROMOTED = 1000
_NAMED = 5000
_UNNAMED = outbox.c.source == literal_column("''")  # with a parameter, the partial index could not be used


def among(column: ColumnElement[Any], values: Collection[int], dialect: str) -> ColumnElement[bool]:
    """Match the rows in which a column equals one of the given values.

    On PostgreSQL, all values are one parameter, so that the same statement text serves any number of values.
    """
    if dialect == "postgresql":
        return column == func.any(bindparam(None, list(values), type_=ARRAY(BigInteger), unique=True))
    return column.in_(values)


async def delete_some(connection: AsyncConnection, table: Table, condition: ColumnElement[bool], limit: int) -> int:
    """Delete at most `limit` rows that match the condition, and return the number of deleted rows."""
    key = tuple_(*table.primary_key)
    chosen = select(*table.primary_key).where(condition).limit(limit)
    return (await connection.execute(delete(table).where(key.in_(chosen)))).rowcount


async def to_archive(connection: AsyncConnection, sequences: Collection[int], offset: float) -> int:
    """Move published events from the outbox to the archive, and return how many of these events were in the outbox.

    An event whose id is already in the archive is only removed from the outbox. The stored time of archiving is the
    time of the database plus `offset` seconds. On PostgreSQL, one statement does all of this.
    """
    values = {"sequences": list(sequences), "offset": offset}
    if connection.dialect.name == "postgresql":
        moved: int = (await connection.execute(_moving(), values)).scalar_one()
        return moved
    await connection.execute(_copying(), values)
    return await delete_sent(connection, sequences)


@cache
def _moving() -> Select[Any]:
    """Return the statement of `to_archive` for PostgreSQL, cached because relays execute the statement often."""
    chosen = outbox.c.sequence == func.any(bindparam("sequences", type_=ARRAY(BigInteger)))
    moved = delete(outbox).where(chosen).returning(*(outbox.c[name] for name in _ARCHIVED)).cte("moved")
    now = SERVER_TIME + bindparam("offset", type_=Float)
    return select(func.count()).select_from(moved).add_cte(_keeping(postgresql.insert, moved, now).cte("kept"))


@cache
def _copying() -> Any:
    chosen = outbox.c.sequence.in_(bindparam("sequences", expanding=True))
    return _keeping(sqlite.insert, outbox, MACHINE_TIME + bindparam("offset", type_=Float), chosen)


def _keeping(insert: Any, moved: FromClause, now: ColumnElement[float], *chosen: ColumnElement[bool]) -> Any:
    """Return an INSERT of moved events into the archive.

    A moved event is left out when the archive already has an event with the same id.

    A database that was restored from a backup can assign a sequence a second time. The archive may then have another
    event with this sequence. The moved event replaces this archived event. The archive is there to replace events that
    a broker has lost, and a broker is more likely to lose newer events.

    Each id is looked up with a subquery, so that the database uses the index whatever the table's statistics say.
    """
    known = archive.alias("known")
    is_new = select(known.c.id).where(known.c.id == moved.c.id).scalar_subquery().is_(None)
    rows = select(*(moved.c[name] for name in _ARCHIVED), now).where(*chosen, is_new)
    inserting = insert(archive).from_select([*_ARCHIVED, "archived_at"], rows)
    later = {name: inserting.excluded[name] for name in (*ENVELOPE, "archived_at")}
    return inserting.on_conflict_do_update(index_elements=[archive.c.sequence], set_=later)


async def delete_sent(connection: AsyncConnection, sequences: Collection[int]) -> int:
    """Delete published events without archiving the events, and return the number of deleted events."""
    chosen = among(outbox.c.sequence, sequences, connection.dialect.name)
    return (await connection.execute(delete(outbox).where(chosen))).rowcount


async def to_parked(
    connection: AsyncConnection, event: CloudEvent, sequence: int, *, now: ColumnElement[float], reason: str, error: str
) -> int:
    """Move an event from the outbox to the parked events. Return 1, or 0 when the event is not in the outbox.

    When an event with the same id is already parked, the parked event is not changed.
    """
    deleted = (await connection.execute(delete(outbox).where(outbox.c.sequence == sequence))).rowcount
    if deleted:
        refused = refused_event(event, reason, error, sequence=sequence)
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        parking = dialect.insert(parked).values({**row_of(refused), "parked_at": now})
        await connection.execute(parking.on_conflict_do_nothing())
    return deleted


async def erase(connection: AsyncConnection, key: str) -> Erased:
    """Delete the archived and the refused events of a key, and count the waiting events of the key.

    A refused event is a parked outgoing event. On PostgreSQL, one statement does all of this. The statement sees one
    snapshot of the database, in which each event is in exactly one of the three tables. The statement therefore misses
    no event that a relay moves at the same time. On SQLite, only one writer at a time can move or delete events.
    """
    is_archived, is_refused = archive.c.partition_key == key, _OUTGOING & (parked.c.partition_key == key)
    waiting = select(func.count()).select_from(outbox).where(outbox.c.partition_key == key)
    if connection.dialect.name == "postgresql":
        return await _erase_at_once(connection, is_archived, is_refused, waiting)
    archived = (await connection.execute(delete(archive).where(is_archived))).rowcount
    refused = (await connection.execute(delete(parked).where(is_refused))).rowcount
    return Erased(archived, refused, (await connection.execute(waiting)).scalar_one())


async def _erase_at_once(
    connection: AsyncConnection, is_archived: ColumnElement[bool], is_refused: ColumnElement[bool], waiting: Select[Any]
) -> Erased:
    """Execute `erase` as one statement.

    After the snapshot, another transaction may move a refused event back to the outbox. The statement sees this event
    but cannot delete it, and counts it as a waiting event.
    """
    archived = delete(archive).where(is_archived).returning(archive.c.sequence).cte("archived")
    refused = delete(parked).where(is_refused).returning(parked.c.number).cte("refused")
    seen = select(func.count()).select_from(parked).where(is_refused)
    counts = (select(func.count()).select_from(archived), select(func.count()).select_from(refused), seen, waiting)
    row: Any = (await connection.execute(select(*(count.scalar_subquery() for count in counts)))).one()
    of_archive, of_parked, were_parked, pending = row
    return Erased(of_archive, of_parked, pending + were_parked - of_parked)


async def cancel(connection: AsyncConnection, event_id: str) -> bool:
    """Delete an event if the event is still delayed, and return whether the event was deleted."""
    delayed = (outbox.c.id == event_id) & outbox.c.deliver_at.is_not(None)
    return bool((await connection.execute(delete(outbox).where(delayed))).rowcount)


def first_due() -> ScalarSelect[Any]:
    """Return a subquery for the time at which the first delayed event is due; NULL when no event is delayed.

    SQLite uses the partial index only when the statement repeats the condition of the index.
    """
    return select(func.min(outbox.c.deliver_at)).where(outbox.c.deliver_at.is_not(None)).scalar_subquery()


def is_something_due(now: ColumnElement[float]) -> ColumnElement[bool]:
    """Return a condition that is true when a delayed event is due.

    The condition compares only the earliest due time, and the database finds this time in the index. If the condition
    compared each row, PostgreSQL could scan the whole outbox. Without statistics, PostgreSQL assumes that a third of
    the rows match.
    """
    return func.coalesce(first_due() <= now, False)


async def release_due(connection: AsyncConnection, now: ColumnElement[float]) -> None:
    """Release at most 1,000 delayed events that are due. Released events can be published, but no longer cancelled.

    Events that a running transaction is cancelling are skipped.
    """
    due = select(outbox.c.sequence).where(outbox.c.deliver_at <= now).order_by(outbox.c.deliver_at).limit(_PROMOTED)
    due = due.with_for_update(skip_locked=True)
    await connection.execute(update(outbox).where(outbox.c.sequence.in_(due)).values(deliver_at=None))


def is_something_unnamed() -> ColumnElement[bool]:
    """Return a condition that is true when an event has no source (the name of the application) yet.

    The condition looks up only the first event without a source, for the reason given at `is_something_due`.
    """
    return select(func.min(outbox.c.sequence)).where(_UNNAMED).scalar_subquery().is_not(None)


async def name_events(connection: AsyncConnection, application: str) -> bool:
    """Set the source of at most 5,000 events without a source; return whether more events may be without a source.

    Events that a running transaction is cancelling are skipped.
    """
    unnamed = select(outbox.c.sequence).where(_UNNAMED).order_by(outbox.c.sequence).limit(_NAMED)
    unnamed = unnamed.with_for_update(skip_locked=True)
    naming = update(outbox).where(outbox.c.sequence.in_(unnamed)).values(source=application)
    return (await connection.execute(naming)).rowcount == _NAMED


def publishable(limit: int, without: Collection[str]) -> Select[Any]:
    """Select at most `limit` events that may be published, the oldest first.

    Left out are delayed events, events of the domains in `without`, and events whose key has a parked outgoing event.
    """
    same_key = select(literal(1)).where(_OUTGOING, parked.c.partition_key == outbox.c.partition_key)
    ready = select(outbox).where(outbox.c.deliver_at.is_(None), ~same_key.exists())
    domains = [outbox.c.type.not_like(f"{domain}.%") for domain in sorted(without)]
    return ready.where(*domains).order_by(outbox.c.sequence).limit(limit)
