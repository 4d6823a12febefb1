"""InboxConformance: the promises of `Inbox` as test cases."""

import asyncio

from mediator.distributed.inbox import Admission, Start
from mediator.errors import UnitOfWorkMismatchError
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.storage import StorageUnderTest
from mediator.testing.conformance.storage_steps import GROUP, insert, outcome_of, park, parked_event
from mediator.testing.conformance.storage_suite import StorageSuite
from mediator.testing.database import InMemoryDatabase
from mediator.testing.inbox import InMemoryInbox


class InboxConformance(StorageSuite):
    """What a consumer builds upon."""

    async def test_an_event_is_taken_in_once_and_only_if_its_transaction_commits(self) -> None:
        """An event is taken in once and only if its transaction commits."""
        async with self.opened() as storage:

            async def take(storage: StorageUnderTest) -> Admission:
                return await storage.inbox.insert(storage.unit_of_work, "group", "shop", "1")

            async def take_and_fail(storage: StorageUnderTest) -> None:
                assert await take(storage) is Admission.NEW
                raise LookupError

            with failing(LookupError):
                await storage.do(take_and_fail)
            assert not await storage.inbox.contains("group", "shop", "1")
            assert await storage.do(take) is Admission.NEW
            assert await storage.inbox.contains("group", "shop", "1")
            assert await storage.do(take) is Admission.DUPLICATE
            assert not await storage.inbox.contains("other", "shop", "1")
            assert await storage.inbox.clean(10) == 0

    async def test_two_transactions_at_one_event_wait_for_each_other(self) -> None:
        """Two transactions at one event wait for each other."""
        for commits in (True, False):
            await self._two_transactions_at_one_event_wait_for_each_other(commits)

    async def _two_transactions_at_one_event_wait_for_each_other(self, commits: bool) -> None:
        async with self.opened() as storage:
            took, go = asyncio.Event(), asyncio.Event()

            async def first(storage: StorageUnderTest) -> Admission:
                taken = await storage.inbox.insert(storage.unit_of_work, "group", "shop", "1")
                took.set()
                await go.wait()
                if not commits:
                    raise LookupError
                return taken

            async def second(storage: StorageUnderTest) -> Admission:
                return await storage.inbox.insert(storage.unit_of_work, "group", "shop", "1")

            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                one = group.create_task(outcome_of(storage.do(first)))
                await took.wait()
                two = group.create_task(outcome_of(storage.do(second)))
                await asyncio.sleep(0)
                go.set()
            assert (one.result(), two.result()) == (
                (Admission.NEW, Admission.DUPLICATE) if commits else (LookupError, Admission.NEW)
            )

    async def test_the_inbox_of_another_database_is_refused(self) -> None:
        """The inbox of another database is refused."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                with failing(UnitOfWorkMismatchError):
                    await InMemoryInbox(InMemoryDatabase()).insert(storage.unit_of_work, "group", "shop", "1")

            await storage.do(action)

    async def test_an_event_behind_a_parked_one_of_its_consumer_and_key_is_told_apart(self) -> None:
        """An event behind a parked one of its consumer and key is told apart."""
        async with self.opened() as storage:
            assert await insert(storage, "1") is Admission.NEW
            await park(storage, parked_event("2"))
            assert await insert(storage, "2") is Admission.DUPLICATE
            assert await insert(storage, "3") is Admission.KEY_PARKED
            assert await insert(storage, "3") is Admission.DUPLICATE
            assert await insert(storage, "4", key="other") is Admission.NEW
            assert await insert(storage, "5", key=None) is Admission.NEW
            async with storage.transaction() as unit_of_work:
                assert await storage.inbox.insert(unit_of_work, "other", "shop", "6", key="k") is Admission.NEW

    async def test_the_first_start_is_not_counted_the_later_ones_are_up_to_the_limit(self) -> None:
        """The first start is not counted the later ones are up to the limit."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            assert [await storage.inbox.start(*row, 3, alone=True) for _ in range(2)] == [Start(2), Start(3)]
            assert await storage.inbox.start(*row, 3, alone=True) == Start(3, exhausted=True)
            assert await storage.inbox.start(*row, 3) == Start(3, exhausted=True)
            assert await storage.inbox.start(*row, 4, alone=True) == Start(4)

    async def test_an_event_of_whose_last_start_nothing_is_known_is_counted_only_when_it_is_alone(
        self,
    ) -> None:
        """An event of whose last start nothing is known is a suspect, and counted only when it is alone."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            assert [await storage.inbox.start(*row, 8) for _ in range(2)] == [Start(1, suspect=True)] * 2
            assert await storage.inbox.start(*row, 8, alone=True) == Start(2)
            assert await storage.inbox.start(*row, 8) == Start(2, suspect=True)

    async def test_an_event_whose_last_start_failed_is_no_suspect(self) -> None:
        """An event whose last start failed is no suspect."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            await storage.inbox.end(*row, 1)
            assert await storage.inbox.start(*row, 8) == Start(2)
            assert await storage.inbox.start(*row, 8) == Start(2, suspect=True)
            await storage.inbox.end(*row, 2)
            assert await storage.inbox.start(*row, 8) == Start(3)
            assert await storage.inbox.start(*row, 8, alone=True) == Start(4)
            await storage.inbox.end(*row, 4)
            assert await storage.inbox.start(*row, 8) == Start(5)

    async def test_a_last_start_beside_others_exhausts_no_event(self) -> None:
        """A last start beside others exhausts no event."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            await storage.inbox.end(*row, 1)
            assert await storage.inbox.start(*row, 2) == Start(2)
            assert await storage.inbox.start(*row, 2) == Start(2, suspect=True)
            assert await storage.inbox.start(*row, 2, alone=True) == Start(3)
            assert await storage.inbox.start(*row, 2) == Start(3, exhausted=True)

    async def test_an_event_without_a_count_may_start_whatever_the_limit(self) -> None:
        """An event without a count may start whatever the limit."""
        async with self.opened() as storage:
            assert await storage.inbox.start(GROUP, "shop", "1", 1, alone=True) == Start(2)
            assert await storage.inbox.start(GROUP, "shop", "1", 1, alone=True) == Start(2, exhausted=True)

    async def test_a_start_that_was_taken_back_does_not_count_the_first_one_neither(self) -> None:
        """A start that was taken back does not count the first one neither."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            await storage.inbox.take_back(*row)
            assert await storage.inbox.start(*row, 8) == Start(1)
            assert await storage.inbox.start(*row, 8, alone=True) == Start(2)
            for _ in range(3):
                await storage.inbox.take_back(*row)
            assert await storage.inbox.start(*row, 8) == Start(1)

    async def test_an_event_that_has_taken_effect_is_not_started_and_its_count_is_gone(self) -> None:
        """An event that has taken effect is not started and its count is gone."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            await storage.inbox.start(*row, 8, alone=True)
            with failing(LookupError):
                async with storage.transaction() as unit_of_work:
                    await storage.inbox.insert(unit_of_work, *row)
                    await storage.inbox.forget_starts(unit_of_work, *row)
                    raise LookupError
            assert (await storage.inbox.start(*row, 8, alone=True)).attempt == 3
            async with storage.transaction() as unit_of_work:
                await storage.inbox.insert(unit_of_work, *row)
                await storage.inbox.forget_starts(unit_of_work, *row)
            assert (await storage.inbox.start(*row, 8)).taken
            assert await storage.inbox.answers()

    async def test_whatever_a_foreign_producer_calls_its_events_they_are_told_apart(self) -> None:
        """Whatever a foreign producer calls its events they are told apart."""
        for foreign in ("", "a\0b", "x" * 256, "\u20ac" * 1000, "\ud800", "\x1b[2J"):
            await self._whatever_a_foreign_producer_calls_its_events_they_are_told_apart(foreign)

    async def _whatever_a_foreign_producer_calls_its_events_they_are_told_apart(self, foreign: str) -> None:
        async with self.opened() as storage:
            rows = (GROUP, foreign, "1"), (GROUP, "shop", foreign), (GROUP, "shop", f"{foreign}2")
            for row in rows:
                assert not await storage.inbox.contains(*row)
                await storage.inbox.take_back(*row)
                assert await storage.inbox.start(*row, 8) == Start(1)
                for expected in (Admission.NEW, Admission.DUPLICATE):
                    async with storage.transaction() as unit_of_work:
                        assert await storage.inbox.insert(unit_of_work, *row, key=foreign) is expected
                        await storage.inbox.forget_starts(unit_of_work, *row)
                assert await storage.inbox.contains(*row)
                assert (await storage.inbox.start(*row, 8)).taken
