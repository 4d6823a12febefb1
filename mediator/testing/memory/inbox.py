"""InMemoryInbox: records in an `InMemoryDatabase` which events took effect."""

import math
from datetime import datetime

from mediator.distributed.inbox import Admission, Inbox, LastStart, Start, refusal
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.testing.memory.database import InMemoryDatabase, in_database
from mediator.testing.memory.parking import is_key_parked


class InMemoryInbox(Inbox):
    """Records which events took effect: `inbox = providers.Singleton(InMemoryInbox, database)`.

    The records are never deleted.
    """

    def __init__(self, database: InMemoryDatabase) -> None:
        self._database = database
        self.keep_seconds: float = math.inf

    @property
    def application(self) -> str | None:
        return self._database.application

    async def insert(
        self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /, *, key: str | None = None
    ) -> Admission:
        """Record an event. Raises `MisuseError` for a unit of work on another database."""
        mine = in_database(self._database, unit_of_work, self)
        self._database.check_available()
        if not await mine.record((consumer, source, event_id)):
            return Admission.DUPLICATE
        if key is None or not is_key_parked(self._database, consumer, key):
            return Admission.NEW
        await mine.lock((consumer, key))
        return Admission.KEY_PARKED if is_key_parked(self._database, consumer, key) else Admission.NEW

    async def contains(
        self,
        consumer: str,
        source: str,
        event_id: str,
        /,
        *,
        since: datetime | None = None,  # noqa: ARG002  # all records are searched
    ) -> bool:
        self._database.check_available()
        return (consumer, source, event_id) in self._database.inbox

    async def start(self, consumer: str, source: str, event_id: str, limit: int, /, *, alone: bool = False) -> Start:
        entry = (consumer, source, event_id)
        if await self.contains(*entry):
            return Start(0, taken=True)
        before, last = self._database.starts.get(entry, (1, LastStart.BESIDE))
        refused = refusal(before, last, limit, alone=alone)
        if refused is None:
            self._database.starts[entry] = before + 1, LastStart.ALONE if alone else LastStart.BESIDE
        return refused or Start(before + 1)

    async def end(self, consumer: str, source: str, event_id: str, attempt: int, /) -> None:
        self._database.check_available()
        entry = (consumer, source, event_id)
        counted, _ = self._database.starts.get(entry, (attempt, LastStart.ENDED))
        self._database.starts[entry] = counted, LastStart.ENDED

    async def take_back(self, consumer: str, source: str, event_id: str, /) -> None:
        self._database.check_available()
        entry = (consumer, source, event_id)
        counted, _ = self._database.starts.get(entry, (1, LastStart.ENDED))
        self._database.starts[entry] = max(0, counted - 1), LastStart.ENDED

    async def forget_starts(self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /) -> None:
        in_database(self._database, unit_of_work, self).forget_starts((consumer, source, event_id))

    async def clean(self, _limit: int, /) -> int:
        """Return 0, because no record is ever deleted."""
        return 0

    async def answers(self) -> bool:
        return self._database.available
