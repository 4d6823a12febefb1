"""UnitOfWorkConformance: the promises of `UnitOfWork` as test cases, including cancellation and durability."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from operator import methodcaller

from mediator.distributed.inbox import Admission
from mediator.distributed.unit_of_work import DistributedEventBroker, UnitOfWorkState
from mediator.errors import (
    CommittedError,
    EventIdConflictError,
    EventLimitError,
    EventNotSerializableError,
    MisuseError,
    NoUnitOfWorkError,
    OutboxFullError,
    RolledBackError,
)
from mediator.messages import Notification
from mediator.scope import Scope
from mediator.testing.conformance.storage import (
    ALL,
    FUTURE,
    Listed,
    StorageCapability,
    StorageSuite,
    StorageUnderTest,
    Written,
    add,
    insert,
    outcome_of,
    park,
    parked_event,
    writing,
)
from mediator.testing.conformance.suite import failing, needs
from mediator.testing.failpoints import Cancel, Failure, failpoint
from mediator.transactions import Outcome, TransactionMode


class UnitOfWorkConformance(StorageSuite):
    """The promises about the transaction of a command."""

    async def test_rows_and_events_are_there_after_the_commit_and_not_before(self) -> None:
        """Other transactions do not see the rows and events before the commit."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await writing("a")(storage)
                assert (await storage.read(), await storage.waiting()) == ([], [])

            await storage.do(action)
            assert (await storage.read(), await storage.waiting()) == (["a"], ["a"])

    async def test_a_rollback_leaves_neither_rows_nor_events(self) -> None:
        """The next command in the same unit of work commits nothing that the failed command wrote."""
        async with self.opened() as storage:
            async with storage.mediator.scope() as scope:
                with failing(LookupError):
                    await storage.do(writing("a", fails=True))
                outcomes = [scope.outcome]
                assert list(storage.unit_of_work.pending_events) == []
                assert await storage.do(writing("b")) == "b"
                assert list(storage.unit_of_work.pending_events) == []
                assert [*outcomes, scope.outcome] == [Outcome.ROLLED_BACK, Outcome.COMMITTED]
            assert (await storage.read(), await storage.waiting()) == (["b"], ["b"])

    async def test_an_error_after_the_database_has_committed_raises_committed_error(self) -> None:
        """The error is the cause of the `CommittedError`, and the next command works."""
        for point in ("unit_of_work.before_wake", "unit_of_work.after_answer"):
            async with self.opened() as storage, storage.mediator.scope() as scope:
                with failpoint(point, Failure(OSError(28, "full"))), failing(CommittedError) as caught:
                    await storage.do(writing("a"))
                assert isinstance(caught[0].__cause__, OSError)
                assert (scope.outcome, storage.unit_of_work.state) == (Outcome.COMMITTED, UnitOfWorkState.IDLE)
                await storage.do(writing("b"))
                assert (await storage.read(), await storage.waiting()) == (["a", "b"], ["a", "b"])

    async def test_an_open_transaction_is_rolled_back_when_its_scope_ends(self) -> None:
        """The transaction was begun with `begin`, but never ended. It leaves no rows, events or locks behind."""
        async with self.opened() as storage:
            scopes: list[Scope] = []
            for error in (None, LookupError("on purpose"), asyncio.CancelledError()):
                with contextlib.suppress(LookupError, asyncio.CancelledError):
                    async with storage.mediator.scope() as scope:
                        scopes.append(scope)
                        await storage.unit_of_work.begin("left open")
                        await writing("a")(storage)
                        await storage.do(writing("joined"))
                        if error is not None:
                            raise error
                assert (scopes[-1].transaction, scopes[-1].outcome) == (None, Outcome.ROLLED_BACK)
                assert (await storage.read(), await storage.waiting()) == ([], [])
            async with asyncio.timeout(30):
                await storage.do(writing("b"))
            assert (await storage.read(), await storage.waiting()) == (["b"], ["b"])

    async def test_events_are_refused_outside_a_transaction(self) -> None:
        """`add` and `publish_after_commit` raise `NoUnitOfWorkError` before and after a transaction."""
        async with self.opened() as storage, storage.mediator.scope():
            for _ in range(2):
                with failing(NoUnitOfWorkError):
                    storage.add(Written("a"))
                with failing(NoUnitOfWorkError):
                    storage.mediator.publish_after_commit(Notification())
                await storage.do(writing("b"))
            assert await storage.waiting() == ["b", "b"]

    async def test_a_rollback_to_a_savepoint_undoes_what_came_after_it(self) -> None:
        """Only the rows and events of the failed nested command are undone."""
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

    async def test_the_commit_fails_if_the_error_of_a_joined_command_was_caught(self) -> None:
        """A joined command runs in the transaction of the outer command. The outer commit raises `RolledBackError`."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                with failing(LookupError):
                    await storage.do(writing("inner", fails=True))

            with failing(RolledBackError):
                await storage.do(action)
            assert (await storage.read(), await storage.waiting()) == ([], [])

    async def test_a_new_transaction_is_independent_of_the_outer_one(self) -> None:
        """The new transaction commits its rows and events even if the outer transaction rolls back."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await storage.do(writing("new"), mode=TransactionMode.NEW)
                await writing("outer", fails=True)(storage)

            with failing(LookupError):
                await storage.do(action)
            assert (await storage.read(), await storage.waiting()) == (["new"], ["new"])

    async def test_an_unsupported_isolation_level_is_refused(self) -> None:
        """`begin` raises `MisuseError` for a level that the database does not support."""
        async with self.opened() as storage, storage.mediator.scope():
            with failing(MisuseError, text="isolation level"):
                await storage.unit_of_work.begin("test", isolation="READ UNCOMMITTED")

    async def test_a_key_that_some_database_cannot_store_fails_the_command_on_every_database(self) -> None:
        """A key with a null character, or of more than 255 characters, is refused on every database."""
        for key in ("\0", "a\0b", "k" * 256):
            await self._refuses(methodcaller("add", Written("a", key)), EventNotSerializableError)

    async def test_any_other_key_and_any_text_are_stored_unchanged(self) -> None:
        """Keys of up to 255 characters and texts with any character are stored as they are."""
        for key in ("k" * 255, "ä" * 255, "\x01'\"\\%"):
            async with self.opened() as storage:
                await add(storage, Written("\0 and \U0001f600", key))
                async with storage.outbox.claim(10) as batch:
                    assert [event.partitionkey for event in batch.events] == [key]
                    assert json.loads(batch.events[0].data)["text"] == "\0 and \U0001f600"

    async def test_an_event_that_decodes_to_another_value_fails_the_command(self) -> None:
        """For example, a tuple raises `EventNotSerializableError`, because JSON turns a tuple into a list."""
        await self._refuses(lambda storage: storage.add(Listed((1, 2))), EventNotSerializableError)

    async def test_an_event_that_was_changed_after_it_was_added_fails_the_command(self) -> None:
        """The stored event must equal the event that was added."""

        def add_and_change(storage: StorageUnderTest) -> None:
            parts = [1]
            storage.add(Listed(parts))
            parts.append(2)

        await self._refuses(add_and_change, EventNotSerializableError)

    async def test_an_event_that_cannot_be_encoded_fails_the_command_even_if_the_error_is_caught(self) -> None:
        """The commit raises `RolledBackError`, although the command caught the error of `add`."""

        def add_and_go_on(storage: StorageUnderTest) -> None:
            with failing(EventNotSerializableError):
                storage.add(Listed(object()))

        await self._refuses(add_and_go_on, RolledBackError)

    async def _refuses(self, adding: Callable[[StorageUnderTest], object], error: type[Exception]) -> None:
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await storage.write("a")
                adding(storage)

            with failing(error):
                await storage.do(action)
            assert (await storage.read(), await storage.waiting()) == ([], [])

    async def test_an_id_that_no_database_can_store_fails_the_command(self) -> None:
        """An id is refused if it is empty, is too long, or contains a character that a database cannot store."""
        for event_id in ("", "x" * 65, "a\0b", "\ud800"):
            async with self.opened() as storage:
                with failing(EventNotSerializableError):
                    await self._write_as(storage, "a", [event_id])
                assert (await storage.waiting(), await storage.read()) == ([], [])

    async def test_an_id_of_64_characters_of_any_kind_is_kept(self) -> None:
        """The limit of 64 counts characters, not bytes."""
        async with self.opened() as storage:
            await self._write_as(storage, "a", ["\u20ac" * 64])
            async with storage.outbox.claim(1) as batch:
                assert [event.id for event in batch.events] == ["\u20ac" * 64]

    async def test_an_id_that_is_already_in_the_outbox_fails_the_command(self) -> None:
        """The id can be used again after the waiting event was sent or cancelled."""
        for after in (None, FUTURE):
            async with self.opened() as storage:
                await self._write_as(storage, "first", ["order-1"], after)
                assert (await self._conflict(storage, "second", ["order-1"])).event_ids == ("order-1",)
                among_others = await self._conflict(storage, "third", ["order-2", "order-1", "order-3"])
                assert "order-1" in among_others.event_ids
                assert await storage.read() == ["first"]
                if after is None:
                    async with storage.outbox.claim(10) as batch:
                        assert [event.id for event in batch.events] == ["order-1"]
                        await batch.settle(["order-1"])
                else:
                    assert await storage.outbox.cancel("order-1")
                await self._write_as(storage, "fourth", ["order-1"])
                assert (await storage.read(), await storage.waiting()) == (["first", "fourth"], ["fourth"])

    async def test_two_events_with_the_same_id_fail_their_command(self) -> None:
        """The error names the id, and says that one command used the id twice."""
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
        return caught[0]

    async def test_each_concurrent_command_leaves_a_row_and_an_event_or_neither(self) -> None:
        """A command that succeeds commits its row and its event. A command that fails commits nothing."""
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
        """`max_pending` limits the number of waiting events. The error contains the current number of waiting events."""
        async with self.opened() as storage:
            await self._write(storage, "a", "b")
            with failing(OutboxFullError) as caught:
                await self._write(storage, "c", "d")
            assert (caught[0].pending, caught[0].max_pending) == (2, 3)
            await self._write(storage, "e")
            with failing(OutboxFullError):
                await self._write(storage, "f")
            assert await storage.read() == ["a", "e"]

    async def test_a_command_with_more_events_than_max_pending_always_fails(self) -> None:
        """The command raises `EventLimitError` instead of `OutboxFullError`, because a retry cannot succeed."""
        async with self.opened() as storage:
            with failing(EventLimitError) as caught:
                await self._write(storage, "a", "b", "c", "d")
            assert (caught[0].size, caught[0].limit) == (4, 3)
            assert (await storage.read(), await storage.waiting()) == ([], [])

    async def test_a_full_outbox_accepts_events_after_its_events_were_settled(self) -> None:
        """If an adapter uses an older count of the events, the outbox may refuse events for some more seconds."""
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
        async with storage.transaction(max_pending=3) as unit_of_work:
            await storage.write(rows[0])
            for row in rows:
                DistributedEventBroker(unit_of_work).add(Written(row))

    async def test_delayed_events_do_not_fill_the_outbox(self) -> None:
        """Neither stored nor new delayed events count for `max_pending` before they are due."""
        async with self.holding(*(Written(str(number)) for number in range(5)), after=FUTURE) as storage:
            async with storage.transaction(max_pending=1) as unit_of_work:
                events = DistributedEventBroker(unit_of_work)
                events.add(Written("a"))
                for number in range(5):
                    events.add(Written(str(number)), deliver_at=datetime.now(UTC) + FUTURE)
            await add(storage, Written("b"))
            async with storage.transaction(max_pending=1) as unit_of_work:
                DistributedEventBroker(unit_of_work).add(Written("late"), deliver_at=datetime.now(UTC) + FUTURE)
            assert await storage.waiting() == ["a", "b"]


class CancellationConformance(StorageSuite):
    """A transaction commits all or nothing, even if its task is cancelled or something fails during the commit."""

    async def test_a_command_that_is_cancelled_in_its_handler_leaves_nothing(self) -> None:
        """A cancellation rolls the transaction back, as any error does."""
        async with self.opened() as storage:
            reached = asyncio.Event()

            async def action(storage: StorageUnderTest) -> None:
                await writing("a")(storage)
                reached.set()
                await asyncio.Event().wait()

            sending = asyncio.ensure_future(storage.do(action))
            await reached.wait()
            await self._cancel(sending)
            assert (await storage.read(), await storage.waiting()) == ([], [])
            assert await storage.do(writing("b")) == "b"

    async def test_a_command_that_is_cancelled_before_its_commit_leaves_nothing(self) -> None:
        """The cancellation may come before or after the events are written to the outbox."""
        for point in ("unit_of_work.before_stage", "unit_of_work.before_commit"):
            async with self.opened() as storage:
                await self._send_and_cancel(storage, point)
                assert (await storage.read(), await storage.waiting()) == ([], [])
                assert await storage.do(writing("b")) == "b"

    async def test_a_command_that_is_cancelled_during_its_commit_is_committed(self) -> None:
        """A COMMIT that has begun is completed. The cancellation is raised after the COMMIT."""
        for point in ("unit_of_work.during_commit", "unit_of_work.after_commit"):
            async with self.opened() as storage:
                await self._send_and_cancel(storage, point)
                assert (await storage.read(), await storage.waiting()) == (["a"], ["a"])
                assert await storage.do(writing("b")) == "b"

    async def test_a_failure_before_the_commit_leaves_nothing(self) -> None:
        """No rows and no events are left, and the next transaction works."""
        for point in ("unit_of_work.before_stage", "unit_of_work.before_commit", "unit_of_work.during_commit"):
            async with self.opened() as storage:
                with failpoint(point, Failure(LookupError(point))), failing(LookupError):
                    await storage.do(writing("a"))
                assert (await storage.read(), await storage.waiting()) == ([], [])
                await storage.do(writing("b"))
                assert (await storage.read(), await storage.waiting()) == (["b"], ["b"])

    async def test_a_failure_after_the_commit_keeps_rows_and_events(self) -> None:
        """The caller gets a `CommittedError`."""
        async with self.opened() as storage:
            with failpoint("unit_of_work.after_commit", Failure(LookupError("late"))), failing(CommittedError):
                await storage.do(writing("a"))
            assert (await storage.read(), await storage.waiting()) == (["a"], ["a"])

    async def test_a_cancelled_nested_command_rolls_back_the_outer_one(self) -> None:
        """An error rolls back only the nested command, but a cancellation rolls back the whole transaction."""
        async with self.opened() as storage:
            inside = asyncio.Event()

            async def hang(storage: StorageUnderTest) -> None:
                await writing("inner")(storage)
                inside.set()
                await asyncio.Event().wait()

            async def action(storage: StorageUnderTest) -> None:
                await writing("outer")(storage)
                await storage.do(hang, mode=TransactionMode.NESTED)

            sending = asyncio.ensure_future(storage.do(action))
            await inside.wait()
            await self._cancel(sending)
            assert (await storage.read(), await storage.waiting()) == ([], [])

    async def test_an_event_is_refused_after_the_end_of_its_transaction(self) -> None:
        """Adding an event after the end raises `NoUnitOfWorkError`."""
        async with self.opened() as storage:
            async with storage.mediator.scope():
                async with storage.unit_of_work:
                    await writing("a")(storage)
                with failing(NoUnitOfWorkError):
                    storage.add(Written("b"))
            assert await storage.waiting() == ["a"]

    @staticmethod
    async def _cancel(sending: asyncio.Future[object]) -> None:
        sending.cancel()
        with failing(asyncio.CancelledError):
            await sending

    async def _send_and_cancel(self, storage: StorageUnderTest, point: str) -> None:
        sending = asyncio.ensure_future(storage.do(writing("a")))
        with failpoint(point, Cancel(sending)), failing(asyncio.CancelledError):
            await sending


class DurabilityConformance(StorageSuite):
    """Committed data survives a restart, and one transaction does not block another transaction."""

    @needs(StorageCapability.DURABLE)
    async def test_rows_and_events_are_there_when_the_storage_is_opened_again(self) -> None:
        """Committed rows and events outlive the process."""
        async with self.opened() as storage:
            await storage.do(writing("a"))
            async with storage.reopened() as again:
                assert (await again.read(), await again.waiting()) == (["a"], ["a"])

    @needs(StorageCapability.DURABLE)
    async def test_settled_events_are_not_sent_again_when_the_storage_is_opened_again(self) -> None:
        """The settlement of an event is durable."""
        async with self.holding(Written("a"), Written("b")) as storage:
            async with storage.outbox.claim(1) as batch:
                await batch.settle([batch.events[0].id])
            async with storage.reopened() as again:
                assert await again.waiting() == ["b"]

    @needs(StorageCapability.DURABLE)
    async def test_recorded_events_are_duplicates_when_the_storage_is_opened_again(self) -> None:
        """An event takes effect only once, even if the process restarts."""
        async with self.opened() as storage:
            assert await insert(storage, "1") is Admission.NEW
            async with storage.reopened() as again:
                assert await insert(again, "1") is Admission.DUPLICATE

    @needs(StorageCapability.DURABLE)
    async def test_parked_and_delayed_events_and_start_counts_survive_a_restart(self) -> None:
        """Parked events and delayed events are durable. The number of starts of each event is durable too."""
        async with self.opened() as storage:
            await park(storage, parked_event("1"))
            await storage.inbox.start("advising", "shop", "2", 8, alone=True)
            await add(storage, Written("late"), after=FUTURE)
            async with storage.reopened() as again:
                assert [event.event_id for event in await again.parking.find(ALL)] == ["1"]
                assert (await again.inbox.start("advising", "shop", "2", 8, alone=True)).attempt == 3
                assert await again.outbox.due_in() is not None

    @needs(StorageCapability.SEVERAL_WRITERS)
    async def test_a_new_transaction_commits_while_the_outer_one_has_uncommitted_rows(self) -> None:
        """The new transaction neither waits for the outer transaction nor sees the rows of the outer transaction."""
        async with self.opened() as storage:

            async def action(storage: StorageUnderTest) -> None:
                await writing("outer")(storage)
                await storage.do(writing("new"), mode=TransactionMode.NEW)
                assert await storage.read() == ["new"]

            await storage.do(action)
            assert await storage.read() == ["new", "outer"]
            assert sorted(await storage.waiting()) == ["new", "outer"]
