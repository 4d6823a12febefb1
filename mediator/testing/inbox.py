"""InMemoryInbox: what an `InMemoryDatabase` has taken in."""

from mediator.distributed.inbox import Inbox
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import UnitOfWorkMismatchError
from mediator.testing.database import InMemoryDatabase, InMemoryUnitOfWork


class InMemoryInbox(Inbox):
    """`inbox = providers.Singleton(InMemoryInbox, database)`. It remembers as long as the database lives."""

    def __init__(self, database: InMemoryDatabase) -> None:
        self._database = database

    async def insert(self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /) -> bool:
        """See `Inbox.insert`.

        Raises:
            UnitOfWorkMismatchError: The unit of work is not one on this database.
        """
        if not isinstance(unit_of_work, InMemoryUnitOfWork) or unit_of_work.database is not self._database:
            raise UnitOfWorkMismatchError(self, unit_of_work)
        return await unit_of_work.record((consumer, source, event_id))

    async def contains(self, consumer: str, source: str, event_id: str, /) -> bool:
        """See `Inbox.contains`."""
        return (consumer, source, event_id) in self._database.inbox

    async def clean(self, _limit: int, /) -> int:
        """Nothing is old here; see `Inbox.clean`."""
        return 0
