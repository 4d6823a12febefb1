"""InMemoryParking: the parked events of an `InMemoryDatabase`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mediator.distributed.parking import ParkedEvent, ParkedFilter, Parking, error_text, released_event
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ParkedEventBlockedError, ParkedEventConflictError, SettingError, not_found
from mediator.testing.memory.database import InMemoryDatabase, in_database

_TABLE = "mediator_parked"


def parked_in(database: InMemoryDatabase) -> dict[int, ParkedEvent]:
    """Return the committed parked events of a database, by their numbers."""
    return database.tables.setdefault(_TABLE, {})


def set_aside(database: InMemoryDatabase, event: ParkedEvent) -> None:
    """Park an event under the next number, without a transaction."""
    stored = numbered(database, event)
    parked_in(database)[stored.number] = stored


def numbered(database: InMemoryDatabase, event: ParkedEvent) -> ParkedEvent:
    """Return a copy of the event with the next number. If the event has no parking time, the copy gets the current time."""
    at = database.now() if event.parked_at is None else event.parked_at
    return replace(event, number=next(database.numbers), parked_at=at)


def is_key_parked(database: InMemoryDatabase, consumer: str, key: str) -> bool:
    """Return whether an incoming event of the given consumer and key is parked."""
    ordering_key = ("in", consumer, key)
    return any(event.ordering_key == ordering_key for event in parked_in(database).values())


class InMemoryParking(Parking):
    """Parks events in a database: `parking = providers.Singleton(InMemoryParking, database)`.

    The inbox, the outbox and the unit of work must use the same database.
    """

    def __init__(self, database: InMemoryDatabase) -> None:
        self._database = database

    @property
    def events(self) -> Sequence[ParkedEvent]:
        """All parked events, in the order of their numbers."""
        parked = parked_in(self._database)
        return tuple(parked[number] for number in sorted(parked))

    async def park(self, event: ParkedEvent, /) -> bool:
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
        stored = numbered(self._database, event)
        in_database(self._database, unit_of_work, self).table(_TABLE)[stored.number] = stored

    async def find(
        self, which: ParkedFilter, /, *, after: int = 0, limit: int = 100, bodies: bool = True
    ) -> Sequence[ParkedEvent]:
        self._database.check_available()
        found = [event for event in self.events if event.number > after and event in which][:limit]
        return found if bodies else [replace(event, data=b"") for event in found]

    async def count(self, which: ParkedFilter, /) -> int:
        self._database.check_available()
        return sum(event in which for event in self.events)

    async def get(self, number: int, /) -> ParkedEvent:
        self._database.check_available()
        found = parked_in(self._database).get(number)
        if found is None:
            raise not_found.not_parked(number)
        return found

    async def head(self, event: ParkedEvent, /) -> ParkedEvent | None:
        return next((each for each in self.events if each.ordering_key == event.ordering_key), None)

    async def edit(
        self, number: int, /, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> ParkedEvent:
        found = await self._get_free(number)
        if headers is not None and found.direction == "out":
            problem = "an outgoing event gets its headers when it is published, so they cannot be edited"
            raise SettingError("headers", sorted(headers), problem)
        edited = replace(
            found,
            data=found.data if data is None else data,
            headers=found.headers if headers is None else dict(headers),
        )
        parked_in(self._database)[number] = edited
        return edited

    async def reserve(self, unit_of_work: UnitOfWork, number: int, /) -> ParkedEvent:
        await in_database(self._database, unit_of_work, self).lock(_row_of(number))
        event = await self.get(number)
        await self._check_head(event)
        return event

    async def take(self, unit_of_work: UnitOfWork, number: int, /) -> ParkedEvent:
        mine = in_database(self._database, unit_of_work, self)
        event = await self.get(number)
        await mine.lock(_row_of(number))
        await mine.lock(_lock_of(event))
        await self._check_head(await self.get(number))
        del mine.table(_TABLE)[number]
        return event

    async def release(self, number: int, /) -> ParkedEvent:
        event = await self.get(number)
        if event.direction != "out":
            raise not_found.not_parked(number)
        await self._check_head(event)
        self._check_absent(event)
        del parked_in(self._database)[number]
        self._database.put_back(released_event(event), event.sequence)
        self._database.woken.set()
        return event

    async def note_failure(self, number: int, error: BaseException, /) -> None:
        found = parked_in(self._database).get(number)
        if found is not None:
            noted = replace(found, error=error_text(error), attempts=found.attempts + 1)
            parked_in(self._database)[number] = noted

    async def discard(self, number: int, /) -> ParkedEvent:
        found = await self._get_free(number)
        del parked_in(self._database)[number]
        if found.direction == "out":
            self._database.woken.set()
        return found

    async def _get_free(self, number: int) -> ParkedEvent:
        """Wait until no replay holds the event with the given number, and return the event."""
        locks, names = self._database.locks, {_row_of(number), _lock_of(await self.get(number))}
        while held := names & locks.keys():
            await locks[held.pop()][1].wait()
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


def _row_of(number: int) -> tuple[str, str]:
    """Return the name of an event's lock, which a replay holds while the handlers run: `(table, number)`."""
    return _TABLE, f"{number}"


def _lock_of(event: ParkedEvent) -> tuple[str, str]:
    """Return the name of the second lock of `take`: `(consumer, key)`. An event without a key has a lock of its own."""
    if event.partition_key is not None:
        return event.consumer, event.partition_key
    return "\0", str(event.number)  # no consumer can have the name "\0"
