"""InMemoryInbox: what an `InMemoryDatabase` has taken in."""

import math

from mediator.distributed.inbox import Admission, Inbox, LastStart, Start, refusal
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import UnitOfWorkMismatchError
from mediator.testing.database import InMemoryDatabase, InMemoryUnitOfWork
from mediator.testing.parking import is_key_parked


class InMemoryInbox(Inbox):
    """`inbox = providers.Singleton(InMemoryInbox, database)`. It remembers as long as the database lives."""

    def __init__(self, database: InMemoryDatabase) -> None:
        self._database = database
        self.keep_seconds: float = math.inf

    async def insert(
        self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /, *, key: str | None = None
    ) -> Admission:
        """See `Inbox.insert`.

        Raises:
            UnitOfWorkMismatchError: The unit of work is not one on this database.
        """
        mine = self._mine(unit_of_work)
        self._database.check_available()
        if not await mine.record((consumer, source, event_id)):
            return Admission.DUPLICATE
        if key is None or not is_key_parked(self._database, consumer, key):
            return Admission.NEW
        await mine.lock((consumer, key))
        return Admission.KEY_PARKED if is_key_parked(self._database, consumer, key) else Admission.NEW

    async def contains(self, consumer: str, source: str, event_id: str, /) -> bool:
        """See `Inbox.contains`."""
        self._database.check_available()
        return (consumer, source, event_id) in self._database.inbox

    async def start(self, consumer: str, source: str, event_id: str, limit: int, /, *, alone: bool = False) -> Start:
        """See `Inbox.start`."""
        entry = (consumer, source, event_id)
        if await self.contains(*entry):
            return Start(0, taken=True)
        before, last = self._database.starts.get(entry, (1, LastStart.BESIDE))
        refused = refusal(before, last, limit, alone=alone)
        if refused is None:
            self._database.starts[entry] = before + 1, LastStart.ALONE if alone else LastStart.BESIDE
        return refused or Start(before + 1)

    async def end(self, consumer: str, source: str, event_id: str, attempt: int, /) -> None:
        """See `Inbox.end`."""
        self._database.check_available()
        entry = (consumer, source, event_id)
        counted, _ = self._database.starts.get(entry, (attempt, LastStart.ENDED))
        self._database.starts[entry] = counted, LastStart.ENDED

    async def take_back(self, consumer: str, source: str, event_id: str, /) -> None:
        """See `Inbox.take_back`."""
        self._database.check_available()
        entry = (consumer, source, event_id)
        counted, _ = self._database.starts.get(entry, (1, LastStart.ENDED))
        self._database.starts[entry] = max(0, counted - 1), LastStart.ENDED

    async def forget_starts(self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /) -> None:
        """See `Inbox.forget_starts`."""
        self._mine(unit_of_work).forget_starts((consumer, source, event_id))

    async def clean(self, _limit: int, /) -> int:
        """Nothing is old here; see `Inbox.clean`."""
        return 0

    async def answers(self) -> bool:
        """See `Inbox.answers`."""
        return self._database.available

    def _mine(self, unit_of_work: UnitOfWork) -> InMemoryUnitOfWork:
        if not isinstance(unit_of_work, InMemoryUnitOfWork) or unit_of_work.database is not self._database:
            raise UnitOfWorkMismatchError(self, unit_of_work)
        return unit_of_work
