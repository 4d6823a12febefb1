"""Assumptions of the shield, the scopes and the workers about asyncio."""

import asyncio
import contextvars

import pytest

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="outside")


async def test_a_task_has_a_copy_of_the_context_in_which_it_was_created():
    """A task that a handler starts sees the handler's dispatch as current, and cannot change the handler's context."""
    VARIABLE.set("outer")

    async def inner() -> str:
        found = VARIABLE.get()
        VARIABLE.set("inner")
        return found

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(inner())
        VARIABLE.set("later")
    assert task.result() == "outer"
    assert VARIABLE.get() == "later"


async def test_an_awaited_coroutine_shares_the_context_of_its_caller():
    """A nested dispatch runs in the task of the outer dispatch, so it must reset the context variables that it sets."""

    async def inner() -> None:
        VARIABLE.set("inner")

    await inner()
    assert VARIABLE.get() == "inner"


async def test_an_async_generator_closed_by_another_task_runs_in_the_context_of_the_closing_task():
    """Streams set their dispatch again in each step, because a token is invalid in the context of another task."""

    async def stream():
        token = VARIABLE.set("stream")
        try:
            yield
        finally:
            with pytest.raises(ValueError, match="different Context"):
                VARIABLE.reset(token)

    steps = stream()
    await asyncio.create_task(anext(steps))
    await steps.aclose()


@pytest.mark.parametrize("wait_for", [lambda work: asyncio.wait((work,)), asyncio.shield])
async def test_a_task_awaited_by_wait_or_shield_keeps_running_when_its_caller_is_cancelled(wait_for):
    """`shield.finish` and `drain` use `asyncio.wait`. `asyncio.shield` would raise at once and abandon the work."""
    let_go = asyncio.Event()
    work = asyncio.create_task(let_go.wait())

    async def wait() -> None:
        await wait_for(work)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not work.done()
    let_go.set()
    await work


async def test_a_caught_cancellation_is_still_counted():
    """`is_own_cancellation` tells whether a relay was cancelled, or only a task that the relay awaits."""
    counts: list[int] = []

    async def stubborn() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            counts.append(task.cancelling())
        await asyncio.sleep(0)  # the task continues, because a cancellation is raised once
        counts.append(task.uncancel())

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert counts == [1, 0]
    assert not task.cancelled()


async def test_a_timeout_uncancels_its_own_cancellation_and_no_other():
    """In every bounded wait, `asyncio.timeout` passes on an outside cancellation and raises no `TimeoutError`."""
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    assert task.cancelling() == 0

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await asyncio.Event().wait()

    other = asyncio.create_task(bounded())
    await asyncio.sleep(0)
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other


async def test_an_error_that_a_cancelled_task_raises_is_its_outcome():
    """The error of a rollback after a cancellation must not be lost."""

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(LookupError):
        await task


async def test_a_task_group_cancels_and_awaits_the_other_tasks_when_one_fails():
    """The task groups of pullers, consumers and concurrent notifications leave no task behind."""
    ended: list[str] = []

    async def waiting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("waiting")

    async def failing() -> None:
        await asyncio.sleep(0)
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(waiting())
            tasks.create_task(failing())
    assert [type(each) for each in caught.value.exceptions] == [LookupError]
    assert ended == ["waiting"]


async def test_a_task_group_ignores_a_task_that_cancels_itself():
    """The group ignores a handler that raises `CancelledError` uncancelled, so the library checks each task itself."""

    async def cancelling() -> None:
        raise asyncio.CancelledError

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(cancelling())
    assert task.cancelled()


async def test_a_lock_is_acquired_in_the_order_of_requests():
    """`WriterLock` gives the writers of one process their turns in order."""
    lock, order = asyncio.Lock(), []

    async def take(number: int) -> None:
        async with lock:
            order.append(number)

    await lock.acquire()
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(take(number))
        await asyncio.sleep(0)
        lock.release()
    assert order == list(range(10))


async def test_a_lock_is_not_lost_when_its_next_holder_is_cancelled_while_acquiring():
    """`WriterLock.acquire` may be cancelled together with its dispatch."""
    lock = asyncio.Lock()
    await lock.acquire()
    first, second = asyncio.create_task(lock.acquire()), asyncio.create_task(lock.acquire())
    await asyncio.sleep(0)
    lock.release()
    first.cancel()
    async with asyncio.timeout(10):
        assert await second
    assert first.cancelled() or await first
