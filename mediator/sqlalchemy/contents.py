"""SqlAlchemyOutboxContents: what is in the tables of an outbox and its archive."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Row,
    Table,
    and_,
    cast,
    func,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox_contents import OutboxContents, OutboxCount, OutboxFilter, OutboxRecord, Place
from mediator.errors import OutboxEventNotFoundError
from mediator.sqlalchemy.conditions import is_one_of_texts, is_text, starts_with
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.envelope import event_of
from mediator.sqlalchemy.moves import among
from mediator.sqlalchemy.schema import archive, outbox

_MOVED_AT = {"archived": archive.c.archived_at, "delayed": outbox.c.deliver_at, "waiting": outbox.c.deliver_at}
_UNIX_EPOCH = 2440587.5
_SECONDS_A_DAY = 86400.0


class SqlAlchemyOutboxContents(OutboxContents):
    """Reads one database; see `SqlAlchemyOutbox.contents`.

    Each method raises `SchemaMissingError` when the tables are not there.

    Args:
        database: Where the tables are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, which: OutboxFilter, /, *, after: int = 0, limit: int = 100) -> Sequence[OutboxRecord]:
        """See `OutboxContents.find`."""
        table = _table(which.place)
        chosen = select(*_columns(table, which.place)).where(self._fits(table, which), table.c.sequence > after)
        rows = await self._rows(chosen.order_by(table.c.sequence).limit(limit))
        return [_record(which.place, row) for row in rows]

    async def count(self, which: OutboxFilter, /) -> OutboxCount:
        """See `OutboxContents.count`."""
        table = _table(which.place)
        oldest = func.min(self._time(table)).label("oldest")
        counting = select(func.count().label("events"), oldest).where(self._fits(table, which))
        [row] = await self._rows(counting.select_from(table))
        return OutboxCount(int(row.events), None if row.oldest is None else round(row.oldest, 3))

    async def get(self, event_id: str, /) -> tuple[OutboxRecord, CloudEvent]:
        """See `OutboxContents.get`."""
        places: tuple[Place, ...] = ("waiting", "delayed", "archived")  # in the direction in which events move
        for place in places:
            table = _table(place)
            fits = self._fits(table, OutboxFilter(place, ids=(event_id,)))
            for row in await self._rows(select(*_columns(table, place), *_payload(table)).where(fits)):
                return _record(place, row), event_of(row)
        raise OutboxEventNotFoundError(event_id)

    async def archived(self, sequences: Sequence[int], /) -> Sequence[CloudEvent]:
        """See `OutboxContents.archived`."""
        chosen = select(archive).where(among(archive.c.sequence, sequences, self._database.dialect))
        rows = await self._rows(chosen.order_by(archive.c.sequence))
        return [event_of(row) for row in rows]

    async def _rows(self, statement: Any) -> Sequence[Row[Any]]:
        async with self._database.reader.connect() as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
        return rows

    def _fits(self, table: Table, which: OutboxFilter) -> ColumnElement[bool]:
        wanted = {"type": which.type, "partition_key": which.key}
        conditions = [is_text(table.c[name], value) for name, value in wanted.items() if value is not None]
        if which.place != "archived":
            due = outbox.c.deliver_at
            conditions.append(due.is_(None) if which.place == "waiting" else due.is_not(None))
        if which.context is not None:
            conditions.append(starts_with(table.c.type, f"{which.context}."))
        if which.ids:
            conditions.append(is_one_of_texts(table.c.id, which.ids))
        if which.since is not None:
            conditions.append(self._time(table) >= which.since)
        return and_(literal(value=True), *conditions)

    def _time(self, table: Table) -> ColumnElement[Any]:
        """When an event was archived, or raised, in seconds since the epoch."""
        if table is archive:
            return archive.c.archived_at
        if self._database.dialect == "postgresql":
            return cast(func.extract("epoch", cast(table.c.time, TIMESTAMP(timezone=True))), Float)
        return (func.julianday(table.c.time) - _UNIX_EPOCH) * _SECONDS_A_DAY


def _table(place: Place) -> Table:
    return archive if place == "archived" else outbox


def _columns(table: Table, place: Place) -> list[ColumnElement[Any]]:
    names = ("sequence", "id", "type", "time", "partition_key")
    size = func.length(table.c.data).label("size")
    return [*(table.c[name] for name in names), size, _MOVED_AT[place].label("moved_at")]


def _payload(table: Table) -> list[ColumnElement[Any]]:
    return [table.c.content_type, table.c.extensions, table.c.data]


def _record(place: Place, row: Row[Any]) -> OutboxRecord:
    time = datetime.fromisoformat(row.time)
    return OutboxRecord(place, row.sequence, row.id, row.type, time, row.partition_key, row.size, row.moved_at)
