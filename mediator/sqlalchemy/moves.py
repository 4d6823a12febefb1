"""Moves of events between the outbox, its archive and the parked events, each within a transaction of the caller."""

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
    bindparam,
    cast,
    delete,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import Erased
from mediator.distributed.parking import refused_event
from mediator.sqlalchemy.envelope import ENVELOPE
from mediator.sqlalchemy.parked_row import row_of
from mediator.sqlalchemy.schema import archive, outbox, parked

_ARCHIVED = ("sequence", *ENVELOPE)
_OUTGOING = (parked.c.direction == "out") & (parked.c.consumer == "")
_PROMOTED = 1000

SERVER_TIME: ColumnElement[float] = cast(func.extract("epoch", func.statement_timestamp()), Float)
"""What time it is for the PostgreSQL server, in seconds since the epoch."""


def among(column: ColumnElement[Any], values: Collection[int], dialect: str) -> ColumnElement[bool]:
    """Whether a column has one of some values; one parameter on PostgreSQL, so that the statement stays the same."""
    if dialect == "postgresql":
        return column == func.any(bindparam(None, list(values), type_=ARRAY(BigInteger), unique=True))
    return column.in_(values)


async def to_archive(connection: AsyncConnection, sequences: Collection[int], time: float | None) -> int:
    """Move events to the archive, and return how many were there. One statement on PostgreSQL.

    What the archive has already keeps nobody from going on: the broker has stored these events. `time` is in seconds since
    the epoch; `None` is that of the server.
    """
    values = {"sequences": list(sequences), "time": time}
    if connection.dialect.name == "postgresql":
        moved: int = (await connection.execute(_moving(), values)).scalar_one()
        return moved
    await connection.execute(_copying(), values)
    return await delete_sent(connection, sequences)


@cache
def _moving() -> Select[Any]:
    """Built once, since relays move all the time."""
    chosen = outbox.c.sequence == func.any(bindparam("sequences", type_=ARRAY(BigInteger)))
    moved = delete(outbox).where(chosen).returning(*(outbox.c[name] for name in _ARCHIVED)).cte("moved")
    now: Any = func.coalesce(bindparam("time", type_=Float), SERVER_TIME)
    return select(func.count()).select_from(moved).add_cte(_keeping(postgresql.insert, moved, now).cte("kept"))


@cache
def _copying() -> Any:
    chosen = outbox.c.sequence.in_(bindparam("sequences", expanding=True))
    return _keeping(sqlite.insert, outbox, bindparam("time", type_=Float), chosen)


def _keeping(insert: Any, moved: FromClause, now: ColumnElement[float], *chosen: ColumnElement[bool]) -> Any:
    """Insert into the archive.

    An id names one event: of two with the same, the archive keeps the first, which receivers have. A sequence is only a
    place: where a restored database numbers again what it had numbered, the later event takes it, since what the broker has
    stored last is what it may still lose. A subquery finds each id by the index, whatever the statistics say.
    """
    known = archive.alias("known")
    is_new = select(known.c.id).where(known.c.id == moved.c.id).scalar_subquery().is_(None)
    rows = select(*(moved.c[name] for name in _ARCHIVED), now).where(*chosen, is_new)
    inserting = insert(archive).from_select([*_ARCHIVED, "archived_at"], rows)
    later = {name: inserting.excluded[name] for name in (*ENVELOPE, "archived_at")}
    return inserting.on_conflict_do_update(index_elements=[archive.c.sequence], set_=later)


async def delete_sent(connection: AsyncConnection, sequences: Collection[int]) -> int:
    """Delete events without keeping them, and return how many."""
    chosen = among(outbox.c.sequence, sequences, connection.dialect.name)
    return (await connection.execute(delete(outbox).where(chosen))).rowcount


async def to_parked(
    connection: AsyncConnection, event: CloudEvent, sequence: int, *, now: ColumnElement[float], reason: str, error: str
) -> int:
    """Move an event to the parked ones, and return whether it was there, as 1 or 0.

    When one with its id is parked already, that one stays in its place: an id names one event.
    """
    deleted = (await connection.execute(delete(outbox).where(outbox.c.sequence == sequence))).rowcount
    if deleted:
        refused = refused_event(event, reason, error, sequence=sequence, now=0.0)
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        parking = dialect.insert(parked).values({**row_of(refused), "parked_at": now})
        await connection.execute(parking.on_conflict_do_nothing())
    return deleted


async def erase(connection: AsyncConnection, key: str) -> Erased:
    """Delete what is archived and refused of a key, and count what waits.

    One statement on PostgreSQL, hence one snapshot, in which each event is in one of the three places: nothing that relays
    move meanwhile is missed, and nobody waits for them. SQLite has one writer.
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
    """A refused event that the snapshot has, and that is not there to be deleted, went back to the outbox meanwhile."""
    archived = delete(archive).where(is_archived).returning(archive.c.sequence).cte("archived")
    refused = delete(parked).where(is_refused).returning(parked.c.number).cte("refused")
    seen = select(func.count()).select_from(parked).where(is_refused)
    counts = (select(func.count()).select_from(archived), select(func.count()).select_from(refused), seen, waiting)
    row: Any = (await connection.execute(select(*(count.scalar_subquery() for count in counts)))).one()
    of_archive, of_parked, were_parked, pending = row
    return Erased(of_archive, of_parked, pending + were_parked - of_parked)


async def cancel(connection: AsyncConnection, event_id: str) -> bool:
    """Delete an event that is still delayed; False when there is none."""
    delayed = (outbox.c.id == event_id) & outbox.c.deliver_at.is_not(None)
    return bool((await connection.execute(delete(outbox).where(delayed))).rowcount)


def first_due() -> ScalarSelect[Any]:
    """When the first delayed event is due, NULL without one. SQLite uses the index only if told that others have no time."""
    return select(func.min(outbox.c.deliver_at)).where(outbox.c.deliver_at.is_not(None)).scalar_subquery()


def is_something_due(now: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a delayed event is due.

    Asked for the first of all, which the index has, since PostgreSQL takes a third of a table that it has not analyzed yet
    for due, and would look through a backlog for one.
    """
    return func.coalesce(first_due() <= now, False)


async def release_due(connection: AsyncConnection, now: ColumnElement[float]) -> None:
    """Make delayed events that are due like any other: they cannot be cancelled any more, and relays see them.

    Those that a running transaction is cancelling are left alone.
    """
    due = select(outbox.c.sequence).where(outbox.c.deliver_at <= now).order_by(outbox.c.deliver_at).limit(_PROMOTED)
    due = due.with_for_update(skip_locked=True)
    await connection.execute(update(outbox).where(outbox.c.sequence.in_(due)).values(deliver_at=None))


def publishable(limit: int, without: Collection[str]) -> Select[Any]:
    """The oldest events that may be published, `limit` at most, leaving out contexts and the keys of refused events."""
    same_key = select(literal(1)).where(_OUTGOING, parked.c.partition_key == outbox.c.partition_key)
    ready = select(outbox).where(outbox.c.deliver_at.is_(None), ~same_key.exists())
    contexts = [outbox.c.type.not_like(f"{context}.%") for context in sorted(without)]
    return ready.where(*contexts).order_by(outbox.c.sequence).limit(limit)
