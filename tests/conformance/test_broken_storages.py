"""A storage that breaks a promise does not pass the conformance suites: each fault is found by a case."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mediator.distributed.inbox import Admission
from mediator.distributed.outbox import OutboxBatch
from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason, behind_its_key
from mediator.distributed.starts import Start
from mediator.distributed.unit_of_work import StagedEvent, UnitOfWork
from mediator.errors import EventIdConflictError, ParkedEventConflictError
from mediator.testing import InMemoryDatabase, InMemoryInbox, InMemoryOutbox, InMemoryParking, InMemoryUnitOfWork
from mediator.testing.conformance import StorageCapability, StorageConformance, StorageUnderTest
from mediator.testing.memory.database import in_database
from tests.conformance.storages import in_memory
from tests.unit.virtual_time import in_virtual_time, now

pytestmark = pytest.mark.thorough("runs the conformance suites once for each planted fault")


class CommittingTwice(InMemoryUnitOfWork):
    """Stores events before the commit, in a separate transaction."""

    async def stage(self, events: Sequence[StagedEvent]) -> None:
        await super().stage(events)
        await super().commit_transaction("early")
        await self.prepare(None)


class NeverRollingBack(InMemoryUnitOfWork):
    async def roll_back_transaction(self) -> None:
        await super().commit_transaction("instead")


class WithoutSavepoints(InMemoryUnitOfWork):
    async def roll_back_to_savepoint(self, savepoint: Any) -> None:
        pass


class ForgettingEvents(InMemoryUnitOfWork):
    async def stage(self, events: Sequence[StagedEvent]) -> None:
        await super().stage(events[:1])


class DroppingConflicts(InMemoryUnitOfWork):
    """Commits without the events when one of them has the id of a waiting event."""

    async def stage(self, events: Sequence[StagedEvent]) -> None:
        with contextlib.suppress(EventIdConflictError):
            await super().stage(events)


class ReversedOutbox(InMemoryOutbox):
    @asynccontextmanager
    async def claim(self, limit: int, /, *, without: Any = frozenset()) -> AsyncIterator[OutboxBatch]:
        async with super().claim(limit, without=without) as batch:
            batch.events = list(reversed(batch.events))
            yield batch


class ForgetfulOutbox(InMemoryOutbox):
    async def due_in(self) -> float | None:
        return None


class OwnTransactionInbox(InMemoryInbox):
    """Records events at once, even if the transaction is rolled back later."""

    def __init__(self, database: InMemoryDatabase) -> None:
        super().__init__(database)
        self._seen: set[tuple[str, str, str]] = set()

    async def insert(
        self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /, *, key: str | None = None
    ) -> Admission:
        if (row := (consumer, source, event_id)) in self._seen:
            return Admission.DUPLICATE
        self._seen.add(row)
        return await super().insert(unit_of_work, consumer, source, event_id, key=key)


class AdmittingInbox(InMemoryInbox):
    """Accepts duplicates."""

    async def insert(self, *args: Any, **options: Any) -> Admission:
        admission = await super().insert(*args, **options)
        return Admission.NEW if admission is Admission.DUPLICATE else admission


class KeyedInbox(InMemoryInbox):
    """Puts arriving events behind every parked event of their key, even in groups without order."""

    async def insert(self, *args: Any, **options: Any) -> Admission:
        admission = await super().insert(*args, **options)
        parked = self._database.tables.get("mediator_parked", {}).values()
        keys = {event.partition_key for event in parked if not event.ordered}
        return Admission.KEY_PARKED if admission is Admission.NEW and options.get("key") in keys else admission


class UncountingInbox(InMemoryInbox):
    async def take_back(self, consumer: str, source: str, event_id: str, /) -> None:
        pass


class LosingParking(InMemoryParking):
    """Removes a parked event even if the transaction is rolled back later."""

    async def take(self, unit_of_work: UnitOfWork, number: int, /, *, release_next: bool = False) -> ParkedEvent:
        return await self.discard(number)


class HastyParking(InMemoryParking):
    """Discards an event during its replay."""

    async def discard(self, number: int, /) -> ParkedEvent:
        found = await self.get(number)
        del self._database.tables["mediator_parked"][number]
        self._database.woken.set()
        return found


class DroppingParking(InMemoryParking):
    """Drops a refused event that cannot be returned to the outbox."""

    async def release(self, number: int, /) -> ParkedEvent:
        try:
            return await super().release(number)
        except ParkedEventConflictError:
            return await self.discard(number)


class GreedyParking(InMemoryParking):
    """Claims events that a transaction has reserved."""

    async def claim(self, consumer: str, /, *, held_by: str | None = None) -> ParkedEvent | None:
        locks, self._database.locks = self._database.locks, {}
        try:
            return await super().claim(consumer, held_by=held_by)
        finally:
            self._database.locks = locks


class RestlessParking(InMemoryParking):
    """Returns a claimed event to the next claim, too."""

    async def claim(self, consumer: str, /, *, held_by: str | None = None) -> ParkedEvent | None:
        claimed = await super().claim(consumer, held_by=held_by)
        if claimed is not None:
            self._database.tables["mediator_parked"][claimed.number] = replace(claimed, due_at=0.0)
        return claimed


class EarlyParking(InMemoryParking):
    """Claims events ten seconds before they are due."""

    def _waiting(self, consumer: str) -> Sequence[tuple[float, ParkedEvent]]:
        return [(at - 10, event) for at, event in super()._waiting(consumer)]


class UnorderedParking(InMemoryParking):
    """Claims the due event with the smallest number, even if another event is due for a longer time."""

    def _waiting(self, consumer: str) -> Sequence[tuple[float, ParkedEvent]]:
        now = self._database.now()
        return [(0.0 if at <= now else at, event) for at, event in super()._waiting(consumer)]


class UncountingParking(InMemoryParking):
    """Does not store the starts of later tries."""

    async def start(self, event: ParkedEvent, limit: int, /, *, alone: bool = False) -> Start:
        stored = await self.get(event.number)
        start = await super().start(event, limit, alone=alone)
        self._database.tables["mediator_parked"][event.number] = stored
        return start


class TrustingParking(InMemoryParking):
    """Accepts a claim that another claim has replaced."""

    async def postpone(self, event: ParkedEvent, /, **options: Any) -> None:
        await super().postpone(replace(event, claim=(await self.get(event.number)).claim), **options)


class UnguardedParking(InMemoryParking):
    """Reserves an event for a claim that another claim has replaced."""

    async def reserve(self, unit_of_work: UnitOfWork, number: int, /, *, claim: int | None = None) -> ParkedEvent:
        del claim
        return await super().reserve(unit_of_work, number)


class HurriedParking(InMemoryParking):
    """Releases the next event even if the transaction is rolled back later."""

    async def take(self, unit_of_work: UnitOfWork, number: int, /, *, release_next: bool = False) -> ParkedEvent:
        taken = await super().take(unit_of_work, number)
        following = [
            event for event in self.events if event.number > number and event.ordering_key == taken.ordering_key
        ]
        if release_next and following and (following[0].reason, following[0].due_at) == (ParkReason.KEY_PARKED, None):
            released = replace(following[0], due_at=self._database.now())
            self._database.tables["mediator_parked"][released.number] = released
        return taken


class FloodingParking(InMemoryParking):
    """Releases all later events of the key."""

    async def take(self, unit_of_work: UnitOfWork, number: int, /, *, release_next: bool = False) -> ParkedEvent:
        taken = await super().take(unit_of_work, number, release_next=release_next)
        table = in_database(self._database, unit_of_work, self).table("mediator_parked")
        for event in [each for each in table.values() if each.ordering_key == taken.ordering_key and release_next]:
            table[event.number] = replace(event, due_at=self._database.now())
        return taken


class HoldingParking(InMemoryParking):
    """Forgets to release the next event."""

    async def take(self, unit_of_work: UnitOfWork, number: int, /, *, release_next: bool = False) -> ParkedEvent:
        del release_next
        return await super().take(unit_of_work, number)


class KeyedParking(InMemoryParking):
    """Keeps events of groups without order in the order of their keys."""

    async def head(self, event: ParkedEvent, /) -> ParkedEvent | None:
        key = replace(event, ordered=True).ordering_key
        return next((each for each in self.events if replace(each, ordered=True).ordering_key == key), None)


class ForgetfulParking(InMemoryParking):
    """Remembers only when the handlers last asked to be called later."""

    async def postpone(self, event: ParkedEvent, /, *, asked: bool = False, **options: Any) -> None:
        await super().postpone(event, asked=asked, **options)
        if asked:
            table = self._database.tables["mediator_parked"]
            table[event.number] = replace(table[event.number], asked_at=self._database.now())


class HoldIgnoringParking(InMemoryParking):
    """Treats an event that a circuit holds as due."""

    def _waiting(self, consumer: str) -> Sequence[tuple[float, ParkedEvent]]:
        return [*super()._waiting(consumer), *((0.0, event) for event in self._held(consumer))]


class StubbornParking(InMemoryParking):
    """Probes the first held event again and again."""

    async def claim(self, consumer: str, /, *, held_by: str | None = None) -> ParkedEvent | None:
        table = self._database.tables.setdefault("mediator_parked", {})
        claims = {event.number: event.claim for event in self._held(consumer) if held_by is not None}
        table.update({number: replace(table[number], claim=0) for number in claims})
        claimed = await super().claim(consumer, held_by=held_by)
        table.update({number: replace(table[number], claim=claim) for number, claim in claims.items()})
        if claimed is not None and held_by is not None:
            claimed = replace(claimed, claim=claims[claimed.number] + 1)
            table[claimed.number] = claimed
        return claimed


class ClingingParking(InMemoryParking):
    """Claims a held event, and lets the circuit hold it still."""

    async def claim(self, consumer: str, /, *, held_by: str | None = None) -> ParkedEvent | None:
        claimed = await super().claim(consumer, held_by=held_by)
        if claimed is not None:
            claimed = replace(claimed, held_by=held_by)
            self._database.tables["mediator_parked"][claimed.number] = claimed
        return claimed


class ForgettingClaimParking(InMemoryParking):
    """Loses a held event when the process that claimed it dies: the event is never due again."""

    async def claim(self, consumer: str, /, *, held_by: str | None = None) -> ParkedEvent | None:
        claimed = await super().claim(consumer, held_by=held_by)
        if claimed is not None and held_by is not None:
            claimed = replace(claimed, due_at=None)
            self._database.tables["mediator_parked"][claimed.number] = claimed
        return claimed


class MixingParking(InMemoryParking):
    """Probes the events that the circuits of other handlers hold, too."""

    async def claim(self, consumer: str, /, *, held_by: str | None = None) -> ParkedEvent | None:
        claimed = await super().claim(consumer, held_by=held_by)
        names = await self.holders(consumer) if held_by is not None else []
        return await super().claim(consumer, held_by=names[0]) if claimed is None and names else claimed


class CrowdingParking(InMemoryParking):
    """Mixes up the held events of all consumers."""

    def _held(self, consumer: str) -> Sequence[ParkedEvent]:
        del consumer
        return [event for event in self.events if event.held_by is not None]


class ReleasingParking(InMemoryParking):
    """Does not hold an event again after its probe has failed."""

    async def postpone(self, event: ParkedEvent, /, **options: Any) -> None:
        await super().postpone(event, **{**options, "held_by": None})


class OvertakingParking(InMemoryParking):
    """Holds an event although an earlier event of its key is parked."""

    async def park(self, event: ParkedEvent, /, **options: Any) -> bool:
        parked = await super().park(event, **options)
        stored = self.events[-1]
        if parked and event.held_by is not None and stored.held_by is None:
            self._database.tables["mediator_parked"][stored.number] = replace(event, number=stored.number)
        return parked


class HoldingKeysParking(InMemoryParking):
    """Parks a held event behind an earlier event of its key, even in a group without order."""

    async def park(self, event: ParkedEvent, /, **options: Any) -> bool:
        keys = {each.partition_key for each in self.events if each.consumer == event.consumer} - {None}
        behind = event.held_by is not None and event.partition_key in keys
        return await super().park(behind_its_key(event) if behind else event, **options)


class ImpatientParking(InMemoryParking):
    """Parks a held event without waiting for the replay of the last event of its key."""

    async def park(self, event: ParkedEvent, /, **options: Any) -> bool:
        locks, self._database.locks = self._database.locks, {}
        try:
            return await super().park(event, **options)
        finally:
            self._database.locks = locks


class GenerousParking(InMemoryParking):
    """Lets all events go, whatever the limit."""

    async def let_go(self, consumer: str, held_by: str, /, *, limit: int = 1000) -> int:
        return await super().let_go(consumer, held_by, limit=limit + 1000)


class ReversingParking(InMemoryParking):
    """Lets the last events go first."""

    async def let_go(self, consumer: str, held_by: str, /, *, limit: int = 1000) -> int:
        last = [event for event in self._held(consumer) if event.held_by == held_by][-limit:]
        for event in last:
            freed = replace(event, due_at=self._database.now(), held_by=None)
            self._database.tables["mediator_parked"][event.number] = freed
        return len(last)


class TimelessParking(InMemoryParking):
    """Lets events go that are never due."""

    async def let_go(self, consumer: str, held_by: str, /, *, limit: int = 1000) -> int:
        held = [event for event in self._held(consumer) if event.held_by == held_by]
        gone = await super().let_go(consumer, held_by, limit=limit)
        for event in held[:gone]:
            self._database.tables["mediator_parked"][event.number] = replace(event, held_by=None)
        return gone


class IntrudingParking(InMemoryParking):
    """Lets events go that a transaction has reserved."""

    async def let_go(self, consumer: str, held_by: str, /, *, limit: int = 1000) -> int:
        locks, self._database.locks = self._database.locks, {}
        try:
            return await super().let_go(consumer, held_by, limit=limit)
        finally:
            self._database.locks = locks


class MiscountingParking(InMemoryParking):
    """Returns the limit in place of the number of the events."""

    async def let_go(self, consumer: str, held_by: str, /, *, limit: int = 1000) -> int:
        return limit if await super().let_go(consumer, held_by, limit=limit) else 0


class RepeatingParking(InMemoryParking):
    """Returns the name of a handler once for each event that its circuit holds."""

    async def holders(self, consumer: str, /) -> Sequence[str]:
        return sorted(event.held_by or "" for event in self._held(consumer))


class ShufflingParking(InMemoryParking):
    """Returns the names of the handlers in the order of their first events."""

    async def holders(self, consumer: str, /) -> Sequence[str]:
        return list(dict.fromkeys(event.held_by or "" for event in self._held(consumer)))


class BlindParking(InMemoryParking):
    """Counts held events among the events that wait for a person."""

    async def find(self, which: ParkedFilter, /, **options: Any) -> Sequence[ParkedEvent]:
        found = await super().find(replace(which, waiting=None), **options)
        return [event for event in found if which.waiting in (None, event.due_at is not None)]


class UnselectiveParking(InMemoryParking):
    """Does not compare the handler of a filter."""

    async def find(self, which: ParkedFilter, /, **options: Any) -> Sequence[ParkedEvent]:
        return await super().find(replace(which, held_by=None), **options)


class RewritingParking(InMemoryParking):
    """Ends the hold of an event that is edited."""

    async def edit(self, number: int, /, **options: Any) -> ParkedEvent:
        edited = replace(await super().edit(number, **options), held_by=None)
        self._database.tables["mediator_parked"][number] = edited
        return edited


@dataclass(frozen=True)
class Broken:
    name: str
    unit_of_work: Callable[..., InMemoryUnitOfWork] = InMemoryUnitOfWork
    outbox: Callable[..., InMemoryOutbox] = InMemoryOutbox
    inbox: Callable[..., InMemoryInbox] = InMemoryInbox
    parking: Callable[..., InMemoryParking] = InMemoryParking


BROKEN = [
    Broken("events are committed before their command", unit_of_work=CommittingTwice),
    Broken("a rollback commits", unit_of_work=NeverRollingBack),
    Broken("a rollback to a savepoint has no effect", unit_of_work=WithoutSavepoints),
    Broken("only the first event is stored", unit_of_work=ForgettingEvents),
    Broken("a command commits without an event whose id is taken", unit_of_work=DroppingConflicts),
    Broken("the newest events come first", outbox=ReversedOutbox),
    Broken("delayed events are never due", outbox=ForgetfulOutbox),
    Broken("the inbox uses a separate transaction", inbox=OwnTransactionInbox),
    Broken("the inbox accepts duplicates", inbox=AdmittingInbox),
    Broken("a start cannot be taken back", inbox=UncountingInbox),
    Broken("a parked event is lost when its replay fails", parking=LosingParking),
    Broken("an event is discarded during its replay", parking=HastyParking),
    Broken("a refused event is lost when it cannot be returned to the outbox", parking=DroppingParking),
    Broken("a reserved event is claimed", parking=GreedyParking),
    Broken("a claimed event is claimed again", parking=RestlessParking),
    Broken("an event is claimed before it is due", parking=EarlyParking),
    Broken("events are claimed in the order of their numbers", parking=UnorderedParking),
    Broken("the start of a later try is not counted", parking=UncountingParking),
    Broken("an event is postponed with a lost claim", parking=TrustingParking),
    Broken("an event is reserved with a lost claim", parking=UnguardedParking),
    Broken("the next event is released despite a rollback", parking=HurriedParking),
    Broken("all later events of a key are released", parking=FloodingParking),
    Broken("the release of the next event is forgotten", parking=HoldingParking),
    Broken("parked events of a group without order block each other", parking=KeyedParking),
    Broken("the time of the first request for a later call is lost", parking=ForgetfulParking),
    Broken("a held event is due", parking=HoldIgnoringParking),
    Broken("the same held event is probed each time", parking=StubbornParking),
    Broken("a claimed event is still held", parking=ClingingParking),
    Broken("the claim of a held event has no end", parking=ForgettingClaimParking),
    Broken("an event that the circuit of another handler holds is probed", parking=MixingParking),
    Broken("held events of all consumers are mixed up", parking=CrowdingParking),
    Broken("an event whose probe failed is not held again", parking=ReleasingParking),
    Broken("a held event overtakes an earlier event of its key", parking=OvertakingParking),
    Broken("a held event of a group without order waits for its key", parking=HoldingKeysParking),
    Broken("a held event is parked during a replay of its key", parking=ImpatientParking),
    Broken("more events are let go than allowed", parking=GenerousParking),
    Broken("the last held events are let go first", parking=ReversingParking),
    Broken("events that are let go are not due", parking=TimelessParking),
    Broken("a reserved event is let go", parking=IntrudingParking),
    Broken("the events that are let go are not counted", parking=MiscountingParking),
    Broken("the holders have duplicates", parking=RepeatingParking),
    Broken("the holders are not sorted", parking=ShufflingParking),
    Broken("held events seem to wait for a person", parking=BlindParking),
    Broken("a filter ignores the handler whose circuit holds an event", parking=UnselectiveParking),
    Broken("an edit ends the hold", parking=RewritingParking),
    Broken("a parked event of a group without order blocks arriving events", inbox=KeyedInbox),
]


async def failures(broken: Broken) -> list[str]:
    """Run the suite until a case fails, and return the failed case."""

    class Suite(StorageConformance):
        capabilities = frozenset({StorageCapability.SEVERAL_WRITERS})

        @asynccontextmanager
        async def opened(self) -> AsyncIterator[StorageUnderTest]:
            database = InMemoryDatabase(clock_offset=now)
            async with in_memory(database) as healthy:
                yield replace(
                    healthy,
                    make=lambda **options: broken.unit_of_work(database, **options),
                    outbox=broken.outbox(database),
                    inbox=broken.inbox(database),
                    parking=broken.parking(database),
                )

    for name in Suite.cases():
        try:
            async with asyncio.timeout(10):
                await getattr(Suite(), name)()
        except Exception:
            return [name]
    return []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
@in_virtual_time
async def test_the_suite_rejects_a_storage_that_breaks_a_promise(broken: Broken) -> None:
    assert await failures(broken) != []


@in_virtual_time
async def test_the_suite_accepts_a_storage_that_keeps_all_promises() -> None:
    assert await failures(Broken("none")) == []
