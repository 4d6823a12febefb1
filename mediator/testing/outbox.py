"""InMemoryOutbox: the events that wait in an `InMemoryDatabase`."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import Erased, Outbox, OutboxBatch
from mediator.distributed.parking import ParkedFilter, refused_event
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ClaimLostError, UnitOfWorkMismatchError
from mediator.testing.contents import InMemoryOutboxContents
from mediator.testing.database import InMemoryDatabase, InMemoryUnitOfWork
from mediator.testing.parking import parked_in, set_aside

_OUTGOING = ParkedFilter(direction="out")


class InMemoryOutbox(Outbox):
    """`outbox = providers.Singleton(InMemoryOutbox, database)`. One relay at a time is given events.

    Args:
        database: Where the events are.
        clock: The time in seconds since the epoch, for delayed events.
    """

    def __init__(self, database: InMemoryDatabase, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._claimed = False

    @property
    def pending(self) -> Sequence[CloudEvent]:
        """The events that wait and are due, in the order of their commits."""
        return tuple(self._database.outbox)

    @property
    def contents(self) -> InMemoryOutboxContents:
        """See `Outbox.contents`."""
        return InMemoryOutboxContents(self._database)

    def wake(self) -> None:
        """See `Outbox.wake`."""
        self._database.woken.set()

    async def wait(self, seconds: float, /) -> None:
        """See `Outbox.wait`."""
        try:
            async with asyncio.timeout(seconds):
                await self._database.woken.wait()
        except TimeoutError:
            return
        self._database.woken.clear()

    @asynccontextmanager
    async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncGenerator[OutboxBatch, None]:
        """See `Outbox.claim`."""
        self._database.woken.clear()
        if self._claimed:
            yield _Batch(self._database, self._clock, (), 0.05)
            return
        self._take_due()
        free = self._free(without)
        batch = _Batch(self._database, self._clock, free[:limit], 0.0 if len(free) > limit else None)
        self._claimed = True
        try:
            yield batch
        finally:
            batch.open = self._claimed = False

    def _take_due(self) -> None:
        now = self._clock()
        due = [event for at, event in self._database.delayed if at <= now]
        self._database.delayed = [(at, event) for at, event in self._database.delayed if at > now]
        for event in due:
            self._database.put(event)

    def _free(self, without: Collection[str]) -> list[CloudEvent]:
        blocked = {parked.partition_key for parked in parked_in(self._database).values() if parked in _OUTGOING} - {
            None
        }
        waiting = self._database.outbox
        return [e for e in waiting if e.type.partition(".")[0] not in without and e.partitionkey not in blocked]

    async def due_in(self) -> float | None:
        """See `Outbox.due_in`."""
        return max(0.0, min(at for at, _ in self._database.delayed) - self._clock()) if self._database.delayed else None

    async def clean(self, _limit: int, /) -> int:
        """The archive in memory is kept; see `Outbox.clean`."""
        return 0

    async def cancel(self, event_id: str, /, *, unit_of_work: UnitOfWork | None = None) -> bool:
        """See `Outbox.cancel`."""
        database = self._database
        if unit_of_work is not None:
            if not isinstance(unit_of_work, InMemoryUnitOfWork) or unit_of_work.database is not database:
                raise UnitOfWorkMismatchError(self, unit_of_work)
            return unit_of_work.cancel(event_id)
        kept = [(at, event) for at, event in database.delayed if event.id != event_id]
        cancelled = len(kept) < len(database.delayed)
        database.delayed = kept
        return cancelled

    async def erase(self, partition_key: str, /) -> Erased:
        """See `Outbox.erase`."""
        database = self._database
        archived = [event for event in database.archive if event.partitionkey == partition_key]
        parked, outgoing = parked_in(database), ParkedFilter(direction="out", key=partition_key)
        refused = [number for number, event in parked.items() if event in outgoing]
        pending = sum(event.partitionkey == partition_key for event in database.waiting)
        database.archive = [event for event in database.archive if event.partitionkey != partition_key]
        for event in archived:
            del database.archived[event.id]
        for number in refused:
            del parked[number]
        database.woken.set()
        return Erased(len(archived), len(refused), pending)


class _Batch(OutboxBatch):
    def __init__(
        self,
        database: InMemoryDatabase,
        clock: Callable[[], float],
        events: Sequence[CloudEvent],
        look_again: float | None,
    ) -> None:
        self._database = database
        self._clock = clock
        self.events = events
        self.look_again = look_again
        self.open = True

    async def settle(self, ids: Collection[str], /) -> None:
        self._take(settled := [event for event in self.events if event.id in ids])
        database = self._database
        for event in settled:
            if event.id not in database.archived:  # an id names one event: the archive keeps the first
                database.archive.append(event)
                database.archived[event.id] = (next(database.numbers), self._clock())

    async def park(self, event: CloudEvent, /, reason: str, error: str) -> None:
        self._take([event])
        place = self._database.places.get(event.id, 0)
        if not any(event.id == each.event_id and each in _OUTGOING for each in parked_in(self._database).values()):
            set_aside(self._database, refused_event(event, reason, error, sequence=place, now=self._clock()))

    def _take(self, events: Sequence[CloudEvent]) -> None:
        if not self.open:
            raise ClaimLostError("the batch was left")
        self._database.outbox = [event for event in self._database.outbox if event not in events]
