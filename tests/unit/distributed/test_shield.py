"""Shielded work ends although its caller is cancelled."""

import asyncio
import gc
import math
import weakref
from typing import Any

import pytest

from mediator.distributed.shield import drain, finish, wait_for_late_work
from tests.unit.virtual_time import in_virtual_time, now


class Work:
    """Work that waits until the test releases it, and records its cancellations."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.started = asyncio.Event()
        self.released = asyncio.Event()
        self.stubborn = stubborn
        self.cancellations = 0

    async def run(self) -> str:
        self.started.set()
        while True:
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancellations += 1
                if not self.stubborn:
                    raise
            else:
                return "done"


async def run_ready_tasks(count: int = 5) -> None:
    """Let every task that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_finish_returns_the_result_of_the_work():
    work = Work()
    work.released.set()
    done = await finish(work.run(), 60)
    assert done.task.result() == "done"
    assert done.cancellation is None


async def test_finish_never_raises_the_error_of_the_work():
    async def fail() -> None:
        raise ValueError("raw")

    done = await finish(fail(), math.inf)
    assert str(done.task.exception()) == "raw"


async def test_finish_delays_a_cancellation_until_the_work_has_ended():
    work = Work()
    caller = asyncio.create_task(finish(work.run(), math.inf))
    await work.started.wait()
    for reason in ("first", "second"):
        caller.cancel(reason)
        await run_ready_tasks()
        assert not caller.done()
    work.released.set()
    done = await caller
    assert done.task.result() == "done"
    assert work.cancellations == 0
    assert isinstance(done.cancellation, asyncio.CancelledError)


async def test_work_that_takes_too_long_continues_in_the_background_and_can_be_awaited():
    work = Work()
    done = await finish(work.run(), 0.001)
    assert not done.task.done()
    await wait_for_late_work(0.001)
    assert not done.task.done()
    work.released.set()
    await wait_for_late_work(60)
    assert done.task.result() == "done"
    assert work.cancellations == 0


@in_virtual_time
async def test_repeated_cancellations_do_not_prolong_the_wait():
    caller = asyncio.create_task(finish(asyncio.Event().wait(), 10.0))
    for _ in range(3):
        await asyncio.sleep(3)
        caller.cancel()
    done = await caller
    assert now() == 10.0
    assert isinstance(done.cancellation, asyncio.CancelledError)
    done.task.cancel()


async def test_failing_late_work_causes_no_unhandled_error():
    release, unhandled = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))

    async def fail() -> None:
        await release.wait()
        raise ValueError

    await finish(fail(), 0.001)
    release.set()
    await wait_for_late_work(60)
    await run_ready_tasks()
    assert unhandled == []


async def test_late_work_that_has_ended_is_released():
    work = Work()
    done = await finish(work.run(), 0.001)
    late = weakref.ref(done.task)
    del done
    gc.collect()
    assert late() is not None
    work.released.set()
    await wait_for_late_work(60)
    await run_ready_tasks()
    gc.collect()
    assert late() is None


def test_late_work_of_a_closed_event_loop_is_not_awaited_in_the_next_loop():
    loop, work = asyncio.new_event_loop(), Work()
    done = loop.run_until_complete(finish(work.run(), 0.001))
    try:
        asyncio.run(asyncio.wait_for(wait_for_late_work(60), 2))
    finally:
        work.released.set()
        loop.run_until_complete(done.task)
        loop.close()


async def test_waiting_without_late_work_returns():
    await wait_for_late_work(60)


async def test_drain_returns_the_result_or_raises_the_error():
    async def fail() -> None:
        raise ValueError("raw")

    work = Work()
    work.released.set()
    assert await drain(work.run(), 60) == "done"
    with pytest.raises(ValueError, match="raw"):
        await drain(fail(), 60)


async def drained(work: Work, grace: float) -> asyncio.Task[Any]:
    caller = asyncio.create_task(drain(work.run(), grace))
    await work.started.wait()
    caller.cancel()
    await run_ready_tasks()
    return caller


async def test_drain_lets_the_work_end_within_its_grace():
    work = Work()
    caller = await drained(work, 60)
    assert not caller.done()
    work.released.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.cancellations == 0


async def test_drain_cancels_the_work_when_the_grace_is_over():
    work = Work()
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(asyncio.CancelledError):
        await (await drained(work, 0.02))
    assert work.cancellations == 1
    assert 0.02 <= loop.time() - before < 0.9


async def test_a_second_cancellation_ends_the_grace():
    work = Work()
    caller = await drained(work, 3600)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.cancellations == 1


async def test_drain_also_waits_for_work_that_resists_its_cancellation():
    work = Work(stubborn=True)
    caller = await drained(work, 3600)
    caller.cancel()
    await run_ready_tasks()
    assert work.cancellations == 1
    assert not caller.done()
    work.released.set()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_cancellation_replaces_an_error_during_the_grace():
    started, release = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        started.set()
        await release.wait()
        raise ValueError

    caller = asyncio.create_task(drain(fail(), 60))
    await started.wait()
    caller.cancel()
    await run_ready_tasks()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await caller


@in_virtual_time
async def test_work_that_swallows_a_cancellation_is_cancelled_again_every_second_until_it_ends():
    cancelled: list[float] = []

    async def reluctant() -> None:
        while len(cancelled) < 4:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(now())

    caller = asyncio.create_task(drain(reluctant(), 3.0))
    await asyncio.sleep(1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(60):
            await caller
    assert cancelled == [4.0, 5.0, 6.0, 7.0]
