"""UnitOfWorkConformance: the promises of `UnitOfWork` as test cases."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from mediator.distributed.broker import DistributedEventBroker
from mediator.errors import (
    EventIdConflictError,
    EventNotSerializableError,
    IsolationNotSupportedError,
    OutboxFullError,
    TooManyEventsError,
    UnitOfWorkRolledBackError,
)
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.storage import StorageUnderTest, Written, writing
from mediator.testing.conformance.storage_steps import FUTURE, add, outcome_of
from mediator.testing.conformance.storage_suite import StorageSuite
from mediator.transactions import Outcome, TransactionMode


class UnitOfWorkConformance(StorageSuite):
    """What the transaction of every command builds upon."""

    async def test_rows_and_events_are_there_after_the_commit_and_not_before(self) -> None:
        """Rows and events are there after the commit and not before."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await writing("a")(storage)
                assert (await storage.read(), await storage.waiting()) == ([], [])

            await storage.do(action)
            assert (await storage.read(), await storage.waiting()) == (["a"], ["a"])

    async def test_a_rollback_leaves_neither(self) -> None:
        """A rollback leaves neither."""
        async with self.opened() as storage:
            async with storage.mediator.scope() as scope:
                with failing(LookupError):
                    await storage.do(writing("a", fails=True))
                outcomes = [scope.outcome]
                assert await storage.do(writing("b")) == "b"
                assert [*outcomes, scope.outcome] == [Outcome.ROLLED_BACK, Outcome.COMMITTED]
            assert (await storage.read(), await storage.waiting()) == (["b"], ["b"])

    async def test_a_rollback_to_a_savepoint_undoes_what_came_after_it(self) -> None:
        """A rollback to a savepoint undoes what came after it."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await writing("before")(storage)
                with failing(LookupError):
                    await storage.do(writing("inner", fails=True), mode=TransactionMode.NESTED)
                await storage.do(writing("kept"), mode=TransactionMode.NESTED)
                await writing("after")(storage)

            await storage.do(action)
            assert await storage.read() == ["after", "before", "kept"]
            assert await storage.waiting() == ["before", "kept", "after"]

    async def test_a_swallowed_failure_dooms_the_commit(self) -> None:
        """A swallowed failure dooms the commit."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                with failing(LookupError):
                    await storage.do(writing("inner", fails=True))

            with failing(UnitOfWorkRolledBackError):
                await storage.do(action)
            assert (await storage.read(), await storage.waiting()) == ([], [])

    async def test_a_new_transaction_is_independent_of_the_outer_one(self) -> None:
        """A new transaction is independent of the outer one."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await storage.do(writing("new"), mode=TransactionMode.NEW)
                await writing("outer", fails=True)(storage)

            with failing(LookupError):
                await storage.do(action)
            assert (await storage.read(), await storage.waiting()) == (["new"], ["new"])

    async def test_an_isolation_level_that_cannot_be_given_is_refused(self) -> None:
        """An isolation level that cannot be given is refused."""
        async with self.opened() as storage, storage.mediator.scope():
            with failing(IsolationNotSupportedError):
                await storage.unit_of_work.begin("test", isolation="READ UNCOMMITTED")

    async def test_a_key_that_some_database_cannot_store_fails_the_command_on_each(self) -> None:
        """A key that some database cannot store fails the command on each."""
        for key in ("\0", "a\0b", "k" * 256):
            await self._a_key_that_some_database_cannot_store_fails_the_command_on_each(key)

    async def _a_key_that_some_database_cannot_store_fails_the_command_on_each(self, key: str) -> None:
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await storage.write("a")
                storage.add(Written("a", key))

            with failing(EventNotSerializableError):
                await storage.do(action)
            assert (await storage.read(), await storage.waiting()) == ([], [])

    async def test_any_other_key_and_any_text_come_back_unchanged(self) -> None:
        """Any other key and any text come back unchanged."""
        for key in ("k" * 255, "ä" * 255, "\x01'\"\\%"):
            await self._any_other_key_and_any_text_come_back_unchanged(key)

    async def _any_other_key_and_any_text_come_back_unchanged(self, key: str) -> None:
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                storage.add(Written("\0 and \U0001f600", key))

            await storage.do(action)
            async with storage.outbox.claim(10) as batch:
                assert [event.partitionkey for event in batch.events] == [key]
                assert json.loads(batch.events[0].data)["text"] == "\0 and \U0001f600"

    async def test_an_id_that_no_database_can_store_fails_the_command(self) -> None:
        """An id that no database can store fails the command."""
        for event_id in ("", "x" * 65, "a\0b", "\ud800"):
            await self._an_id_that_no_database_can_store_fails_the_command(event_id)

    async def _an_id_that_no_database_can_store_fails_the_command(self, event_id: str) -> None:
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await storage.write("a")
                DistributedEventBroker(storage.unit_of_work, ids=lambda: event_id).add(Written("a"))

            with failing(EventNotSerializableError):
                await storage.do(action)
            assert (await storage.waiting(), await storage.read()) == ([], [])

    async def test_an_id_of_64_characters_of_any_kind_is_kept(self) -> None:
        """An id of 64 characters of any kind is kept."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                DistributedEventBroker(storage.unit_of_work, ids=lambda: "\u20ac" * 64).add(Written("a"))

            await storage.do(action)
            async with storage.outbox.claim(1) as batch:
                assert [event.id for event in batch.events] == ["\u20ac" * 64]

    async def test_an_id_that_waits_in_the_outbox_already_fails_the_command(self) -> None:
        """An id that waits in the outbox already fails the command, until that event is sent."""
        for after in (None, FUTURE):
            await self._an_id_that_waits_in_the_outbox_already_fails_the_command(after)

    async def _an_id_that_waits_in_the_outbox_already_fails_the_command(self, after: timedelta | None) -> None:
        async with self.opened() as storage:
            await self._write_as(storage, "first", ["order-1"], after)
            assert (await self._conflict(storage, "second", ["order-1"])).event_ids == ("order-1",)
            assert "order-1" in (await self._conflict(storage, "third", ["order-2", "order-1", "order-3"])).event_ids
            assert await storage.read() == ["first"]
            if after is None:
                async with storage.outbox.claim(10) as batch:
                    assert [event.id for event in batch.events] == ["order-1"]
                    await batch.settle(["order-1"])
            else:
                assert await storage.outbox.cancel("order-1")
            await self._write_as(storage, "fourth", ["order-1"])
            assert (await storage.read(), await storage.waiting()) == (["first", "fourth"], ["fourth"])

    async def test_an_id_that_two_events_of_one_command_have_fails_it(self) -> None:
        """An id that two events of one command have fails it."""
        async with self.opened() as storage:
            error = await self._conflict(storage, "a", ["order-1", "order-2", "order-1"])
            assert (error.event_ids, error.in_one_command) == (("order-1",), True)
            assert (await storage.read(), await storage.waiting()) == ([], [])

    @staticmethod
    async def _write_as(
        storage: StorageUnderTest, row: str, ids: Sequence[str], after: timedelta | None = None
    ) -> None:
        async def action(storage: StorageUnderTest) -> None:
            await storage.write(row)
            chosen = iter(ids)
            events = DistributedEventBroker(storage.unit_of_work, ids=lambda: next(chosen))
            for _ in ids:
                events.add(Written(row), deliver_at=None if after is None else datetime.now(UTC) + after)

        await storage.do(action)

    async def _conflict(self, storage: StorageUnderTest, row: str, ids: Sequence[str]) -> EventIdConflictError:
        with failing(EventIdConflictError) as caught:
            await self._write_as(storage, row, ids)
        assert isinstance(caught[0], EventIdConflictError)
        return caught[0]

    async def test_random_commands_at_the_same_time_leave_rows_equal_to_events(self) -> None:
        """Random commands at the same time leave rows equal to events."""
        async with self.opened() as storage:

            async def one(number: int) -> None:
                await outcome_of(storage.do(writing(f"{number:02}", fails=bool(number % 3))))

            async with asyncio.TaskGroup() as group:
                for number in range(30):
                    group.create_task(one(number))
            rows = await storage.read()
            assert rows == [f"{number:02}" for number in range(0, 30, 3)]
            assert sorted(await storage.waiting()) == rows

    async def test_a_command_that_would_overfill_the_outbox_fails_and_leaves_nothing(self) -> None:
        """`max_pending` is a bound of what waits; who comes too late learns how much that is."""
        async with self.opened() as storage:
            await self._write(storage, "a", "b")
            with failing(OutboxFullError) as caught:
                await self._write(storage, "c", "d")
            assert isinstance(caught[0], OutboxFullError)
            assert (caught[0].pending, caught[0].max_pending) == (2, 3)
            await self._write(storage, "e")
            with failing(OutboxFullError):
                await self._write(storage, "f")
            assert await storage.read() == ["a", "e"]

    async def test_a_command_with_more_events_than_may_ever_wait_is_told_so(self) -> None:
        """It is refused also by an empty outbox, with an error that promises no later success."""
        async with self.opened() as storage:
            with failing(TooManyEventsError) as caught:
                await self._write(storage, "a", "b", "c", "d")
            assert isinstance(caught[0], TooManyEventsError)
            assert (caught[0].count, caught[0].max_pending) == (4, 3)
            assert (await storage.read(), await storage.waiting()) == ([], [])

    async def test_an_outbox_that_was_emptied_has_room_again(self) -> None:
        """At the latest when a count that took long is repeated."""
        async with self.opened() as storage:
            await self._write(storage, "a", "b", "c")
            async with storage.outbox.claim(10) as batch:
                await batch.settle([event.id for event in batch.events])
            async with asyncio.timeout(10):
                while await storage.waiting() != ["g"]:
                    with contextlib.suppress(OutboxFullError):
                        await self._write(storage, "g")

    @staticmethod
    async def _write(storage: StorageUnderTest, *rows: str) -> None:
        async with storage.mediator.scope():
            unit_of_work = storage.make(max_pending=3)
            async with unit_of_work:
                await storage.write(rows[0])
                for row in rows:
                    DistributedEventBroker(unit_of_work).add(Written(row))

    async def test_delayed_events_do_not_fill_the_outbox(self) -> None:
        """They are not counted until they are due, neither those that are there nor those that a command adds."""
        async with self.opened() as storage:
            await add(storage, *(Written(str(number)) for number in range(5)), after=FUTURE)
            async with storage.transaction(max_pending=1) as unit_of_work:
                events = DistributedEventBroker(unit_of_work)
                events.add(Written("a"))
                for number in range(5):
                    events.add(Written(str(number)), deliver_at=datetime.now(UTC) + FUTURE)
            await add(storage, Written("b"))
            async with storage.transaction(max_pending=1) as unit_of_work:
                DistributedEventBroker(unit_of_work).add(Written("late"), deliver_at=datetime.now(UTC) + FUTURE)
            assert await storage.waiting() == ["a", "b"]
