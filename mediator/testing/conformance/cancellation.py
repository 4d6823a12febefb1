"""CancellationConformance: what cancelling a command leaves, as test cases."""

import asyncio

from mediator.errors import NoUnitOfWorkError
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.storage import StorageUnderTest, Written, writing
from mediator.testing.conformance.storage_suite import StorageSuite
from mediator.testing.failpoints import Cancel, Failure, failpoint
from mediator.transactions import TransactionMode


class CancellationConformance(StorageSuite):
    """All of a transaction or nothing, also when the task that runs it is cancelled, or something fails at its end."""

    async def test_a_command_that_is_cancelled_in_its_handler_leaves_nothing(self) -> None:
        """A cancellation rolls back like any error."""
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
        """Whether its events are stored already or not."""
        for point in ("unit_of_work.before_stage", "unit_of_work.before_commit"):
            async with self.opened() as storage:
                await self._send_and_cancel(storage, point)
                assert (await storage.read(), await storage.waiting()) == ([], [])
                assert await storage.do(writing("b")) == "b"

    async def test_a_command_that_is_cancelled_in_its_commit_commits_all(self) -> None:
        """From COMMIT on nothing tears it apart; the cancellation is raised when all is done."""
        for point in ("unit_of_work.during_commit", "unit_of_work.after_commit"):
            async with self.opened() as storage:
                await self._send_and_cancel(storage, point)
                assert (await storage.read(), await storage.waiting()) == (["a"], ["a"])
                assert await storage.do(writing("b")) == "b"

    async def test_a_failure_before_the_commit_leaves_nothing(self) -> None:
        """Neither rows nor events, and the next transaction is none the worse."""
        for point in ("unit_of_work.before_stage", "unit_of_work.before_commit", "unit_of_work.during_commit"):
            async with self.opened() as storage:
                with failpoint(point, Failure(LookupError(point))), failing(LookupError):
                    await storage.do(writing("a"))
                assert (await storage.read(), await storage.waiting()) == ([], [])
                await storage.do(writing("b"))
                assert (await storage.read(), await storage.waiting()) == (["b"], ["b"])

    async def test_a_failure_after_the_commit_leaves_all(self) -> None:
        """What was committed stays, whatever happens to the caller."""
        async with self.opened() as storage:
            with failpoint("unit_of_work.after_commit", Failure(LookupError("late"))), failing(LookupError):
                await storage.do(writing("a"))
            assert (await storage.read(), await storage.waiting()) == (["a"], ["a"])

    async def test_a_nested_command_that_is_cancelled_takes_the_outer_one_with_it(self) -> None:
        """A cancellation is no failure that a savepoint confines."""
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

    async def test_events_of_a_transaction_that_was_rolled_back_do_not_go_out_with_the_next_one(self) -> None:
        """One unit of work may run several transactions in turn, each with its own events."""
        async with self.opened() as storage:
            async with storage.mediator.scope():
                with failing(LookupError):
                    await storage.do(writing("a", fails=True))
                assert list(storage.unit_of_work.pending_events) == []
                await storage.do(writing("b"))
                assert list(storage.unit_of_work.pending_events) == []
            assert (await storage.read(), await storage.waiting()) == (["b"], ["b"])

    async def test_an_event_without_a_transaction_is_refused(self) -> None:
        """There is nothing with which it could commit."""
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
