"""DelayedEventsConformance: the promises of `Outbox` about events that wait for their time as test cases."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

from mediator.distributed.broker import DistributedEventBroker
from mediator.errors import DeliveryTimeError, NoUnitOfWorkError, UnitOfWorkMismatchError
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.storage import StorageUnderTest, Written
from mediator.testing.conformance.storage_steps import FUTURE, add
from mediator.testing.conformance.storage_suite import StorageSuite
from mediator.testing.database import InMemoryDatabase, InMemoryUnitOfWork
from mediator.transactions import TransactionMode


class DelayedEventsConformance(StorageSuite):
    """What `deliver_at` and `cancel` promise."""

    async def test_a_delayed_event_is_published_when_it_is_due_and_not_before(self) -> None:
        """A delayed event is published when it is due and not before."""
        async with self.opened() as storage:
            await add(storage, Written("now"))
            await add(storage, Written("late"), after=timedelta(seconds=2))
            assert await storage.waiting() == ["now"]
            async with asyncio.timeout(10):
                while pause := await storage.outbox.due_in():
                    assert pause <= 2
                    await asyncio.sleep(pause)
            assert sorted(await storage.waiting()) == ["late", "now"]
            assert await storage.outbox.due_in() is None

    async def test_a_delayed_event_does_not_hold_its_key_back(self) -> None:
        """A delayed event does not hold its key back."""
        async with self.opened() as storage:
            await add(storage, Written("late", "k"), after=FUTURE)
            await add(storage, Written("now", "k"))
            assert await storage.waiting() == ["now"]

    async def test_a_time_in_the_past_means_at_once(self) -> None:
        """A time in the past means at once."""
        async with self.opened() as storage:
            await add(storage, Written("a"), after=-FUTURE)
            assert await storage.outbox.due_in() == 0
            assert await storage.waiting() == ["a"]

    async def test_the_next_due_time_is_that_of_the_earliest_event(self) -> None:
        """The next due time is that of the earliest event."""
        async with self.opened() as storage:
            assert await storage.outbox.due_in() is None
            await add(storage, Written("b"), after=2 * FUTURE)
            await add(storage, Written("a"), after=FUTURE)
            assert 3500 < (await storage.outbox.due_in() or 0) <= 3600

    async def test_a_delayed_event_can_be_cancelled_until_it_is_due(self) -> None:
        """A delayed event can be cancelled until it is due."""
        async with self.opened() as storage:
            [cancelled] = await add(storage, Written("a"), after=timedelta(seconds=1))
            [kept] = await add(storage, Written("b"), after=timedelta(seconds=1))
            [undelayed] = await add(storage, Written("c"))
            assert await storage.outbox.cancel(cancelled) is True
            assert await storage.outbox.cancel(cancelled) is False
            await asyncio.sleep(1)
            assert sorted(await storage.waiting()) == ["b", "c"]
            assert await storage.outbox.cancel(kept) is False
            assert await storage.outbox.cancel(undelayed) is False
            assert sorted(await storage.waiting()) == ["b", "c"]

    async def test_a_transaction_cancels_if_it_commits(self) -> None:
        """A transaction cancels if it commits."""
        async with self.opened() as storage:
            [event_id] = await add(storage, Written("a"), after=FUTURE)

            async def cancel(storage: StorageUnderTest) -> bool:
                return await storage.outbox.cancel(event_id, unit_of_work=storage.unit_of_work)

            async def cancel_and_fail(storage: StorageUnderTest) -> None:
                assert await cancel(storage)
                raise LookupError

            async def cancel_inside_a_savepoint(storage: StorageUnderTest) -> None:
                with failing(LookupError):
                    await storage.do(cancel_and_fail, mode=TransactionMode.NESTED)

            with failing(LookupError):
                await storage.do(cancel_and_fail)
            await storage.do(cancel_inside_a_savepoint)
            assert await storage.outbox.due_in() is not None
            assert await storage.do(cancel) is True
            assert await storage.outbox.due_in() is None
            assert await storage.do(cancel) is False

    async def test_a_transaction_of_another_database_cancels_nothing(self) -> None:
        """A transaction of another database cancels nothing."""
        async with self.opened() as storage:
            [event_id] = await add(storage, Written("a"), after=FUTURE)
            with failing(UnitOfWorkMismatchError):
                await storage.outbox.cancel(event_id, unit_of_work=InMemoryUnitOfWork(InMemoryDatabase()))

    async def test_a_unit_of_work_that_does_not_run_cancels_nothing(self) -> None:
        """A unit of work that does not run cancels nothing."""
        async with self.opened() as storage:
            [event_id] = await add(storage, Written("a"), after=FUTURE)
            async with storage.mediator.scope():
                with failing(NoUnitOfWorkError):
                    await storage.outbox.cancel(event_id, unit_of_work=storage.unit_of_work)

    async def test_a_time_without_a_zone_is_refused_when_the_event_is_added(self) -> None:
        """A time without a zone is refused when the event is added."""
        for time in (datetime(2026, 1, 1), "tomorrow", 3600):  # noqa: DTZ001  (that is the point)
            await self._a_time_without_a_zone_is_refused_when_the_event_is_added(time)

    async def _a_time_without_a_zone_is_refused_when_the_event_is_added(self, time: Any) -> None:
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                with failing(DeliveryTimeError):
                    DistributedEventBroker(storage.unit_of_work).add(Written("a"), deliver_at=time)

            await storage.do(action)
            assert await storage.waiting() == []
