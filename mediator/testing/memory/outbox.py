"""InMemoryOutbox: the events in an `InMemoryDatabase` that wait for a relay."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence

from mediator.blocks import asynccontextmanager
from mediator.distributed.cloudevents import LONGEST_APPLICATION, CloudEvent
from mediator.distributed.outbox import (
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
from mediator.distributed.parking import ParkedFilter, refused_event
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ClaimLostError, not_found
from mediator.settings import check_texts
from mediator.testing.memory.database import InMemoryDatabase, in_database
from mediator.testing.memory.parking import parked_in, set_aside


class InMemoryOutboxContents(OutboxContents):
    """Reads the outbox and the archive of an `InMemoryDatabase`."""

    def __init__(self, database: InMemoryDatabase) -> None:
        self._database = database

    async def find(self, which: OutboxFilter, /, *, after: int = 0, limit: int = 100) -> Sequence[OutboxRecord]:
        return [record for record, _ in self._all() if record in which and record.sequence > after][:limit]

    async def count(self, which: OutboxFilter, /) -> OutboxCount:
        found = [record for record, _ in self._all() if record in which]
        archived = which.place == "archived"
        times = [each.moved_at if archived and each.moved_at is not None else each.time.timestamp() for each in found]
        return OutboxCount(len(found), min(times, default=None))

    async def get(self, event_id: str, /) -> tuple[OutboxRecord, CloudEvent]:
        for record, event in self._all():
            if event.id == event_id:
                return record, event
        raise not_found.no_event_in_outbox(event_id)

    async def archived(self, sequences: Sequence[int], /) -> Sequence[CloudEvent]:
        return [event for record, event in self._all() if record.place == "archived" and record.sequence in sequences]

    def _all(self) -> Iterator[tuple[OutboxRecord, CloudEvent]]:
        database = self._database
        database.check_available()
        for sequence, event in enumerate(map(database.named, database.outbox), 1):
            yield _record("waiting", database.places.get(event.id, sequence), event, None), event
        for sequence, (at, event) in enumerate(database.delayed, 1):
            yield _record("delayed", sequence, database.named(event), at), database.named(event)
        for event in map(database.named, database.archive):
            sequence, at = database.archived[event.id]
            yield _record("archived", sequence, event, at), event


def _record(place: Place, sequence: int, event: CloudEvent, moved_at: float | None) -> OutboxRecord:
    size, source = len(event.data), event.source
    return OutboxRecord(place, sequence, event.id, event.type, event.time, event.partitionkey, size, moved_at, source)


_OUTGOING = ParkedFilter(direction="out")


class InMemoryOutbox(Outbox):
    """Gives the events of an `InMemoryDatabase` to a relay. Only one relay at a time can claim events.

        outbox = providers.Singleton(InMemoryOutbox, database)

    Args:
        database: The database that holds the events.
        application: The name of the application, which becomes the source of each event.

    Raises:
        SettingError: The application name is empty, too long or not printable.
    """

    def __init__(self, database: InMemoryDatabase, *, application: str | None = None) -> None:
        self._database = database
        self._claimed = False
        if application is not None:
            check_texts(longest=LONGEST_APPLICATION, application=application)
            database.application = application

    @property
    def application(self) -> str | None:
        return self._database.application

    def use_application(self, application: str | None, /) -> None:
        super().use_application(application)
        self._database.application = self._database.application or application

    @property
    def pending(self) -> Sequence[CloudEvent]:
        """The waiting events that are due, in the order of their commits."""
        return tuple(self._database.outbox)

    @property
    def contents(self) -> InMemoryOutboxContents:
        return InMemoryOutboxContents(self._database)

    def wake(self) -> None:
        self._database.check_owner()
        self._database.woken.set()

    async def wait(self, seconds: float, /) -> None:
        self._database.check_owner()
        try:
            async with asyncio.timeout(seconds):
                await self._database.woken.wait()
        except TimeoutError:
            return
        self._database.woken.clear()

    @asynccontextmanager
    async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncGenerator[OutboxBatch, None]:
        self._database.check_owner()
        self._database.woken.clear()
        if self._claimed:
            yield _Batch(self._database, (), 0.05)
            return
        self._take_due()
        self._database.outbox = [self._database.named(event) for event in self._database.outbox]
        free = self._free(without)
        batch = _Batch(self._database, free[:limit], 0.0 if len(free) > limit else None)
        self._claimed = True
        try:
            yield batch
        finally:
            batch.open = self._claimed = False

    def _take_due(self) -> None:
        now = self._database.now()
        due = [event for at, event in self._database.delayed if at <= now]
        self._database.delayed = [(at, event) for at, event in self._database.delayed if at > now]
        for event in due:
            self._database.put(event)

    def _free(self, without: Collection[str]) -> list[CloudEvent]:
        parked = [event.partition_key for event in parked_in(self._database).values() if event in _OUTGOING]
        blocked = {*parked} - {None}
        waiting = self._database.outbox
        return [e for e in waiting if e.type.partition(".")[0] not in without and e.partitionkey not in blocked]

    async def due_in(self) -> float | None:
        earliest = min((at for at, _ in self._database.delayed), default=None)
        return None if earliest is None else max(0.0, earliest - self._database.now())

    async def clean(self, _limit: int, /) -> int:
        """Return 0, because archived events do not expire in memory."""
        return 0

    async def cancel(self, event_id: str, /, *, unit_of_work: UnitOfWork | None = None) -> bool:
        database = self._database
        if unit_of_work is not None:
            return in_database(database, unit_of_work, self).cancel(event_id)
        kept = [(at, event) for at, event in database.delayed if event.id != event_id]
        cancelled = len(kept) < len(database.delayed)
        database.delayed = kept
        return cancelled

    async def erase(self, partition_key: str, /) -> Erased:
        check_partition_key(partition_key)
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
    def __init__(self, database: InMemoryDatabase, events: Sequence[CloudEvent], look_again: float | None) -> None:
        self._database = database
        self.events = events
        self.look_again = look_again
        self.open = True

    async def settle(self, ids: Collection[str], /) -> None:
        self._take(settled := [event for event in self.events if event.id in ids])
        database = self._database
        for event in settled:
            if event.id not in database.archived:  # the archive has no second event with the same id
                database.archive.append(event)
                database.archived[event.id] = (next(database.numbers), database.now())

    async def park(self, event: CloudEvent, /, reason: str, error: str) -> None:
        self._take([event])
        place = self._database.places.get(event.id, 0)
        if not any(event.id == each.event_id and each in _OUTGOING for each in parked_in(self._database).values()):
            set_aside(self._database, refused_event(event, reason, error, sequence=place))

    def _take(self, events: Sequence[CloudEvent]) -> None:
        if not self.open:
            raise ClaimLostError("the `claim` block has ended")
        self._database.outbox = [event for event in self._database.outbox if event not in events]
