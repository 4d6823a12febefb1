"""RelayFileClaims: on SQLite one relay at a time holds the lock file `<database>.relay`.

It publishes without a transaction, so that writers go on, and moves what was sent in a short one of its own.
"""

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Row, select

from mediator.distributed.outbox import OutboxBatch
from mediator.sqlalchemy import moves
from mediator.sqlalchemy.claims import BUSY_PAUSE, ClaimedBatch, Claims, DatabaseClock
from mediator.sqlalchemy.sqlite import SqliteDatabase


class RelayFileClaims(Claims):
    """Claims all events or none.

    Args:
        database: The SQLite file.
        clock: What time it is.
        archives: Whether events that were sent go to the archive.
    """

    def __init__(self, database: SqliteDatabase, clock: DatabaseClock, *, archives: bool) -> None:
        self._database = database
        self._clock = clock
        self._archives = archives

    @asynccontextmanager
    async def claim(self, limit: int, without: Collection[str]) -> AsyncGenerator[OutboxBatch, None]:
        """See `Outbox.claim`."""
        async with self._database.relaying() as alone:
            batch = await self._select(limit, without) if alone else self._batch((), BUSY_PAUSE)
            try:
                yield batch
            finally:
                batch.close()

    async def _select(self, limit: int, without: Collection[str]) -> ClaimedBatch:
        async with self._database.reader.connect() as connection:
            due = (await connection.execute(select(moves.is_something_due(self._clock.now())))).scalar_one()
            rows = () if due else (await connection.execute(moves.publishable(limit, without))).all()
        if due:
            async with self._database.writing() as connection:
                await moves.release_due(connection, self._clock.now())
                rows = (await connection.execute(moves.publishable(limit, without))).all()
        return self._batch(rows, 0.0 if len(rows) == limit else None)

    def _batch(self, rows: Sequence[Row[Any]], look_again: float | None) -> ClaimedBatch:
        return ClaimedBatch(rows, self._database.writing, self._clock, archives=self._archives, look_again=look_again)
