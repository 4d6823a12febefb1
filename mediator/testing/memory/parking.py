"""InMemoryParking: the parked events of an `InMemoryDatabase`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mediator.distributed.parking import (
    CLAIM_SECONDS,
    ParkedEvent,
    ParkedFilter,
    Parking,
    ParkReason,
    behind_its_key,
    error_text,
    released_event,
)
from mediator.distributed.starts import LastStart, Start, refusal
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ClaimLostError, ParkedEventBlockedError, ParkedEventConflictError, SettingError, not_found
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
    """Return whether an ordered incoming event of the given consumer and key is parked."""
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

    async def park(self, event: ParkedEvent, /, *, due_in: float | None = None, asked: bool = False) -> bool:
        database = self._database
        database.check_available()
        entry = (event.consumer, event.source, event.event_id)
        while busy := database.recording.get(entry) or database.locks.get(_lock_of(event)):
            await busy[1].wait()
        if entry in database.inbox:
            return False
        database.inbox.add(entry)
        database.starts.pop(entry, None)
        if event.held_by is not None and await self.head(event) is not None:
            event = behind_its_key(event)
        now = database.now()
        event = event if due_in is None else replace(event, due_at=now + due_in)
        set_aside(database, replace(event, asked_at=now) if asked else event)
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

    async def claim(self, consumer: str, /, *, held_by: str | None = None) -> ParkedEvent | None:
        self._database.check_available()
        now = self._database.now()
        if held_by is None:
            choice = [(at, event.number) for at, event in self._waiting(consumer) if at <= now]
        else:
            choice = [(event.claim, event.number) for event in self._held(consumer) if event.held_by == held_by]
        free = [each for each in choice if _row_of(each[1]) not in self._database.locks]
        if not free:
            return None
        parked, (_, number) = parked_in(self._database), min(free)
        claimed = replace(parked[number], claim=parked[number].claim + 1, due_at=now + CLAIM_SECONDS, held_by=None)
        parked[number] = claimed
        return claimed

    async def holders(self, consumer: str, /) -> Sequence[str]:
        self._database.check_available()
        return sorted({event.held_by for event in self._held(consumer) if event.held_by is not None})

    async def let_go(self, consumer: str, held_by: str, /, *, limit: int = 1000) -> int:
        self._database.check_available()
        held = [event for event in self._held(consumer) if event.held_by == held_by]
        held.sort(key=lambda event: (event.claim, event.number))
        free = [event for event in held if _row_of(event.number) not in self._database.locks][:limit]
        for event in free:
            parked_in(self._database)[event.number] = replace(event, due_at=self._database.now(), held_by=None)
        return len(free)

    def _held(self, consumer: str) -> Sequence[ParkedEvent]:
        """Return the events of a consumer that circuits hold, in the order of their numbers."""
        which = ParkedFilter(direction="in", consumer=consumer)
        return [event for event in self.events if event.held_by is not None and event in which]

    async def due_in(self, consumer: str, /) -> float | None:
        self._database.check_available()
        times = [at for at, _ in self._waiting(consumer)]
        return max(0.0, min(times) - self._database.now()) if times else None

    def _waiting(self, consumer: str) -> Sequence[tuple[float, ParkedEvent]]:
        """Return the events that a consumer tries again by itself, each with the time at which it is due."""
        which = ParkedFilter(direction="in", consumer=consumer)
        return [(event.due_at, event) for event in self.events if event.due_at is not None and event in which]

    async def start(
        self,
        event: ParkedEvent,
        limit: int,
        /,
        *,
        alone: bool = False,
        lasting: float = 0.0,  # noqa: ARG002  # `claim` leaves out locked rows here
    ) -> Start:
        found = await self._get_claimed(event)
        refused = refusal(found.attempts, found.last_start, limit, alone=alone)
        if refused is not None:
            return refused
        last = LastStart.ALONE if alone else LastStart.BESIDE
        parked_in(self._database)[event.number] = replace(found, attempts=found.attempts + 1, last_start=last)
        return Start(found.attempts + 1)

    async def postpone(
        self,
        event: ParkedEvent,
        /,
        *,
        due_in: float | None,
        reason: ParkReason = ParkReason.WAITING,
        error: str | None = None,
        started: bool = True,
        failed: bool = True,
        ended: bool = True,
        held_by: str | None = None,
        asked: bool = False,
    ) -> None:
        found = await self._get_claimed(event)
        parked_in(self._database)[event.number] = replace(
            found,
            due_at=None if due_in is None else self._database.now() + due_in,
            reason=reason,
            error=found.error if error is None else error_text(error),
            last_start=LastStart.ENDED if ended else found.last_start,
            attempts=found.attempts if started else found.attempts - 1,
            tries=found.tries + 1 if failed else found.tries,
            held_by=held_by,
            asked_at=self._database.now() if asked and found.asked_at is None else found.asked_at,
        )

    async def _get_claimed(self, event: ParkedEvent) -> ParkedEvent:
        """Wait until no transaction has reserved a claimed event, and return the event as it is stored."""
        locks, row = self._database.locks, _row_of(event.number)
        while row in locks:
            await locks[row][1].wait()
        self._database.check_available()
        found = parked_in(self._database).get(event.number)
        if found is None:
            raise ClaimLostError(f"event {event.number} is no longer parked")
        _check_claim(found, event.claim)
        return found

    async def reserve(self, unit_of_work: UnitOfWork, number: int, /, *, claim: int | None = None) -> ParkedEvent:
        await in_database(self._database, unit_of_work, self).lock(_row_of(number))
        event = await self.get(number)
        if claim is not None:
            _check_claim(event, claim)
        await self._check_head(event)
        return event

    async def take(self, unit_of_work: UnitOfWork, number: int, /, *, release_next: bool = False) -> ParkedEvent:
        mine = in_database(self._database, unit_of_work, self)
        event = await self.get(number)
        await mine.lock(_row_of(number))
        await mine.lock(_lock_of(event))
        await self._check_head(await self.get(number))
        table = mine.table(_TABLE)
        del table[number]
        later = [each.number for each in table.values() if each.ordering_key == event.ordering_key]
        if release_next and later:
            following = table[min(later)]
            if following.reason == ParkReason.KEY_PARKED and following.due_at is None:
                table[following.number] = replace(following, due_at=self._database.now())
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
    """Return the name of the second lock of `take`: `(consumer, key)`. An event without a key or order has its own lock."""
    if event.partition_key is not None and event.ordered:
        return event.consumer, event.partition_key
    return "\0", str(event.number)  # no consumer can have the name "\0"


def _check_claim(event: ParkedEvent, claim: int) -> None:
    if event.claim != claim:
        raise ClaimLostError(f"another process has claimed parked event {event.number}")
