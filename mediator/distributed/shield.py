"""Shield: lets work end in order although its caller is cancelled."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_late: set[asyncio.Task[Any]] = set()
"""Tasks that took longer than their caller waited. They are referenced until they end and free what they hold."""


class Shielded(Generic[T]):
    """The result of shielded work.

    Attributes:
        task: The work. It is not done when the wait for it timed out.
        cancellation: The cancellation of the caller that came meanwhile, to be raised once everything is in order;
            `None` when none came.
    """

    __slots__ = ("cancellation", "task")

    def __init__(self, task: asyncio.Task[T], cancellation: asyncio.CancelledError | None) -> None:
        self.task: asyncio.Task[T] = task
        self.cancellation: asyncio.CancelledError | None = cancellation

    @property
    def failure(self) -> BaseException | None:
        """The error that the ended work raised; a `CancelledError` when the end of the event loop cancelled it."""
        if not self.task.done():
            return None
        return asyncio.CancelledError("the event loop is ending") if self.task.cancelled() else self.task.exception()


async def finish(work: Coroutine[Any, Any, T], timeout: float) -> Shielded[T]:  # noqa: ASYNC109  (work is not cancelled)
    """Run `work` to its end even when the caller is cancelled, and wait at most `timeout` seconds for it.

    Never raises: an error of the work is in its task. Work that takes longer runs on by itself.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    deadline = loop.time() + timeout
    cancellation: asyncio.CancelledError | None = None
    while not task.done() and (remaining := deadline - loop.time()) > 0:
        try:
            await asyncio.wait((task,), timeout=None if remaining == math.inf else remaining)
        except asyncio.CancelledError as error:  # kept, and raised by the caller of this function
            cancellation = error
    if not task.done():
        _late.add(task)
        task.add_done_callback(_forget)
    return Shielded(task, cancellation)


def _forget(task: asyncio.Task[Any]) -> None:
    _late.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved and dropped: the timeout was reported already


async def wait_for_late_work(timeout: float) -> None:  # noqa: ASYNC109  (nothing is cancelled)
    """Wait up to `timeout` more seconds for work that timed out, before its database is closed."""
    here = [task for task in _late if task.get_loop() is asyncio.get_running_loop()]
    if here:
        await asyncio.wait(here, timeout=timeout)


def is_being_cancelled() -> bool:
    """Return whether the running task itself is being cancelled, and not only something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_own_cancellation(error: BaseException) -> bool:
    """Return whether an error is the cancellation of the running task, and not of something that it waited for."""
    return isinstance(error, asyncio.CancelledError) and is_being_cancelled()


async def drain(work: Coroutine[Any, Any, T], grace: float, told: asyncio.Event | None = None) -> T:
    """Run `work` and return its result. When the caller is cancelled, let it end within `grace` seconds.

    After the grace the work is cancelled too. `told` is set as soon as the caller is cancelled, so that the work can
    end before its grace is used up.

    Raises:
        asyncio.CancelledError: The caller was cancelled; the work has ended by then.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        if told is not None:
            told.set()
        await _end(task, grace)
        raise
    return task.result()


async def _end(task: asyncio.Task[Any], grace: float) -> None:
    deadline = asyncio.get_running_loop().time() + grace
    while not task.done():
        remaining = deadline - asyncio.get_running_loop().time()
        if remaining <= 0:
            task.cancel()
        try:
            await asyncio.wait((task,), timeout=remaining if remaining > 0 else 1.0)
        except asyncio.CancelledError:  # cancelled again: the grace is over, but the work is still awaited
            task.cancel()
    if not task.cancelled():
        task.exception()  # retrieved and dropped: the caller gets the cancellation
