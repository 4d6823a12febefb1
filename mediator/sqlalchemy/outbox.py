"""SqlAlchemyOutbox: stores the outbox and its archive in tables of the application's database."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextvars import Context
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, Row, Table, and_, cast, func, literal, select
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.blocks import asynccontextmanager
from mediator.distributed.cloudevents import LONGEST_APPLICATION, CloudEvent
from mediator.distributed.outbox import (
    ARCHIVE_SECONDS,
    Doorbell,
    Erased,
    Outbox,
    OutboxBatch,
    OutboxContents,
    OutboxCount,
    OutboxFilter,
    OutboxRecord,
    Place,
    check_partition_key,
)
from mediator.distributed.storable import is_storable
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import not_found
from mediator.owner import Owner
from mediator.settings import check_not_negative, check_positive, check_texts
from mediator.sqlalchemy import statements
from mediator.sqlalchemy.claims import BucketClaims, Claims, RelayFileClaims
from mediator.sqlalchemy.database import Database, DatabaseClock
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.parking import own_connection
from mediator.sqlalchemy.schema import archive, event_of, outbox
from mediator.sqlalchemy.sqlite import SqliteDatabase
from mediator.sqlalchemy.statements import among, is_one_of_texts, is_text, starts_with

_UNIX_EPOCH = 2440587.5
_SECONDS_A_DAY = 86400.0


class SqlAlchemyOutboxContents(OutboxContents):
    """Reads the outbox and the archive of one database; `SqlAlchemyOutbox.contents` returns this object.

    Each method raises `SchemaError` when the tables do not exist.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, which: OutboxFilter, /, *, after: int = 0, limit: int = 100) -> Sequence[OutboxRecord]:
        table = _table(which.place)
        chosen = select(*_columns(table)).where(self._matches(table, which), table.c.sequence > after)
        rows = await self._rows(chosen.order_by(table.c.sequence).limit(limit))
        return [self._record(which.place, row) for row in rows]

    async def count(self, which: OutboxFilter, /) -> OutboxCount:
        table = _table(which.place)
        oldest = func.min(self._time(table)).label("oldest")
        counting = select(func.count().label("events"), oldest).where(self._matches(table, which))
        [row] = await self._rows(counting.select_from(table))
        return OutboxCount(int(row.events), None if row.oldest is None else round(row.oldest, 3))

    async def get(self, event_id: str, /) -> tuple[OutboxRecord, CloudEvent]:
        for table in (outbox, archive):  # in this order: an event may move to the archive between the queries
            payload = (table.c.content_type, table.c.extensions, table.c.data)
            wanted = select(*_columns(table), *payload).where(is_one_of_texts(table.c.id, (event_id,)))
            for row in await self._rows(wanted.order_by(table.c.sequence).limit(1)):
                return self._record(_place(table, row), row), event_of(row, self._database.application)
        raise not_found.no_event_in_outbox(event_id)

    async def archived(self, sequences: Sequence[int], /) -> Sequence[CloudEvent]:
        chosen = select(archive).where(among(archive.c.sequence, sequences, self._database.dialect))
        rows = await self._rows(chosen.order_by(archive.c.sequence))
        return [event_of(row, self._database.application) for row in rows]

    async def _rows(self, statement: Any) -> Sequence[Row[Any]]:
        async with self._database.reader.connect() as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
        return rows

    def _matches(self, table: Table, which: OutboxFilter) -> ColumnElement[bool]:
        wanted = {"type": which.type, "partition_key": which.key}
        conditions = [is_text(table.c[name], value) for name, value in wanted.items() if value is not None]
        if which.place != "archived":
            due = outbox.c.deliver_at
            conditions.append(due.is_(None) if which.place == "waiting" else due.is_not(None))
        if which.domain is not None:
            conditions.append(starts_with(table.c.type, f"{which.domain}."))
        if which.ids is not None:
            conditions.append(is_one_of_texts(table.c.id, which.ids))
        if which.since is not None:
            conditions.append(self._time(table) >= which.since)
        return and_(literal(value=True), *conditions)

    def _time(self, table: Table) -> ColumnElement[Any]:
        """Return an SQL expression for the time of an event, in seconds since the epoch.

        In the archive, this is the time at which the event was archived. In the outbox, this is the event's own time.
        """
        if table is archive:
            return archive.c.archived_at
        if self._database.dialect == "postgresql":
            return cast(func.extract("epoch", cast(table.c.time, TIMESTAMP(timezone=True))), Float)
        return (func.julianday(table.c.time) - _UNIX_EPOCH) * _SECONDS_A_DAY

    def _record(self, place: Place, row: Row[Any]) -> OutboxRecord:
        return OutboxRecord(
            place=place,
            sequence=row.sequence,
            id=row.id,
            type=row.type,
            time=datetime.fromisoformat(row.time),
            partition_key=row.partition_key or None,
            size=row.size,
            moved_at=row.moved_at,
            source=row.source or self._database.application or "",
        )


def _table(place: Place) -> Table:
    return archive if place == "archived" else outbox


def _place(table: Table, row: Row[Any]) -> Place:
    if table is archive:
        return "archived"
    return "waiting" if row.moved_at is None else "delayed"


def _columns(table: Table) -> list[ColumnElement[Any]]:
    names = ("sequence", "id", "source", "type", "time", "partition_key")
    size = func.length(table.c.data).label("size")
    moved_at = table.c.archived_at if table is archive else table.c.deliver_at
    return [*(table.c[name] for name in names), size, moved_at.label("moved_at")]


_RING_PAUSE = 0.1
"""If a ring of the doorbell led to no events, further rings wake the relay only after this pause, in seconds."""


class SqlAlchemyOutbox(Outbox):
    """Stores the outbox in the database of the unit of work.

    Declare it with the engine of the unit of work: `outbox = providers.Singleton(SqlAlchemyOutbox, engine)`. On SQLite,
    only one relay at a time publishes: the relay that holds the lock file `<database>.relay`. This relay keeps no
    transaction open while it publishes. On PostgreSQL, any number of relays divide the events among themselves by
    partition key. Each method that queries the database raises `SchemaError` when the tables do not exist.

    Args:
        engine: From `open_engine`.
        archive_seconds: How long published events are kept, in seconds; 72 hours by default. Kept events can be
            published again to a broker that lost its data. 0 keeps no events.
        doorbell: A signal between processes. When this process commits events, the doorbell wakes the relays of other
            processes. When another process commits events, the doorbell wakes the relay of this process.
        frozen_seconds: Seconds after which PostgreSQL ends the claim of a relay whose process is frozen. Use more than
            the `batch_timeout` of the relay, since a relay that waits for a slow broker looks frozen to PostgreSQL.
            Events of an ended claim are published again.
        application: The name of this application, which is stored as the source of the application's events. Give the
            name here, and not to the publisher. A stored event keeps its source even when the application is renamed.
        clock_offset: Returns seconds to add to the time of the database, for tests. The clock of this process is not
            used.

    Raises:
        SettingError: A number is out of range, or the name of the application is not valid.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        application: str | None = None,
        archive_seconds: float = ARCHIVE_SECONDS,
        doorbell: Doorbell | None = None,
        frozen_seconds: float = 10.0,
        clock_offset: Callable[[], float] | None = None,
    ) -> None:
        if application is not None:
            check_texts(longest=LONGEST_APPLICATION, application=application)
        check_not_negative(archive_seconds=archive_seconds)
        check_positive(frozen_seconds=frozen_seconds, at_most=_SECONDS_A_DAY)
        database = self._database = database_of(engine)
        self._archive_seconds = archive_seconds
        if application is not None:
            database.application = application
        self._clock = DatabaseClock(database.dialect, clock_offset)
        self._claims: Claims = (
            RelayFileClaims(database, self._clock, archives=archive_seconds > 0)
            if isinstance(database, SqliteDatabase)
            else BucketClaims(database, self._clock, archives=archive_seconds > 0, frozen_seconds=frozen_seconds)
        )
        self._owner = Owner("The outbox")
        self._wake = asyncio.Event()
        self._rings = _Rings(lambda: self._wake.set())  # noqa: PLW0108  (`_wake` is replaced in another loop)
        database.listen(self._wake)
        if doorbell is not None:
            doorbell.on_ring(self._rings.heard)
            self._bell = _Bell(doorbell)
            database.listen(self._bell)

    @property
    def application(self) -> str | None:
        return self._database.application

    def use_application(self, application: str | None, /) -> None:
        super().use_application(application)
        self._database.application = self._database.application or application

    def wake(self) -> None:
        self._check_owner()
        self._wake.set()

    def _check_owner(self) -> None:
        self._database.owner.check()
        if self._owner.check():
            self._wake = asyncio.Event()  # an `asyncio.Event` of another event loop cannot be awaited
            self._database.listen(self._wake)

    async def wait(self, seconds: float, /) -> None:
        self._check_owner()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    @asynccontextmanager
    async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncGenerator[OutboxBatch, None]:
        """Claim the oldest events, at most `limit`. Events of the domains in `without` are left out.

        Raises:
            SchemaError: A table does not exist; or, on PostgreSQL, the table of buckets lacks rows. No event is claimed
                until the table and its rows exist.
        """
        self._check_owner()
        self._wake.clear()
        self._rings.answered()
        async with self._claims.claim(limit, without) as batch:
            self._rings.found(bool(batch.events))
            yield batch

    async def due_in(self) -> float | None:
        async with self._database.reader.connect() as connection:
            seconds = (await connection.execute(select(statements.first_due() - self._clock.now()))).scalar_one()
        return None if seconds is None else max(0.0, float(seconds))

    @property
    def contents(self) -> SqlAlchemyOutboxContents:
        return SqlAlchemyOutboxContents(self._database)

    async def pending(self) -> int:
        """Return how many events wait, including delayed events and events behind a refused (parked) event of their key."""
        async with self._database.reader.connect() as connection:
            return int((await connection.execute(select(func.count()).select_from(outbox))).scalar_one())

    async def clean(self, limit: int, /) -> int:
        cutoff = self._clock.now() - self._archive_seconds
        async with self._database.writing() as connection:
            return await statements.delete_some(connection, archive, archive.c.archived_at < cutoff, limit)

    async def cancel(self, event_id: str, /, *, unit_of_work: UnitOfWork | None = None) -> bool:
        if not is_storable(event_id):
            return False
        if unit_of_work is None:
            async with self._database.writing() as connection:
                return await statements.cancel(connection, event_id)
        return await statements.cancel(await own_connection(self, self._database, unit_of_work), event_id)

    async def erase(self, partition_key: str, /) -> Erased:
        check_partition_key(partition_key)
        if not is_storable(partition_key):
            return Erased(0, 0, 0)
        async with self._database.writing() as connection:
            erased = await statements.erase(connection, partition_key)
        self._database.wake()
        return erased


class _Rings:
    """Wakes the relay when a doorbell rings: at once, or after a short delay if the last ring led to no events.

    Each wake costs a query, and any client that may publish to the doorbell's subject can ring at any rate. The delay
    bounds the rate of the queries. Commits of this process wake the relay without a ring.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._wake_is_scheduled = False
        self._woken = False
        self._is_answering = False
        self._found_nothing = False
        self._not_before = 0.0

    def heard(self) -> None:
        """Wake the relay, now or after the delay. The doorbell calls this method for each ring."""
        pause = self._not_before - time.monotonic()
        if pause <= 0:
            self._wake_relay()
        elif not self._wake_is_scheduled:
            self._wake_is_scheduled = True
            asyncio.get_running_loop().call_later(pause, self._wake_relay, context=Context())

    def answered(self) -> None:
        """Record that the relay now queries the outbox."""
        self._is_answering, self._woken = self._woken, False

    def found(self, something: bool) -> None:
        """Record whether the relay's query found events."""
        if something:
            self._found_nothing, self._not_before = False, 0.0
        elif self._is_answering:
            self._found_nothing, self._not_before = True, time.monotonic() + _RING_PAUSE

    def _wake_relay(self) -> None:
        self._wake_is_scheduled = False
        self._woken = True
        if self._found_nothing:  # a ring that arrives during the next query must not cause another query at once
            self._not_before = time.monotonic() + _RING_PAUSE
        self._wake()


class _Bell(asyncio.Event):
    """An `asyncio.Event` that rings a doorbell when it is set. `Database.listen` accepts only an `asyncio.Event`."""

    def __init__(self, doorbell: Doorbell) -> None:
        super().__init__()
        self._doorbell = doorbell

    def set(self) -> None:
        """Ring the doorbell. This `asyncio.Event` itself stays unset, since no task waits for it."""
        self._doorbell.ring()
