"""SqlAlchemyIdempotency: stores idempotency keys and responses in a table of the application's database."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.idempotency import Idempotency, KeptResponse
from mediator.distributed.requests import RequestCodec
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.msgspec import MsgspecRequestCodec
from mediator.sqlalchemy.database import DatabaseClock
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.parking import own_connection
from mediator.sqlalchemy.schema import idempotency
from mediator.sqlalchemy.statements import delete_some


class SqlAlchemyIdempotency(Idempotency):
    """Stores the responses of commands by their idempotency keys, in the database of the unit of work.

    Declare it with the engine of the unit of work: `idempotency = providers.Singleton(SqlAlchemyIdempotency, engine)`.
    Each method raises `SchemaError` when the table does not exist. A method raises `MisuseError` for a
    unit of work that is not a `SqlAlchemyUnitOfWork` on the same engine.

    Args:
        engine: From `open_engine`.
        codec: Writes and reads responses; JSON through msgspec by default.
        keep_seconds: How long a response is kept, in seconds; one day by default.
        clean_interval: Seconds between two deletions of old responses in a process that runs the container's workers.
        clock_offset: Returns seconds to add to the time of the database, for tests. The clock of this process is not
            used.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        codec: RequestCodec | None = None,
        keep_seconds: float = 86_400.0,
        clean_interval: float = 60.0,
        clock_offset: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(codec or MsgspecRequestCodec(), keep_seconds=keep_seconds, clean_interval=clean_interval)
        self._database = database_of(engine)
        self._clock = DatabaseClock(self._database.dialect, clock_offset)

    async def claim(self, unit_of_work: UnitOfWork, key: str, fingerprint: str, /) -> KeptResponse | None:
        # Concurrent claims of one key wait for each other, at PostgreSQL's unique index or SQLite's writer lock.
        connection = await own_connection(self, self._database, unit_of_work)
        now, columns = self._clock.now(), idempotency.c
        row: dict[str, Any] = {"fingerprint": fingerprint, "response": b"", "created_at": now}
        free = or_(columns.created_at < now - self.keep_seconds, columns.response == b"")
        statement = self._database.insert(idempotency).values(key=key, **row)
        statement = statement.on_conflict_do_update(index_elements=["key"], set_=row, where=free)
        if (await connection.execute(statement)).rowcount == 1:
            return None
        kept = select(columns.fingerprint, columns.response).where(columns.key == key)
        return KeptResponse(*(await connection.execute(kept)).one())

    async def find(self, unit_of_work: UnitOfWork, key: str, /) -> KeptResponse | None:
        connection = await own_connection(self, self._database, unit_of_work)
        columns = idempotency.c
        valid = (columns.created_at >= self._clock.now() - self.keep_seconds) & (columns.response != b"")
        kept = select(columns.fingerprint, columns.response).where(columns.key == key, valid)
        found = (await connection.execute(kept)).first()
        return None if found is None else KeptResponse(*found)

    async def keep(self, unit_of_work: UnitOfWork, key: str, response: bytes, /) -> None:
        connection = await own_connection(self, self._database, unit_of_work)
        await connection.execute(update(idempotency).where(idempotency.c.key == key).values(response=response))

    async def clean(self, limit: int, /) -> int:
        old = idempotency.c.created_at < self._clock.now() - self.keep_seconds
        async with self._database.writing() as connection:
            return await delete_some(connection, idempotency, old, limit)
