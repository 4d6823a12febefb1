"""Cancellation before, during and after the commit: one consistent outcome, which the sender learns."""

import asyncio
import contextlib
from typing import Any

import pytest
from structlog.testing import capture_logs

from mediator import TransactionMode, current_scope
from mediator.distributed.shield import wait_for_late_work
from mediator.errors import CommitOutcomeUnknownError, MisuseError
from mediator.testing.failpoints import Failure, Pause, failpoint
from mediator.transactions import Outcome
from tests.adapters.sqlalchemy.ledger import Do, Ledger, Write


async def cancelled_at(ledger: Ledger, name: str, command: Write) -> tuple[list[str], Any]:
    """Cancel the command at a failpoint, and return the log events and the outcome of the scope."""
    pause = Pause()
    outcomes: list[Any] = []

    async def run() -> None:
        async with ledger.mediator.scope() as scope:
            try:
                await ledger.send(command)
            finally:
                outcomes.append(scope.outcome)

    with capture_logs() as logs, failpoint(name, pause):
        task = asyncio.create_task(run())
        await pause.reached.wait()
        task.cancel()
        await asyncio.sleep(0)
        pause.release()
        with pytest.raises(asyncio.CancelledError):
            await task
    return [line["event"] for line in logs if line["log_level"] != "debug"], outcomes[0]


async def test_a_command_cancelled_in_its_handler_rolls_back(ledger: Ledger) -> None:
    started = asyncio.Event()

    async def hang(_ledger: Ledger) -> None:
        started.set()
        await asyncio.Event().wait()

    with capture_logs() as logs:
        task = asyncio.create_task(ledger.send(Write("a", then=hang)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert logs[-1]["event"] == "transaction rolled back"
    assert await ledger.entries() == await ledger.staged() == []
    await ledger.send(Write("b"))
    assert await ledger.entries() == ["b"]


@pytest.mark.parametrize("name", ["unit_of_work.before_stage", "unit_of_work.before_commit"])
async def test_a_command_cancelled_before_its_commit_rolls_back(ledger: Ledger, name: str) -> None:
    assert await cancelled_at(ledger, name, Write("a")) == (["transaction rolled back"], Outcome.ROLLED_BACK)
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_command_cancelled_during_its_commit_commits_and_its_caller_is_cancelled(ledger: Ledger) -> None:
    outcome = await cancelled_at(ledger, "unit_of_work.during_commit", Write("a"))
    assert outcome == (["transaction committed"], Outcome.COMMITTED)
    assert await ledger.entries() == await ledger.staged() == ["a"]


async def test_a_command_cancelled_after_its_commit_stays_committed(ledger: Ledger) -> None:
    outcome = await cancelled_at(ledger, "unit_of_work.after_commit", Write("a"))
    assert outcome == (["transaction committed"], Outcome.COMMITTED)
    assert await ledger.entries() == await ledger.staged() == ["a"]


async def test_a_command_with_an_outer_timeout_during_its_commit_commits_and_raises_the_timeout(ledger: Ledger) -> None:
    pause = Pause()
    with failpoint("unit_of_work.during_commit", pause), pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:

            async def expire() -> None:
                await pause.reached.wait()
                limit.reschedule(0)
                await asyncio.sleep(0)
                pause.release()

            group.create_task(expire())
            await ledger.send(Write("a"))
    assert await ledger.entries() == ["a"]


@pytest.mark.parametrize(
    "name", ["unit_of_work.before_stage", "unit_of_work.before_commit", "unit_of_work.during_commit"]
)
async def test_an_error_shortly_before_the_commit_rolls_back(ledger: Ledger, name: str) -> None:
    with failpoint(name, Failure(LookupError("there"))), pytest.raises(LookupError, match="there"):
        await ledger.send(Write("a"))
    assert await ledger.entries() == await ledger.staged() == []
    await ledger.send(Write("b"))
    assert await ledger.entries() == ["b"]


async def test_an_unanswered_commit_has_an_unknown_outcome_and_keeps_the_writers_lock_until_it_is_answered(
    ledger: Ledger,
) -> None:
    impatient = Ledger(ledger.engine, uow_options={"commit_timeout": 0.05})
    pause = Pause()
    with capture_logs() as logs, failpoint("unit_of_work.during_commit", pause):
        with pytest.raises(CommitOutcomeUnknownError, match=r"0\.05 s"):
            await impatient.send(Write("a"))
        assert await ledger.entries() == []
        other = asyncio.create_task(ledger.send(Write("b")))
        pause.release()
        await other
        await wait_for_late_work(5)
    assert "transaction outcome unknown" in [line["event"] for line in logs]
    assert "transaction rolled back" not in [line["event"] for line in logs]
    assert await ledger.entries() == await ledger.staged() == ["a", "b"]


async def test_a_scope_begins_no_unit_of_work_before_its_last_commit_is_answered(ledger: Ledger) -> None:
    impatient = Ledger(ledger.engine, uow_options={"commit_timeout": 0.05})
    pause = Pause()
    with failpoint("unit_of_work.during_commit", pause):
        async with impatient.mediator.scope():
            with pytest.raises(CommitOutcomeUnknownError):
                await impatient.send(Write("a"))
            with pytest.raises(MisuseError, match="still waits for the answer to its COMMIT"):
                await impatient.send(Write("b"))
        pause.release()
        await wait_for_late_work(5)
    assert await ledger.entries() == ["a"]


async def test_a_second_cancellation_does_not_interrupt_the_rollback(ledger: Ledger) -> None:
    started = asyncio.Event()

    async def hang(_ledger: Ledger) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.create_task(ledger.send(Write("a", then=hang)))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ledger.send(Write("b"))
    assert await ledger.entries() == ["b"]


async def test_random_cancellation_leaves_matching_rows_and_events_and_no_locks(ledger: Ledger) -> None:
    committed: list[str] = []

    async def one(number: int) -> None:
        async def wander(_ledger: Ledger) -> None:
            for _ in range(number % 5):
                await asyncio.sleep(0)

        await ledger.send(Write(str(number), then=wander))
        committed.append(str(number))

    tasks = [asyncio.create_task(one(number)) for number in range(60)]
    for steps, task in enumerate(tasks):
        for _ in range(steps % 13):
            await asyncio.sleep(0.0005)
        if steps % 2:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    entries = await ledger.entries()
    assert sorted(entries) == sorted(await ledger.staged())
    assert set(committed) <= set(entries)
    await ledger.send(Write("last"))


async def test_an_inner_transaction_that_was_cancelled_leaves_the_outer_scope_in_place(ledger: Ledger) -> None:
    async def outer(ledger: Ledger) -> bool:
        scope = current_scope()
        inner = asyncio.create_task(ledger.send(Write("x", first=hang), mode=TransactionMode.NEW))
        await started.wait()
        inner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await inner
        return current_scope() is scope

    started = asyncio.Event()

    async def hang(_ledger: Ledger) -> None:
        started.set()
        await asyncio.Event().wait()

    assert await ledger.send(Do(outer))


async def test_a_cancellation_during_the_rollback_of_a_nested_dispatch_is_not_swallowed(ledger: Ledger) -> None:
    went_on: list[str] = []

    async def fail_and_be_cancelled(_ledger: Ledger) -> None:
        asyncio.get_running_loop().call_soon(sending.cancel)
        raise LookupError

    async def try_it(ledger: Ledger) -> None:
        with contextlib.suppress(LookupError):
            await ledger.send(Write("inner", then=fail_and_be_cancelled), mode=TransactionMode.NESTED)
        went_on.append("although cancelled")

    sending = asyncio.create_task(ledger.send(Write("outer", then=try_it)))
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert went_on == await ledger.entries() == await ledger.staged() == []


async def test_a_commit_that_the_end_of_the_event_loop_cancels_has_an_unknown_outcome_and_frees_the_lock(
    ledger: Ledger,
) -> None:
    committing = Pause()

    async def send() -> tuple[BaseException, Outcome]:
        async with ledger.mediator.scope() as scope:
            with pytest.raises(asyncio.CancelledError) as caught:
                await ledger.send(Write("a"))
            return caught.value, scope.outcome

    with failpoint("unit_of_work.during_commit", committing):
        sending = asyncio.create_task(send())
        await committing.reached.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # like the end of asyncio.run
            task.cancel()
        error, outcome = await sending
    assert isinstance(error.__cause__, CommitOutcomeUnknownError)
    assert outcome is Outcome.UNKNOWN
    async with asyncio.timeout(5):
        await ledger.send(Write("after"))
