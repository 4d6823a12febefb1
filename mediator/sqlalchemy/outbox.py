"""SqlAlchemyOutbox: the outbox in a table of the application's database."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, and_, delete, func, insert, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import Outbox, OutboxBatch
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.schema import archive, outbox


class SqlAlchemyOutbox(Outbox):
    """`outbox = providers.Singleton(SqlAlchemyOutbox, engine)`, on the engine of the unit of work.

    On SQLite one relay at a time holds the lock file `<database>.relay`; it publishes without a transaction.

    Args:
        engine: From `open_engine`.
        archive_seconds: How long published events are kept, to fill a broker again that lost them; 72 hours.
        clock: The time in seconds since the epoch.
    """

    def __init__(
        self, engine: AsyncEngine, *, archive_seconds: float = 72 * 3600, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database_of(engine)
        self._archive_seconds = archive_seconds
        self._clock = clock
        self._wake = asyncio.Event()
        self._database.listen(self._wake)

    def wake(self) -> None:
        """See `Outbox.wake`."""
        self._database.wake()

    async def wait(self, seconds: float, /) -> None:
        """See `Outbox.wait`."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    @asynccontextmanager
    async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncGenerator[OutboxBatch, None]:
        """See `Outbox.claim`."""
        self._wake.clear()
        async with self._database.relaying() as alone:
            rows = await self._select(limit, without) if alone else ()
            yield _Batch(self._database, self._clock, rows)

    async def pending(self) -> int:
        """How many events wait."""
        async with self._database.reader.connect() as connection:
            return int((await connection.execute(select(func.count()).select_from(outbox))).scalar_one())

    async def _select(self, limit: int, without: Collection[str]) -> Sequence[Row[Any]]:
        statement = select(outbox).order_by(outbox.c.sequence).limit(limit)
        if without:
            statement = statement.where(_neither_id_nor_key(without))
        async with self._database.reader.connect() as connection:
            return (await connection.execute(statement)).all()

    async def clean(self, limit: int, /) -> int:
        """See `Outbox.clean`."""
        cutoff = self._clock() - self._archive_seconds
        old = select(archive.c.sequence).where(archive.c.archived_at < cutoff).limit(limit)
        async with self._database.writing() as connection:
            return (await connection.execute(delete(archive).where(archive.c.sequence.in_(old)))).rowcount


class _Batch(OutboxBatch):
    def __init__(self, database: Database, clock: Callable[[], float], rows: Sequence[Row[Any]]) -> None:
        self._database = database
        self._clock = clock
        self._sequences = {row.id: row.sequence for row in rows}
        self.events = [_event(row) for row in rows]

    async def settle(self, ids: Collection[str], /) -> None:
        chosen = outbox.c.sequence.in_([self._sequences[event_id] for event_id in ids])
        columns = [column.name for column in outbox.columns if column.name in archive.columns]
        moved = select(*(outbox.c[name] for name in columns), literal(self._clock())).where(chosen)
        async with self._database.writing() as connection:
            await connection.execute(insert(archive).from_select([*columns, "archived_at"], moved))
            await connection.execute(delete(outbox).where(chosen))


def _neither_id_nor_key(values: Collection[str]) -> ColumnElement[bool]:
    no_such_key = or_(outbox.c.partition_key.is_(None), outbox.c.partition_key.not_in(values))
    return and_(outbox.c.id.not_in(values), no_such_key)


def _event(row: Row[Any]) -> CloudEvent:
    return CloudEvent(
        id=row.id,
        type=row.type,
        time=datetime.fromisoformat(row.time),
        data=row.data,
        datacontenttype=row.content_type,
        partitionkey=row.partition_key,
        extensions=msgspec.json.decode(row.extensions, type=dict[str, str]),
    )
