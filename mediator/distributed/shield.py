"""Shield: finishing work that must not be torn in the middle, although its caller is cancelled."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_late: set[asyncio.Task[Any]] = set()
"""Work that was given up waiting for. Kept referenced until it ends, which is when it frees what it holds."""


class Shielded(Generic[T]):
    """How shielded work ended.

    Attributes:
        task: The work; not done when it was given up waiting for.
        cancellation: What the caller was cancelled with meanwhile, to be raised once everything is in order.
    """

    __slots__ = ("cancellation", "task")

    def __init__(self, task: asyncio.Task[T], cancellation: asyncio.CancelledError | None) -> None:
        self.task: asyncio.Task[T] = task
        self.cancellation: asyncio.CancelledError | None = cancellation

    @property
    def failure(self) -> BaseException | None:
        """What the work raised, if it has ended; a `CancelledError` when the event loop's end cancelled it too."""
        if not self.task.done():
            return None
        return asyncio.CancelledError("the event loop is ending") if self.task.cancelled() else self.task.exception()


async def finish(work: Coroutine[Any, Any, T], timeout: float) -> Shielded[T]:  # noqa: ASYNC109  (work is not cancelled)
    """Run `work` to its end whatever happens to the caller, waiting at most `timeout` seconds.

    Never raises: what the work raised is in its task. Work that takes longer goes on by itself.
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
        task.exception()  # was reported when the wait was given up


async def wait_for_late_work(timeout: float) -> None:  # noqa: ASYNC109  (nothing is cancelled)
    """Give work that came late another `timeout` seconds, before its database is closed."""
    if _late:
        await asyncio.wait(_late, timeout=timeout)


def is_being_cancelled() -> bool:
    """Whether the running task is itself cancelled, rather than something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_own_cancellation(error: BaseException) -> bool:
    """Whether an error is the cancellation of the running task, rather than that of something it waited for."""
    return isinstance(error, asyncio.CancelledError) and is_being_cancelled()


async def drain(work: Coroutine[Any, Any, T], grace: float, told: asyncio.Event | None = None) -> T:
    """Run `work`; when the caller is cancelled let it end within `grace` seconds, else cancel it too.

    `told` is set as soon as the caller is cancelled, for work that need not use up its grace.

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
        except asyncio.CancelledError:  # cancelled again: no more grace, but what runs still ends in order
            task.cancel()
    if not task.cancelled():
        task.exception()  # the cancellation is what the caller gets to know
