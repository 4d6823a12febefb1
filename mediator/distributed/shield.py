"""Shield: completes work although its caller is cancelled."""

import asyncio
import math
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mediator.blocks import asynccontextmanager

T = TypeVar("T")

_late: set[asyncio.Task[Any]] = set()
"""Tasks that still run after their timeout. The set keeps a reference to each task until the task ends."""


@dataclass(frozen=True, slots=True)
class Shielded(Generic[T]):
    """The result of `finish`.

    Attributes:
        task: The task that runs the work; still running if the wait timed out.
        cancellation: The `CancelledError` of a caller that was cancelled during the wait; otherwise `None`. The caller
            has to raise this error again.
    """

    task: asyncio.Task[T]
    cancellation: asyncio.CancelledError | None

    @property
    def failure(self) -> BaseException | None:
        """The error of the work; `None` if the work succeeded or still runs.

        An ending event loop cancels the work. The error is a `CancelledError` then.
        """
        if not self.task.done():
            return None
        return asyncio.CancelledError("the event loop is ending") if self.task.cancelled() else self.task.exception()


async def finish(work: Coroutine[Any, Any, T], timeout: float) -> Shielded[T]:  # noqa: ASYNC109  (it cancels nothing)
    """Run `work` in a task, and wait at most `timeout` seconds for the task, even if the caller is cancelled.

    No error is raised: the result holds the error of the work and the cancellation of the caller. Work that takes
    longer than `timeout` continues in the background.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    deadline = loop.time() + timeout
    cancellation: asyncio.CancelledError | None = None
    while not task.done() and (remaining := deadline - loop.time()) > 0:
        try:
            await asyncio.wait((task,), timeout=None if remaining == math.inf else remaining)
        except asyncio.CancelledError as error:  # returned, so that the caller of this function raises it
            cancellation = error
    if not task.done():
        _late.add(task)
        task.add_done_callback(_forget)
    return Shielded(task, cancellation)


def _forget(task: asyncio.Task[Any]) -> None:
    _late.discard(task)
    if not task.cancelled():
        task.exception()  # marks the error as retrieved; the timeout was reported already


async def wait_for_late_work(timeout: float) -> None:  # noqa: ASYNC109  (nothing is cancelled)
    """Wait up to `timeout` seconds for work that `finish` left running. Call this before the database is closed."""
    here = [task for task in _late if task.get_loop() is asyncio.get_running_loop()]
    if here:
        await asyncio.wait(here, timeout=timeout)


def is_being_cancelled() -> bool:
    """Return whether the running task itself is being cancelled, and not only an awaited task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_own_cancellation(error: BaseException) -> bool:
    """Return whether an error is the cancellation of the running task, and not of an awaited task."""
    return isinstance(error, asyncio.CancelledError) and is_being_cancelled()


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run `work` in a task during the body, and cancel the task at the end."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def drain(work: Coroutine[Any, Any, T], grace: float, stopping: asyncio.Event | None = None) -> T:
    """Run `work` and return its result. If the caller is cancelled, give the work `grace` seconds to end.

    After the grace period the work is cancelled too. `stopping` is set as soon as the caller is cancelled, so that the
    work can end early.

    Raises:
        asyncio.CancelledError: The caller was cancelled. The error is raised after the work has ended.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        if stopping is not None:
            stopping.set()
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
        except asyncio.CancelledError:  # cancelled again: the grace period ends now
            task.cancel()
    if not task.cancelled():
        task.exception()  # marks the error as retrieved; the cancellation is raised instead
