"""InMemoryParking: the events that are set aside in an `InMemoryDatabase`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mediator.distributed.parking import ParkedEvent, ParkedFilter, Parking, error_text, released_event
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import (
    ParkedEventBlockedError,
    ParkedEventConflictError,
    ParkedEventNotFoundError,
    SettingError,
    UnitOfWorkMismatchError,
)
from mediator.testing.database import InMemoryDatabase, InMemoryUnitOfWork

_TABLE = "mediator_parked"


def parked_in(database: InMemoryDatabase) -> dict[int, ParkedEvent]:
    """The parked events of a database that are committed, by their numbers."""
    return database.tables.setdefault(_TABLE, {})


def set_aside(database: InMemoryDatabase, event: ParkedEvent) -> None:
    """Park an event at once, under the next number."""
    stored = replace(event, number=next(database.numbers))
    parked_in(database)[stored.number] = stored


def is_key_parked(database: InMemoryDatabase, consumer: str, key: str) -> bool:
    """Whether an event that came in for a consumer, with a key, is parked."""
    lane = ("in", consumer, key)
    return any(event.lane == lane for event in parked_in(database).values())


class InMemoryParking(Parking):
    """`parking = providers.Singleton(InMemoryParking, database)`, with inbox, outbox and unit of work on the same."""

    def __init__(self, database: InMemoryDatabase) -> None:
        self._database = database

    @property
    def events(self) -> Sequence[ParkedEvent]:
        """All that are parked, in the order of their numbers."""
        parked = parked_in(self._database)
        return tuple(parked[number] for number in sorted(parked))

    async def park(self, event: ParkedEvent, /) -> bool:
        """See `Parking.park`."""
        database = self._database
        database.check_available()
        entry = (event.consumer, event.source, event.event_id)
        while entry in database.recording:
            await database.recording[entry][1].wait()
        if entry in database.inbox:
            return False
        database.inbox.add(entry)
        database.starts.pop(entry, None)
        set_aside(database, event)
        return True

    async def append(self, unit_of_work: UnitOfWork, event: ParkedEvent, /) -> None:
        """See `Parking.append`."""
        stored = replace(event, number=next(self._database.numbers))
        self._mine(unit_of_work).table(_TABLE)[stored.number] = stored

    async def find(self, which: ParkedFilter, /, *, after: int = 0, limit: int = 100) -> Sequence[ParkedEvent]:
        """See `Parking.find`."""
        self._database.check_available()
        return [event for event in self.events if event.number > after and event in which][:limit]

    async def count(self, which: ParkedFilter, /) -> int:
        """See `Parking.count`."""
        self._database.check_available()
        return sum(event in which for event in self.events)

    async def get(self, number: int, /) -> ParkedEvent:
        """See `Parking.get`."""
        self._database.check_available()
        found = parked_in(self._database).get(number)
        if found is None:
            raise ParkedEventNotFoundError(number)
        return found

    async def head(self, event: ParkedEvent, /) -> ParkedEvent | None:
        """See `Parking.head`."""
        return next((each for each in self.events if each.lane == event.lane), None)

    async def edit(
        self, number: int, /, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> ParkedEvent:
        """See `Parking.edit`."""
        found = await self._get_free(number)
        if headers is not None and found.direction == "out":
            raise SettingError("headers", sorted(headers), "an event that goes out gets its headers when it does")
        edited = replace(
            found,
            data=found.data if data is None else data,
            headers=found.headers if headers is None else dict(headers),
        )
        parked_in(self._database)[number] = edited
        return edited

    async def take(self, unit_of_work: UnitOfWork, number: int, /) -> ParkedEvent:
        """See `Parking.take`."""
        mine = self._mine(unit_of_work)
        event = await self.get(number)
        await mine.lock(_lock_of(event))
        await self._check_head(await self.get(number))
        del mine.table(_TABLE)[number]
        return event

    async def release(self, number: int, /) -> ParkedEvent:
        """See `Parking.release`."""
        event = await self.get(number)
        if event.direction != "out":
            raise ParkedEventNotFoundError(number)
        await self._check_head(event)
        self._check_absent(event)
        del parked_in(self._database)[number]
        self._database.put_back(released_event(event), event.sequence)
        self._database.woken.set()
        return event

    async def note_failure(self, number: int, error: BaseException, /) -> None:
        """See `Parking.note_failure`."""
        found = parked_in(self._database).get(number)
        if found is not None:
            noted = replace(found, error=error_text(error), attempts=found.attempts + 1)
            parked_in(self._database)[number] = noted

    async def discard(self, number: int, /) -> ParkedEvent:
        """See `Parking.discard`."""
        found = await self._get_free(number)
        del parked_in(self._database)[number]
        if found.direction == "out":
            self._database.woken.set()
        return found

    async def _get_free(self, number: int) -> ParkedEvent:
        """A parked event, once no replay holds it."""
        locks, name = self._database.locks, _lock_of(await self.get(number))
        while name in locks:
            await locks[name][1].wait()
        return await self.get(number)

    async def _check_head(self, event: ParkedEvent) -> None:
        head = await self.head(event)
        if head is not None and head.number < event.number:
            raise ParkedEventBlockedError(event.number, head.number)

    def _check_absent(self, event: ParkedEvent) -> None:
        database = self._database
        same_id = [each for each in database.waiting if each.id == event.event_id]
        same_place = [each for each in database.outbox if database.places.get(each.id) == event.sequence]
        found = next(iter(same_id + same_place), None)
        if found is not None:
            has_same_key = found.partitionkey is not None and found.partitionkey == event.partition_key
            raise ParkedEventConflictError(event.number, event.event_id, event.sequence, found.id, has_same_key)

    def _mine(self, unit_of_work: UnitOfWork) -> InMemoryUnitOfWork:
        if not isinstance(unit_of_work, InMemoryUnitOfWork) or unit_of_work.database is not self._database:
            raise UnitOfWorkMismatchError(self, unit_of_work)
        return unit_of_work


def _lock_of(event: ParkedEvent) -> tuple[str, str]:
    """What a replay holds: the consumer's key, or the event alone when it has none."""
    if event.partition_key is not None:
        return event.consumer, event.partition_key
    return "\0", str(event.number)  # no consumer is called so
