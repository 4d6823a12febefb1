"""SqlAlchemyOutbox: the outbox in a table of the application's database."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.bounds import check_not_negative, check_positive
from mediator.distributed.doorbell import Doorbell
from mediator.distributed.identity import is_storable
from mediator.distributed.outbox import Erased, Outbox, OutboxBatch
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.sqlalchemy import moves
from mediator.sqlalchemy.buckets import BucketClaims
from mediator.sqlalchemy.claims import Claims, DatabaseClock
from mediator.sqlalchemy.contents import SqlAlchemyOutboxContents
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.parking import own_connection
from mediator.sqlalchemy.relay_file import RelayFileClaims
from mediator.sqlalchemy.schema import archive, outbox
from mediator.sqlalchemy.sqlite import SqliteDatabase

_DAY = 86_400.0


class SqlAlchemyOutbox(Outbox):
    """`outbox = providers.Singleton(SqlAlchemyOutbox, engine)`, on the engine of the unit of work.

    On SQLite one relay at a time holds the lock file `<database>.relay`; it publishes without a transaction. On PostgreSQL
    any number of relays share the events out by their partition keys. Each method that asks the database raises
    `SchemaMissingError` when the tables are not there.

    Args:
        engine: From `open_engine`.
        archive_seconds: How long published events are kept, to fill a broker again that lost them; 72 hours. 0 keeps none.
        doorbell: Wakes the relays of other processes after a commit of this one, and those of this one after theirs.
        frozen_seconds: After how many seconds PostgreSQL takes the events from a relay whose process is frozen.
        clock: The time in seconds since the epoch. By default that of the PostgreSQL server, or of this machine on SQLite.

    Raises:
        SettingError: A number cannot work.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        archive_seconds: float = 72 * 3600,
        doorbell: Doorbell | None = None,
        frozen_seconds: float = 10.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        check_not_negative(archive_seconds=archive_seconds)
        check_positive(frozen_seconds=frozen_seconds, at_most=_DAY)
        database = self._database = database_of(engine)
        self._archive_seconds = archive_seconds
        self._clock = DatabaseClock(database.dialect, clock)
        self._claims: Claims = (
            RelayFileClaims(database, self._clock, archives=archive_seconds > 0)
            if isinstance(database, SqliteDatabase)
            else BucketClaims(database, self._clock, archives=archive_seconds > 0, frozen_seconds=frozen_seconds)
        )
        self._wake = asyncio.Event()
        database.listen(self._wake)
        if doorbell is not None:
            doorbell.on_ring(self._wake.set)
            self._bell = _Bell(doorbell)
            database.listen(self._bell)

    def wake(self) -> None:
        """See `Outbox.wake`."""
        self._wake.set()

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
        """See `Outbox.claim`.

        Raises:
            SchemaMissingError: A table does not exist.
            SchemaIncompleteError: The table of buckets lacks rows, on PostgreSQL: nothing is claimed until they are there.
        """
        self._wake.clear()
        async with self._claims.claim(limit, without) as batch:
            yield batch

    async def due_in(self) -> float | None:
        """See `Outbox.due_in`."""
        async with self._database.reader.connect() as connection:
            seconds = (await connection.execute(select(moves.first_due() - self._clock.now()))).scalar_one()
        return None if seconds is None else max(0.0, float(seconds))

    @property
    def contents(self) -> SqlAlchemyOutboxContents:
        """See `Outbox.contents`."""
        return SqlAlchemyOutboxContents(self._database)

    async def pending(self) -> int:
        """How many events wait, delayed ones and those behind a refused event among them."""
        async with self._database.reader.connect() as connection:
            return int((await connection.execute(select(func.count()).select_from(outbox))).scalar_one())

    async def clean(self, limit: int, /) -> int:
        """See `Outbox.clean`."""
        cutoff = self._clock.now() - self._archive_seconds
        old = select(archive.c.sequence).where(archive.c.archived_at < cutoff).limit(limit)
        async with self._database.writing() as connection:
            return (await connection.execute(delete(archive).where(archive.c.sequence.in_(old)))).rowcount

    async def cancel(self, event_id: str, /, *, unit_of_work: UnitOfWork | None = None) -> bool:
        """See `Outbox.cancel`."""
        if not is_storable(event_id):
            return False
        if unit_of_work is None:
            async with self._database.writing() as connection:
                return await moves.cancel(connection, event_id)
        return await moves.cancel(await own_connection(self, self._database, unit_of_work), event_id)

    async def erase(self, partition_key: str, /) -> Erased:
        """See `Outbox.erase`."""
        if not is_storable(partition_key):
            return Erased(0, 0, 0)
        async with self._database.writing() as connection:
            erased = await moves.erase(connection, partition_key)
        self._database.wake()
        return erased


class _Bell(asyncio.Event):
    """Rings a doorbell when it is set."""

    def __init__(self, doorbell: Doorbell) -> None:
        super().__init__()
        self._doorbell = doorbell

    def set(self) -> None:
        """Ring; nobody waits for the event itself."""
        self._doorbell.ring()
