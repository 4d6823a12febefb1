"""Claims: how a relay claims events, so that no other relay publishes the same events at the same time."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import takewhile
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from mediator.blocks import asynccontextmanager
from mediator.distributed.cloudevents import BUCKETS, CloudEvent
from mediator.distributed.outbox import OutboxBatch
from mediator.errors import ClaimLostError, DatabaseConnectionError, misuse
from mediator.sqlalchemy import statements
from mediator.sqlalchemy.database import Database, DatabaseClock
from mediator.sqlalchemy.postgresql import LOCK_NOT_AVAILABLE, sqlstate_of
from mediator.sqlalchemy.schema import buckets, event_of, outbox
from mediator.sqlalchemy.sqlite import SqliteDatabase

BUSY_PAUSE = 0.05
"""When other relays have claimed all events, a relay claims again after this time, in seconds."""


class Claims(ABC):
    """Claims events for one relay. No other relay can claim these events until the `claim` block ends.

    If `archives` is true, published events are moved to the archive. If `archives` is false, the events are deleted.
    """

    def __init__(self, database: Database, clock: DatabaseClock, *, archives: bool) -> None:
        self.database = database
        self.clock = clock
        self.archives = archives

    @abstractmethod
    def claim(self, limit: int, without: Collection[str]) -> AbstractAsyncContextManager[OutboxBatch]: ...


class ClaimedBatch(OutboxBatch):
    """Events that stay claimed until the `claim` block ends.

    `settle` and `park` write on the connection that `writing` yields. While more events wait, the next claim follows
    after `look_again` seconds. When no more events wait, `look_again` is `None`.
    """

    def __init__(
        self,
        claims: Claims,
        rows: Sequence[Row[Any]],
        look_again: float | None,
        writing: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
    ) -> None:
        # An event is published only after its source (the application's name) is committed. The claim has committed the
        # missing sources, but a row without a source may have been added since. This row and all later rows wait.
        knows_source = claims.database.application is not None
        ready = list(takewhile(lambda row: row.source, rows)) if knows_source else rows
        self._claims = claims
        self._sequences = {row.id: row.sequence for row in ready}
        self._writing = writing
        self.events: Sequence[CloudEvent] = [event_of(row) for row in ready]
        self.look_again: float | None = look_again if len(ready) == len(rows) else BUSY_PAUSE
        self._open = True

    def close(self) -> None:
        """End the claim, so that `settle` and `park` raise a `ClaimLostError`."""
        self._open = False

    async def settle(self, ids: Collection[str], /) -> None:
        sequences = [self._sequences[event_id] for event_id in ids]
        self._check_open()
        async with self._writing() as connection:
            if self._claims.archives:
                moved = await statements.to_archive(connection, sequences, self._claims.clock.offset)
            else:
                moved = await statements.delete_sent(connection, sequences)
            self._check_moved(moved, len(sequences))

    async def park(self, event: CloudEvent, /, reason: str, error: str) -> None:
        sequence = self._sequences[event.id]
        self._check_open()
        async with self._writing() as connection:
            now = self._claims.clock.now()
            moved = await statements.to_parked(connection, event, sequence, now=now, reason=reason, error=error)
            self._check_moved(moved, 1)

    def _check_open(self) -> None:
        if not self._open:
            raise ClaimLostError("the `claim` block has ended")

    def _check_moved(self, moved: int, expected: int) -> None:
        if moved != expected:
            raise ClaimLostError(f"{expected - moved} of {expected} events are no longer in the outbox")


class RelayFileClaims(Claims):
    """Claims events of an SQLite database, but only while the relay has locked the file `<database>.relay`."""

    def __init__(self, database: SqliteDatabase, clock: DatabaseClock, *, archives: bool) -> None:
        super().__init__(database, clock, archives=archives)
        self._relaying = database.relaying

    @asynccontextmanager
    async def claim(self, limit: int, without: Collection[str]) -> AsyncGenerator[OutboxBatch, None]:
        async with self._relaying() as alone:
            rows, look_again = await self._select(limit, without) if alone else ((), BUSY_PAUSE)
            batch = ClaimedBatch(self, rows, look_again, self.database.writing)
            try:
                yield batch
            finally:
                batch.close()

    async def _select(self, limit: int, without: Collection[str]) -> tuple[Sequence[Row[Any]], float | None]:
        application = self.database.application
        asked = select(statements.is_something_due(self.clock.now()), statements.is_something_unnamed())
        async with self.database.reader.connect() as connection:
            due, unnamed = (await connection.execute(asked)).one()
            unnamed = unnamed and application is not None
            rows = () if due or unnamed else (await connection.execute(statements.publishable(limit, without))).all()
        if due or unnamed:
            async with self.database.writing() as connection:
                await statements.release_due(connection, self.clock.now())
                while application is not None and await statements.name_events(connection, application):
                    pass
                rows = (await connection.execute(statements.publishable(limit, without))).all()
        return rows, 0.0 if len(rows) == limit else None


_SHARE = 16
"""The number of buckets (see `BucketClaims`) that a relay locks while other relays are active.

This is a quarter of all buckets, so that four relays can claim concurrently.
"""

_IS_VALID = buckets.c.bucket.between(0, BUCKETS - 1)
"""Matches the rows with a valid bucket number. Relays lock no other rows."""

_CROWDED_SECONDS = 5.0
"""Seconds for which a relay locks only `_SHARE` buckets after it has noticed another relay."""
_LOCK_SECONDS = 1.0
"""Seconds that a relay waits for the lock of a bucket when other relays have locked all buckets."""


class BucketClaims(Claims):
    """Claims the events of buckets. A hash of the partition key decides to which bucket an event belongs.

    A relay locks the rows of buckets, and claims only events of the locked buckets. A relay that is alone locks all 64
    buckets. If a relay finds a locked bucket, the relay assumes for some seconds that other relays are active, and
    locks fewer buckets. Example: the first relay has locked all buckets. A second relay waits for one bucket, and gets
    the bucket when the first relay ends its claim. At the next claim, the first relay finds this bucket locked, and
    leaves some buckets to the second relay. If a relay executes no statement for `frozen_seconds`, the server ends the
    relay's transaction.
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
        super().__init__(database, clock, archives=archives)
        self._frozen_seconds = frozen_seconds
        self._monotonic = monotonic
        self._crowded_until = -float("inf")
        self._first = 0

    @asynccontextmanager
    async def claim(self, limit: int, without: Collection[str]) -> AsyncGenerator[OutboxBatch, None]:
        async with self.database.writer.connect() as connection:
            await self._begin(connection)
            rows, look_again = await self._select(connection, limit, without)

            @asynccontextmanager
            async def writing() -> AsyncGenerator[AsyncConnection, None]:
                try:
                    yield connection
                except (DBAPIError, DatabaseConnectionError) as error:
                    raise ClaimLostError(str(error.__cause__ or error)) from error

            batch = ClaimedBatch(self, rows, look_again, writing)
            try:
                yield batch
            finally:
                batch.close()
            await connection.commit()

    async def _begin(self, connection: AsyncConnection) -> None:
        """Prepare the outbox, and begin the transaction of a claim.

        The preparation releases delayed events that are due. Events without a source get the name of the application as
        their source. These changes are committed before the claim begins. Otherwise, a rollback of the claim would
        remove the source of events that are already published.

        During the claim, the server limits how long a statement waits for a lock. The server also ends the transaction
        of a frozen relay, so that other relays do not wait for the frozen relay.

        The first statement also counts the rows of the table of buckets. If a row is missing, a `SchemaError` is
        raised. Without this error, the missing row would look like a bucket that another relay has locked.
        """
        due = select(
            statements.is_something_due(self.clock.now()),
            statements.is_something_unnamed(),
            select(func.count()).select_from(buckets).where(_IS_VALID).scalar_subquery(),
            _set_local("idle_in_transaction_session_timeout", self._frozen_seconds),
            _set_local("lock_timeout", _LOCK_SECONDS),
        )
        is_due, is_unnamed, rows, *_ = (await connection.execute(due)).one()
        application = self.database.application
        if rows < BUCKETS:
            raise misuse.no_rows(self.database.name, buckets.name, rows, BUCKETS)
        if is_due:
            await statements.release_due(connection, self.clock.now())
        if is_unnamed and application is not None:
            while await statements.name_events(connection, application):
                await connection.commit()
        if is_due or (is_unnamed and application is not None):
            await connection.commit()
            await connection.execute(due)

    async def _select(
        self, connection: AsyncConnection, limit: int, without: Collection[str]
    ) -> tuple[Sequence[Row[Any]], float | None]:
        """Lock buckets. Return the oldest events of the locked buckets, and the `look_again` of the batch."""
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
        """Lock up to `wanted` free buckets, and return their numbers. When no bucket is free, wait for one bucket.

        The next call begins with the bucket after these `wanted` buckets. A relay that locks only some buckets thereby
        reaches all buckets in turn.
        """
        place = (buckets.c.bucket + (BUCKETS - self._first)) % BUCKETS
        unlocked = select(buckets.c.bucket).where(_IS_VALID).order_by(place).limit(wanted)
        held = set((await connection.execute(unlocked.with_for_update(skip_locked=True))).scalars())
        if not held:
            held = await self._wait_for_one(connection)
        self._first = (self._first + wanted) % BUCKETS
        return held

    async def _wait_for_one(self, connection: AsyncConnection) -> set[int]:
        """Wait for one bucket's lock. Return a set with the bucket's number, or an empty set after `_LOCK_SECONDS`."""
        one = select(buckets.c.bucket).where(buckets.c.bucket == self._first).with_for_update()
        try:
            return set((await connection.execute(one)).scalars())
        except DBAPIError as error:
            if sqlstate_of(error.orig) != LOCK_NOT_AVAILABLE:
                raise
        await connection.rollback()
        return set()


def _set_local(name: str, seconds: float) -> ColumnElement[str]:
    return func.set_config(name, f"{round(seconds * 1000)}ms", True)


async def _rows(
    connection: AsyncConnection, held: Collection[int], limit: int, without: Collection[str]
) -> Sequence[Row[Any]]:
    statement: Select[Any] = statements.publishable(limit, without)
    if len(held) < BUCKETS:
        statement = statement.where(statements.among(outbox.c.bucket, sorted(held), "postgresql"))
    rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
    return rows
