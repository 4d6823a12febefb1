"""Moves of events between the outbox, its archive and the parked events, each within a transaction of the caller."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, delete, func, insert, literal, select, update
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


def among(column: ColumnElement[Any], values: Collection[int], dialect: str) -> ColumnElement[bool]:
    """Whether a column has one of some values; one parameter on PostgreSQL, so that the statement stays the same."""
    if dialect == "postgresql":
        return column == func.any(bindparam(None, list(values), type_=ARRAY(BigInteger), unique=True))
    return column.in_(values)


async def to_archive(connection: AsyncConnection, sequences: Collection[int], now: ColumnElement[float]) -> int:
    """Move events to the archive, and return how many. One statement on PostgreSQL."""
    chosen = among(outbox.c.sequence, sequences, connection.dialect.name)
    columns = [*_ARCHIVED, "archived_at"]
    if connection.dialect.name == "postgresql":
        moved = delete(outbox).where(chosen).returning(*(outbox.c[name] for name in _ARCHIVED)).cte("moved")
        rows = select(*(moved.c[name] for name in _ARCHIVED), now)
        return (await connection.execute(insert(archive).from_select(columns, rows))).rowcount
    rows = select(*(outbox.c[name] for name in _ARCHIVED), now).where(chosen)
    await connection.execute(insert(archive).from_select(columns, rows))
    return (await connection.execute(delete(outbox).where(chosen))).rowcount


async def delete_sent(connection: AsyncConnection, sequences: Collection[int]) -> int:
    """Delete events without keeping them, and return how many."""
    chosen = among(outbox.c.sequence, sequences, connection.dialect.name)
    return (await connection.execute(delete(outbox).where(chosen))).rowcount


async def to_parked(
    connection: AsyncConnection, event: CloudEvent, sequence: int, *, now: ColumnElement[float], reason: str, error: str
) -> int:
    """Move an event to the parked ones, and return whether it was there, as 1 or 0."""
    deleted = (await connection.execute(delete(outbox).where(outbox.c.sequence == sequence))).rowcount
    if deleted:
        refused = refused_event(event, reason, error, sequence=sequence, now=0.0)
        await connection.execute(insert(parked).values({**row_of(refused), "parked_at": now}))
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


def is_something_due(now: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a delayed event is due."""
    return select(literal(1)).select_from(outbox).where(outbox.c.deliver_at <= now).exists()


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
