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
from mediator.distributed.storable import is_storable
from mediator.sqlalchemy.database import MACHINE_TIME, SERVER_TIME
from mediator.sqlalchemy.schema import ENVELOPE, archive, outbox, parked, row_of

_NUMBERS = range(2**63)


def is_number(value: int) -> bool:
    """Return whether a column of numbers can hold a value."""
    return value in _NUMBERS


def is_text(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    """Match rows whose column, of at most 255 characters, equals a text."""
    return column == value if is_storable(value) else false()


def starts_with(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    """Match rows whose column, of at most 255 characters, begins with a text; wildcards of LIKE are escaped."""
    return column.startswith(value, autoescape=True) if is_storable(value) else false()


def is_one_of_texts(column: ColumnElement[Any], values: Collection[str]) -> ColumnElement[bool]:
    """Match rows whose column, of at most 255 characters, equals one of several texts."""
    return column.in_([value for value in values if is_storable(value)])


def is_one_of_numbers(column: ColumnElement[Any], values: Collection[int]) -> ColumnElement[bool]:
    """Match rows whose column equals one of several numbers."""
    return column.in_([value for value in values if is_number(value)])


_ARCHIVED = ("sequence", *ENVELOPE)
_OUTGOING = (parked.c.direction == "out") & (parked.c.consumer == "")
_PROMOTED = 1000
_NAMED = 5000
_UNNAMED = outbox.c.source == literal_column("''")  # a literal: with a parameter, the partial index is not used


def among(column: ColumnElement[Any], values: Collection[int], dialect: str) -> ColumnElement[bool]:
    """Match rows whose column equals one of several values.

    PostgreSQL gets one parameter, so that the text of the statement does not depend on the number of values.
    """
    if dialect == "postgresql":
        return column == func.any(bindparam(None, list(values), type_=ARRAY(BigInteger), unique=True))
    return column.in_(values)


async def delete_some(connection: AsyncConnection, table: Table, condition: ColumnElement[bool], limit: int) -> int:
    """Delete at most `limit` of the rows that match a condition, and return how many were deleted."""
    key = tuple_(*table.primary_key)
    chosen = select(*table.primary_key).where(condition).limit(limit)
    return (await connection.execute(delete(table).where(key.in_(chosen)))).rowcount


async def to_archive(connection: AsyncConnection, sequences: Collection[int], offset: float) -> int:
    """Move events to the archive, and return how many the outbox had. One statement on PostgreSQL.

    An event that the archive already has is no error, since the broker has stored it. `offset` is added to the time of
    the database, in seconds.
    """
    values = {"sequences": list(sequences), "offset": offset}
    if connection.dialect.name == "postgresql":
        moved: int = (await connection.execute(_moving(), values)).scalar_one()
        return moved
    await connection.execute(_copying(), values)
    return await delete_sent(connection, sequences)


@cache
def _moving() -> Select[Any]:
    """Return the statement for PostgreSQL; built once, since relays execute it all the time."""
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

    An id identifies one event: of two events with the same id, the archive keeps the first, which receivers have. A
    sequence is only a position: when a restored database assigns a sequence again, the later event replaces the earlier
    one, since the broker is more likely to lose what it stored last. A subquery makes the database look each id up in
    the index, whatever its statistics say.
    """
    known = archive.alias("known")
    is_new = select(known.c.id).where(known.c.id == moved.c.id).scalar_subquery().is_(None)
    rows = select(*(moved.c[name] for name in _ARCHIVED), now).where(*chosen, is_new)
    inserting = insert(archive).from_select([*_ARCHIVED, "archived_at"], rows)
    later = {name: inserting.excluded[name] for name in (*ENVELOPE, "archived_at")}
    return inserting.on_conflict_do_update(index_elements=[archive.c.sequence], set_=later)


async def delete_sent(connection: AsyncConnection, sequences: Collection[int]) -> int:
    """Delete published events without archiving them, and return how many were deleted."""
    chosen = among(outbox.c.sequence, sequences, connection.dialect.name)
    return (await connection.execute(delete(outbox).where(chosen))).rowcount


async def to_parked(
    connection: AsyncConnection, event: CloudEvent, sequence: int, *, now: ColumnElement[float], reason: str, error: str
) -> int:
    """Move an event to the parked events, and return 1, or 0 when the outbox does not have it.

    When an event with its id is parked already, that event stays, since an id identifies one event.
    """
    deleted = (await connection.execute(delete(outbox).where(outbox.c.sequence == sequence))).rowcount
    if deleted:
        refused = refused_event(event, reason, error, sequence=sequence)
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        parking = dialect.insert(parked).values({**row_of(refused), "parked_at": now})
        await connection.execute(parking.on_conflict_do_nothing())
    return deleted


async def erase(connection: AsyncConnection, key: str) -> Erased:
    """Delete the archived and the refused events of a key, and count its waiting events.

    PostgreSQL does so in one statement, hence in one snapshot, in which each event is in exactly one of the three
    tables: no event that a relay moves meanwhile is missed, and nobody waits for relays. SQLite has only one writer.
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
    """Erase in one statement.

    A refused event that is in the snapshot but could not be deleted has gone back to the outbox, and counts as pending.
    """
    archived = delete(archive).where(is_archived).returning(archive.c.sequence).cte("archived")
    refused = delete(parked).where(is_refused).returning(parked.c.number).cte("refused")
    seen = select(func.count()).select_from(parked).where(is_refused)
    counts = (select(func.count()).select_from(archived), select(func.count()).select_from(refused), seen, waiting)
    row: Any = (await connection.execute(select(*(count.scalar_subquery() for count in counts)))).one()
    of_archive, of_parked, were_parked, pending = row
    return Erased(of_archive, of_parked, pending + were_parked - of_parked)


async def cancel(connection: AsyncConnection, event_id: str) -> bool:
    """Delete an event that is still delayed, and return whether there was one."""
    delayed = (outbox.c.id == event_id) & outbox.c.deliver_at.is_not(None)
    return bool((await connection.execute(delete(outbox).where(delayed))).rowcount)


def first_due() -> ScalarSelect[Any]:
    """Return a subquery for the time at which the first delayed event is due; NULL when there is none.

    SQLite uses the partial index only when the statement repeats its condition.
    """
    return select(func.min(outbox.c.deliver_at)).where(outbox.c.deliver_at.is_not(None)).scalar_subquery()


def is_something_due(now: ColumnElement[float]) -> ColumnElement[bool]:
    """Return a condition that is true when a delayed event is due.

    It looks up the earliest due time in the index. PostgreSQL assumes that a third of a table that it has not analyzed
    is due, and would otherwise search the whole backlog for a due event.
    """
    return func.coalesce(first_due() <= now, False)


async def release_due(connection: AsyncConnection, now: ColumnElement[float]) -> None:
    """Release delayed events that are due: relays see them, and they can no longer be cancelled.

    At most 1,000 are released at once. Events that a running transaction is cancelling are skipped.
    """
    due = select(outbox.c.sequence).where(outbox.c.deliver_at <= now).order_by(outbox.c.deliver_at).limit(_PROMOTED)
    due = due.with_for_update(skip_locked=True)
    await connection.execute(update(outbox).where(outbox.c.sequence.in_(due)).values(deliver_at=None))


def is_something_unnamed() -> ColumnElement[bool]:
    """Return a condition that is true when an event has no source yet.

    It looks up the first such event in the index, as `is_something_due` does.
    """
    return select(func.min(outbox.c.sequence)).where(_UNNAMED).scalar_subquery().is_not(None)


async def name_events(connection: AsyncConnection, application: str) -> bool:
    """Set the source of at most 5,000 events that have none, and return whether there may be more such events.

    Events that a running transaction is cancelling are skipped.
    """
    unnamed = select(outbox.c.sequence).where(_UNNAMED).order_by(outbox.c.sequence).limit(_NAMED)
    unnamed = unnamed.with_for_update(skip_locked=True)
    naming = update(outbox).where(outbox.c.sequence.in_(unnamed)).values(source=application)
    return (await connection.execute(naming)).rowcount == _NAMED


def publishable(limit: int, without: Collection[str]) -> Select[Any]:
    """Select the oldest events that may be published, at most `limit`.

    Delayed events, events of the domains in `without`, and events behind a refused event of their key are left out.
    """
    same_key = select(literal(1)).where(_OUTGOING, parked.c.partition_key == outbox.c.partition_key)
    ready = select(outbox).where(outbox.c.deliver_at.is_(None), ~same_key.exists())
    domains = [outbox.c.type.not_like(f"{domain}.%") for domain in sorted(without)]
    return ready.where(*domains).order_by(outbox.c.sequence).limit(limit)
