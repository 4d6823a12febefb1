"""BucketClaims: on PostgreSQL a relay locks buckets of keys for as long as it publishes, and any number may run.

A bucket is one of 64 rows; each event belongs to the one of its partition key. The locks are held by the transaction in
which the events are moved when the broker has stored them. There is no leader, no lease and no clock: the locks of a
process that dies end with its connection, those of one that is frozen when the server ends the idle transaction, and what
it says afterwards changes nothing.
"""

import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from mediator.distributed.cloudevents import BUCKETS
from mediator.distributed.outbox import OutboxBatch
from mediator.errors import ClaimLostError, DatabaseConnectionError, SchemaIncompleteError
from mediator.sqlalchemy import moves
from mediator.sqlalchemy.claims import BUSY_PAUSE, ClaimedBatch, Claims, DatabaseClock
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.postgresql import LOCK_NOT_AVAILABLE, sqlstate_of
from mediator.sqlalchemy.schema import buckets, outbox

_SHARE = 16
"""How many buckets a relay takes while there are others: four of them have no need to wait for each other."""

_IS_OURS = buckets.c.bucket.between(0, BUCKETS - 1)
"""Any other row would be locked in place of one that counts."""

_CROWDED_SECONDS = 5.0
_TURN_SECONDS = 1.0


class BucketClaims(Claims):
    """Claims the events of all buckets that are free, or of a share of them while there are other relays.

    That there are others shows when buckets are locked. A relay that finds none free queues for one of them, so that it is
    next, and the one that had all learns of it.

    Args:
        database: The PostgreSQL database.
        clock: What time it is.
        archives: Whether events that were sent go to the archive.
        frozen_seconds: After how long the server ends the transaction of a relay that does nothing, in seconds.
        monotonic: Monotonic time in seconds.
    """

    def __init__(
        self,
        database: Database,
        clock: DatabaseClock,
        *,
        archives: bool,
        frozen_seconds: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._archives = archives
        self._frozen_seconds = frozen_seconds
        self._monotonic = monotonic
        self._crowded_until = -float("inf")
        self._first = 0

    @asynccontextmanager
    async def claim(self, limit: int, without: Collection[str]) -> AsyncGenerator[OutboxBatch, None]:
        """See `Outbox.claim`."""
        async with self._database.writer.connect() as connection:
            await self._begin(connection)
            rows, look_again = await self._select(connection, limit, without)

            @asynccontextmanager
            async def writing() -> AsyncGenerator[AsyncConnection, None]:
                try:
                    yield connection
                except (DBAPIError, DatabaseConnectionError) as error:
                    raise ClaimLostError(str(error.__cause__ or error)) from error

            batch = ClaimedBatch(rows, writing, self._clock, archives=self._archives, look_again=look_again)
            try:
                yield batch
            finally:
                batch.close()
            await connection.commit()

    async def _begin(self, connection: AsyncConnection) -> None:
        """Bound how long others may have to wait, and make delayed events ready in a transaction of their own.

        A bucket without a row looks like one that another relay holds, so the rows are counted, by the same statement.
        """
        due = select(
            moves.is_something_due(self._clock.now()),
            select(func.count()).select_from(buckets).where(_IS_OURS).scalar_subquery(),
            _local("idle_in_transaction_session_timeout", self._frozen_seconds),
            _local("lock_timeout", _TURN_SECONDS),
        )
        is_due, rows, *_ = (await connection.execute(due)).one()
        if rows < BUCKETS:
            raise SchemaIncompleteError(self._database.name, buckets.name, rows, BUCKETS)
        if is_due:
            await moves.release_due(connection, self._clock.now())
            await connection.commit()
            await connection.execute(due)

    async def _select(
        self, connection: AsyncConnection, limit: int, without: Collection[str]
    ) -> tuple[Sequence[Row[Any]], float | None]:
        wanted = _SHARE if self._monotonic() < self._crowded_until else BUCKETS
        held = await self._lock(connection, wanted)
        rows = await _rows(connection, held, limit, without) if held else ()
        if not rows and len(held) == wanted < BUCKETS:
            held |= await self._lock(connection, BUCKETS)
            rows = await _rows(connection, held, limit, without)
            wanted = BUCKETS
        if len(held) < wanted:
            self._crowded_until = self._monotonic() + _CROWDED_SECONDS
        if rows:
            return rows, 0.0 if len(rows) == limit or len(held) < BUCKETS else None
        return rows, None if len(held) == BUCKETS else BUSY_PAUSE

    async def _lock(self, connection: AsyncConnection, wanted: int) -> set[int]:
        """Lock buckets that are free, going round so that each one has its turn; one that is not when none is."""
        place = (buckets.c.bucket + (BUCKETS - self._first)) % BUCKETS
        free = select(buckets.c.bucket).where(_IS_OURS).order_by(place).limit(wanted)
        held = set((await connection.execute(free.with_for_update(skip_locked=True))).scalars())
        if not held:
            held = await self._queue(connection)
        self._first = (self._first + wanted) % BUCKETS
        return held

    async def _queue(self, connection: AsyncConnection) -> set[int]:
        one = select(buckets.c.bucket).where(buckets.c.bucket == self._first).with_for_update()
        try:
            return set((await connection.execute(one)).scalars())
        except DBAPIError as error:
            if sqlstate_of(error.orig) != LOCK_NOT_AVAILABLE:
                raise
        await connection.rollback()
        return set()


def _local(name: str, seconds: float) -> ColumnElement[str]:
    return func.set_config(name, f"{round(seconds * 1000)}ms", True)


async def _rows(
    connection: AsyncConnection, held: Collection[int], limit: int, without: Collection[str]
) -> Sequence[Row[Any]]:
    statement: Select[Any] = moves.publishable(limit, without)
    if len(held) < BUCKETS:
        statement = statement.where(moves.among(outbox.c.bucket, sorted(held), "postgresql"))
    rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
    return rows
