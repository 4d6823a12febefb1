"""SqlAlchemyInbox: the inbox in a table of the application's database."""

import time
from collections.abc import Callable

from sqlalchemy import delete, select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.inbox import Inbox
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import UnitOfWorkMismatchError
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.schema import inbox
from mediator.sqlalchemy.unit_of_work import SqlAlchemyUnitOfWork


class SqlAlchemyInbox(Inbox):
    """`inbox = providers.Singleton(SqlAlchemyInbox, engine)`, on the engine of the unit of work.

    Args:
        engine: From `open_engine`.
        keep_seconds: How long events are remembered: longer than the stream keeps them; 8 days.
        clock: The time in seconds since the epoch.
    """

    def __init__(
        self, engine: AsyncEngine, *, keep_seconds: float = 8 * 86400, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database_of(engine)
        self._keep_seconds = keep_seconds
        self._clock = clock

    async def insert(self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /) -> bool:
        """See `Inbox.insert`.

        Raises:
            UnitOfWorkMismatchError: The unit of work is not SQLAlchemy's.
            SchemaMissingError: The inbox table does not exist.
        """
        if not isinstance(unit_of_work, SqlAlchemyUnitOfWork):
            raise UnitOfWorkMismatchError(self, unit_of_work)
        row = {"consumer": consumer, "source": source, "event_id": event_id, "received_at": self._clock()}
        connection = await unit_of_work.connection()
        try:
            result = await connection.execute(self._database.insert(inbox).values(row).on_conflict_do_nothing())
        except DBAPIError as error:
            self._database.check_table(error, inbox)
            raise
        return result.rowcount == 1

    async def contains(self, consumer: str, source: str, event_id: str, /) -> bool:
        """See `Inbox.contains`."""
        key = tuple_(inbox.c.consumer, inbox.c.source, inbox.c.event_id)
        async with self._database.reader.connect() as connection:
            found = await connection.execute(select(inbox.c.received_at).where(key == (consumer, source, event_id)))
            return found.first() is not None

    async def clean(self, limit: int, /) -> int:
        """See `Inbox.clean`."""
        key = tuple_(inbox.c.consumer, inbox.c.source, inbox.c.event_id)
        cutoff = self._clock() - self._keep_seconds
        old = select(inbox.c.consumer, inbox.c.source, inbox.c.event_id).where(inbox.c.received_at < cutoff)
        async with self._database.writing() as connection:
            return (await connection.execute(delete(inbox).where(key.in_(old.limit(limit))))).rowcount
