"""DurabilityConformance: what outlives the objects that stored it, and what others see meanwhile, as test cases."""

from mediator.distributed.inbox import Admission
from mediator.testing.conformance.storage import StorageUnderTest, Written, writing
from mediator.testing.conformance.storage_capability import StorageCapability
from mediator.testing.conformance.storage_steps import ALL, FUTURE, add, insert, park, parked_event
from mediator.testing.conformance.storage_suite import StorageSuite
from mediator.testing.conformance.suite import needs
from mediator.transactions import TransactionMode


class DurabilityConformance(StorageSuite):
    """A process ends, and another one goes on with the same database."""

    @needs(StorageCapability.DURABLE)
    async def test_rows_and_events_are_there_when_the_storage_is_opened_again(self) -> None:
        """What was committed outlives the process."""
        async with self.opened() as storage:
            await storage.do(writing("a"))
            assert storage.reopened is not None
            async with storage.reopened() as again:
                assert (await again.read(), await again.waiting()) == (["a"], ["a"])

    @needs(StorageCapability.DURABLE)
    async def test_what_was_sent_is_not_sent_again_when_the_storage_is_opened_again(self) -> None:
        """Settling is as durable as the commit."""
        async with self.opened() as storage:
            await add(storage, Written("a"), Written("b"))
            async with storage.outbox.claim(1) as batch:
                await batch.settle([batch.events[0].id])
            assert storage.reopened is not None
            async with storage.reopened() as again:
                assert await again.waiting() == ["b"]

    @needs(StorageCapability.DURABLE)
    async def test_what_was_taken_in_is_known_when_the_storage_is_opened_again(self) -> None:
        """The inbox is what makes an event take effect once."""
        async with self.opened() as storage:
            assert await insert(storage, "1") is Admission.NEW
            assert storage.reopened is not None
            async with storage.reopened() as again:
                assert await insert(again, "1") is Admission.DUPLICATE

    @needs(StorageCapability.DURABLE)
    async def test_counts_parked_and_delayed_events_are_there_when_the_storage_is_opened_again(self) -> None:
        """Whatever waits goes on waiting."""
        async with self.opened() as storage:
            await park(storage, parked_event("1"))
            await storage.inbox.start("advising", "shop", "2", 8, alone=True)
            await add(storage, Written("late"), after=FUTURE)
            assert storage.reopened is not None
            async with storage.reopened() as again:
                assert [event.event_id for event in await again.parking.find(ALL)] == ["1"]
                assert (await again.inbox.start("advising", "shop", "2", 8, alone=True)).attempt == 3
                assert await again.outbox.due_in() is not None

    @needs(StorageCapability.SEVERAL_WRITERS)
    async def test_a_new_transaction_commits_while_the_outer_one_has_written(self) -> None:
        """It neither waits for the outer one nor sees what that has written."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await writing("outer")(storage)
                await storage.do(writing("new"), mode=TransactionMode.NEW)
                assert await storage.read() == ["new"]

            await storage.do(action)
            assert await storage.read() == ["new", "outer"]
            assert sorted(await storage.waiting()) == ["new", "outer"]
