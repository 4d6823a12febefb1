"""InboxConformance: the promises of `Inbox` as test cases."""

import asyncio

from mediator.distributed.inbox import Admission, Start
from mediator.errors import MisuseError
from mediator.testing.conformance.storage import (
    GROUP,
    StorageSuite,
    StorageUnderTest,
    insert,
    outcome_of,
    park,
    parked_event,
)
from mediator.testing.conformance.suite import failing
from mediator.testing.memory import InMemoryDatabase, InMemoryInbox


class InboxConformance(StorageSuite):
    """The promises that a consumer depends on.

    `start` counts the starts of an event's handlers. An event starts alone if no other event is being handled in the
    process. A suspect is an event whose last start has no recorded end. A suspect may have killed its process.
    """

    async def test_an_event_is_recorded_once_and_only_if_its_transaction_commits(self) -> None:
        """After a rollback the event is new again. Each consumer has its own records."""
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

    async def test_a_transaction_waits_for_another_one_that_records_the_same_event(self) -> None:
        """In the second transaction, `insert` returns `DUPLICATE` if the first transaction commits, and `NEW` if not."""
        for commits in (True, False):
            await self._record_in_two_transactions(commits)

    async def _record_in_two_transactions(self, commits: bool) -> None:
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
            expected = (Admission.NEW, Admission.DUPLICATE) if commits else (LookupError, Admission.NEW)
            assert (one.result(), two.result()) == expected

    async def test_the_inbox_of_another_database_is_refused(self) -> None:
        """An inbox raises `MisuseError` for a unit of work on another database."""
        async with self.opened() as storage, storage.transaction() as unit_of_work:
            with failing(MisuseError, text="belongs to another unit of work or database"):
                await InMemoryInbox(InMemoryDatabase()).insert(unit_of_work, "group", "shop", "1")

    async def test_an_event_behind_a_parked_event_of_its_key_is_admitted_as_key_parked(self) -> None:
        """Events with other keys, for other consumers or without a key are admitted as `NEW`."""
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

    async def test_starts_after_the_first_are_counted_up_to_the_limit(self) -> None:
        """`start` is called from attempt 2 on, because attempt 1 is not counted. `limit` is the highest attempt."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            assert [await storage.inbox.start(*row, 3, alone=True) for _ in range(2)] == [Start(2), Start(3)]
            assert await storage.inbox.start(*row, 3, alone=True) == Start(3, exhausted=True)
            assert await storage.inbox.start(*row, 3) == Start(3, exhausted=True)
            assert await storage.inbox.start(*row, 4, alone=True) == Start(4)

    async def test_an_event_whose_last_start_has_no_known_end_may_start_only_alone(self) -> None:
        """While other events are handled, `start` reports the event as a suspect, and counts no start."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            assert [await storage.inbox.start(*row, 8) for _ in range(2)] == [Start(1, suspect=True)] * 2
            assert await storage.inbox.start(*row, 8, alone=True) == Start(2)
            assert await storage.inbox.start(*row, 8) == Start(2, suspect=True)

    async def test_an_event_whose_last_start_failed_is_no_suspect(self) -> None:
        """The next start of the event is counted even while other events are handled."""
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

    async def test_a_start_concurrent_with_other_events_does_not_exhaust_an_event(self) -> None:
        """The other events may have killed the process, so the suspect may start alone once more, even beyond the limit."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            await storage.inbox.end(*row, 1)
            assert await storage.inbox.start(*row, 2) == Start(2)
            assert await storage.inbox.start(*row, 2) == Start(2, suspect=True)
            assert await storage.inbox.start(*row, 2, alone=True) == Start(3)
            assert await storage.inbox.start(*row, 2) == Start(3, exhausted=True)

    async def test_an_event_without_a_count_may_start_at_any_limit(self) -> None:
        """`start` assumes that other events were handled during attempt 1. So the event may start again even at limit 1."""
        async with self.opened() as storage:
            assert await storage.inbox.start(GROUP, "shop", "1", 1, alone=True) == Start(2)
            assert await storage.inbox.start(GROUP, "shop", "1", 1, alone=True) == Start(2, exhausted=True)

    async def test_a_start_that_was_taken_back_is_not_counted(self) -> None:
        """`take_back` accepts even the first start, which was never counted."""
        async with self.opened() as storage:
            row = (GROUP, "shop", "1")
            await storage.inbox.take_back(*row)
            assert await storage.inbox.start(*row, 8) == Start(1)
            assert await storage.inbox.start(*row, 8, alone=True) == Start(2)
            for _ in range(3):
                await storage.inbox.take_back(*row)
            assert await storage.inbox.start(*row, 8) == Start(1)

    async def test_an_event_that_took_effect_is_not_started_and_has_no_count(self) -> None:
        """If the transaction that records the effect rolls back, the event keeps its count and may start again."""
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

    async def test_any_text_is_accepted_as_source_id_and_key(self) -> None:
        """Foreign producers choose the source, id and key, and may use characters that a database column cannot store."""
        for foreign in ("", "a\0b", "x" * 256, "\u20ac" * 1000, "\ud800", "\x1b[2J"):
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
