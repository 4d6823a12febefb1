"""Claims: how a relay claims events, so that no other relay publishes them at the same time."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
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
"""Seconds after which a relay that finds everything claimed looks again."""


class ClaimedBatch(OutboxBatch):
    """Events that stay claimed until the `claim` block is left.

    When `application` is given, the batch ends before the first event without a source.

    `writing` opens the transaction in which events are moved: to the archive, if there is one.
    """

    def __init__(
        self,
        rows: Sequence[Row[Any]],
        writing: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        clock: DatabaseClock,
        *,
        archives: bool,
        look_again: float | None,
        application: str | None,
    ) -> None:
        named = rows if application is None else _named(rows)
        self._sequences = {row.id: row.sequence for row in named}
        self._writing = writing
        self._clock = clock
        self._archives = archives
        self.events: Sequence[CloudEvent] = [event_of(row) for row in named]
        self.look_again: float | None = look_again if len(named) == len(rows) else BUSY_PAUSE
        self._open = True

    def close(self) -> None:
        """End the claim: the events can no longer be settled or parked."""
        self._open = False

    async def settle(self, ids: Collection[str], /) -> None:
        sequences = [self._sequences[event_id] for event_id in ids]
        self._check_open()
        async with self._writing() as connection:
            if self._archives:
                moved = await statements.to_archive(connection, sequences, self._clock.offset)
            else:
                moved = await statements.delete_sent(connection, sequences)
            self._check_moved(moved, len(sequences))

    async def park(self, event: CloudEvent, /, reason: str, error: str) -> None:
        sequence = self._sequences[event.id]
        self._check_open()
        async with self._writing() as connection:
            moved = await statements.to_parked(
                connection, event, sequence, now=self._clock.now(), reason=reason, error=error
            )
            self._check_moved(moved, 1)

    def _check_open(self) -> None:
        if not self._open:
            raise ClaimLostError("the batch was left")

    def _check_moved(self, moved: int, expected: int) -> None:
        if moved != expected:
            raise ClaimLostError(f"{expected - moved} of {expected} events are not there any more")


def _named(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """Return the rows before the first row without a source.

    An event is not published before its source is committed. A row that was added after the others got their source
    waits for the next claim, and so do the rows after it.
    """
    unnamed = next((index for index, row in enumerate(rows) if not row.source), len(rows))
    return rows[:unnamed]


class Claims(ABC):
    """Claims events for one relay; no other relay gets them while the claim is held.

    With `archives`, published events go to the archive; otherwise they are deleted.
    """

    def __init__(self, database: Database, clock: DatabaseClock, *, archives: bool) -> None:
        self._database = database
        self._clock = clock
        self._archives = archives

    @abstractmethod
    def claim(self, limit: int, without: Collection[str]) -> AbstractAsyncContextManager[OutboxBatch]: ...

    def _batch(
        self,
        rows: Sequence[Row[Any]],
        look_again: float | None,
        writing: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
    ) -> ClaimedBatch:
        application = self._database.application
        return ClaimedBatch(
            rows, writing, self._clock, archives=self._archives, look_again=look_again, application=application
        )


class RelayFileClaims(Claims):
    """Claims all events or none: one relay at a time holds the relay lock file of an SQLite database."""

    def __init__(self, database: SqliteDatabase, clock: DatabaseClock, *, archives: bool) -> None:
        super().__init__(database, clock, archives=archives)
        self._relaying = database.relaying

    @asynccontextmanager
    async def claim(self, limit: int, without: Collection[str]) -> AsyncGenerator[OutboxBatch, None]:
        writing = self._database.writing
        async with self._relaying() as alone:
            batch = await self._select(limit, without) if alone else self._batch((), BUSY_PAUSE, writing)
            try:
                yield batch
            finally:
                batch.close()

    async def _select(self, limit: int, without: Collection[str]) -> ClaimedBatch:
        application = self._database.application
        asked = select(statements.is_something_due(self._clock.now()), statements.is_something_unnamed())
        async with self._database.reader.connect() as connection:
            due, unnamed = (await connection.execute(asked)).one()
            unnamed = unnamed and application is not None
            rows = () if due or unnamed else (await connection.execute(statements.publishable(limit, without))).all()
        if due or unnamed:
            async with self._database.writing() as connection:
                await statements.release_due(connection, self._clock.now())
                while application is not None and await statements.name_events(connection, application):
                    pass
                rows = (await connection.execute(statements.publishable(limit, without))).all()
        return self._batch(rows, 0.0 if len(rows) == limit else None, self._database.writing)


_SHARE = 16
"""How many buckets a relay takes while there are other relays, so that four relays need not wait for each other."""

_IS_OURS = buckets.c.bucket.between(0, BUCKETS - 1)
"""Excludes rows with other numbers, which would be locked in place of a real bucket."""

_CROWDED_SECONDS = 5.0
_TURN_SECONDS = 1.0


class BucketClaims(Claims):
    """Claims the events of all free buckets, or of a share of the buckets while there are other relays.

    A relay notices other relays when it finds buckets locked. A relay that finds no free bucket waits for the lock of
    one, so that it gets that bucket next, and the relay that held all buckets notices it in turn.

    Args:
        frozen_seconds: Seconds after which the server ends the transaction of a relay that executes nothing.
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
        async with self._database.writer.connect() as connection:
            await self._begin(connection)
            rows, look_again = await self._select(connection, limit, without)

            @asynccontextmanager
            async def writing() -> AsyncGenerator[AsyncConnection, None]:
                try:
                    yield connection
                except (DBAPIError, DatabaseConnectionError) as error:
                    raise ClaimLostError(str(error.__cause__ or error)) from error

            batch = self._batch(rows, look_again, writing)
            try:
                yield batch
            finally:
                batch.close()
            await connection.commit()

    async def _begin(self, connection: AsyncConnection) -> None:
        """Begin the transaction of a claim, after preparing the outbox in transactions of its own.

        The server bounds how long the claim waits for a lock, and how long others wait for a relay that is frozen.

        The preparation releases delayed events that are due, and gives events without a source the name of the
        application. It commits before the claim, because a source never changes once its event may have been published.

        The same statement counts the rows of the buckets: a missing row would look like a bucket that another relay
        holds.

        Raises:
            SchemaError: The table of buckets lacks rows.
        """
        due = select(
            statements.is_something_due(self._clock.now()),
            statements.is_something_unnamed(),
            select(func.count()).select_from(buckets).where(_IS_OURS).scalar_subquery(),
            _local("idle_in_transaction_session_timeout", self._frozen_seconds),
            _local("lock_timeout", _TURN_SECONDS),
        )
        is_due, is_unnamed, rows, *_ = (await connection.execute(due)).one()
        application = self._database.application
        if rows < BUCKETS:
            raise misuse.no_rows(self._database.name, buckets.name, rows, BUCKETS)
        if is_due:
            await statements.release_due(connection, self._clock.now())
        if is_unnamed and application is not None:
            while await statements.name_events(connection, application):
                await connection.commit()
        if is_due or (is_unnamed and application is not None):
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
        """Lock up to `wanted` free buckets and return them; when none is free, wait for one.

        Each call begins after the buckets of the last one, so that every bucket is served.
        """
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
    statement: Select[Any] = statements.publishable(limit, without)
    if len(held) < BUCKETS:
        statement = statement.where(statements.among(outbox.c.bucket, sorted(held), "postgresql"))
    rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
    return rows
