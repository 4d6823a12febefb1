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
from mediator.distributed.parking import ParkedEvent
from mediator.distributed.unit_of_work import StagedEvent, UnitOfWork
from mediator.errors import EventIdConflictError, ParkedEventConflictError
from mediator.testing import InMemoryDatabase, InMemoryInbox, InMemoryOutbox, InMemoryParking, InMemoryUnitOfWork
from mediator.testing.conformance import StorageConformance, StorageUnderTest
from tests.conformance.storages import in_memory

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
]


async def failures(broken: Broken) -> list[str]:
    """Run the suite until a case fails, and return the failed case."""

    class Suite(StorageConformance):
        capabilities = frozenset()

        @asynccontextmanager
        async def opened(self) -> AsyncIterator[StorageUnderTest]:
            database = InMemoryDatabase()
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
async def test_the_suite_rejects_a_storage_that_breaks_a_promise(broken: Broken) -> None:
    assert await failures(broken) != []


async def test_the_suite_accepts_a_storage_that_keeps_all_promises() -> None:
    assert await failures(Broken("none")) == []
