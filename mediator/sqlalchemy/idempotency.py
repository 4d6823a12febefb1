"""SqlAlchemyIdempotency: commands that happened, by their keys, in a table of the application's database."""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.idempotency import Idempotency, KeptResponse
from mediator.distributed.requests import RequestCodec
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.msgspec import MsgspecRequestCodec
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.parking import own_connection
from mediator.sqlalchemy.schema import idempotency


class SqlAlchemyIdempotency(Idempotency):
    """`idempotency = providers.Singleton(SqlAlchemyIdempotency, engine)`, on the engine of the unit of work.

    Each method raises `SchemaMissingError` when the table is not there.

    Args:
        engine: From `open_engine`.
        codec: Writes and reads responses; JSON through msgspec by default.
        keep_seconds: How long a response is kept, in seconds; one day.
        clean_interval: How often old ones are deleted, in seconds, by whoever runs the workers of the container.
        clock: The time in seconds since the epoch.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        codec: RequestCodec | None = None,
        keep_seconds: float = 86_400.0,
        clean_interval: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(codec or MsgspecRequestCodec(), keep_seconds=keep_seconds, clean_interval=clean_interval)
        self._database = database_of(engine)
        self._clock = clock

    async def claim(self, unit_of_work: UnitOfWork, key: str, fingerprint: str, /) -> KeptResponse | None:
        """See `Idempotency.claim`. PostgreSQL waits at the unique index, SQLite for the writer's turn.

        Raises:
            UnitOfWorkMismatchError: The unit of work is not SQLAlchemy's, or of another database.
        """
        connection = await own_connection(self, self._database, unit_of_work)
        now, columns = self._clock(), idempotency.c
        row: dict[str, Any] = {"fingerprint": fingerprint, "response": b"", "created_at": now}
        free = or_(columns.created_at < now - self.keep_seconds, columns.response == b"")
        statement = self._database.insert(idempotency).values(key=key, **row)
        statement = statement.on_conflict_do_update(index_elements=["key"], set_=row, where=free)
        if (await connection.execute(statement)).rowcount == 1:
            return None
        kept = select(columns.fingerprint, columns.response).where(columns.key == key)
        return KeptResponse(*(await connection.execute(kept)).one())

    async def keep(self, unit_of_work: UnitOfWork, key: str, response: bytes, /) -> None:
        """See `Idempotency.keep`."""
        connection = await own_connection(self, self._database, unit_of_work)
        await connection.execute(update(idempotency).where(idempotency.c.key == key).values(response=response))

    async def clean(self, limit: int, /) -> int:
        """See `Idempotency.clean`."""
        old = select(idempotency.c.key).where(idempotency.c.created_at < self._clock() - self.keep_seconds).limit(limit)
        async with self._database.writing() as connection:
            return (await connection.execute(delete(idempotency).where(idempotency.c.key.in_(old)))).rowcount
