"""Failpoints for tests: run an action, such as `kill`, at a named place in a commit, in the relay or in a consumer."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from mediator.blocks import contextmanager
from mediator.distributed import failpoints
from mediator.errors import not_found

Action = Callable[[], Awaitable[None]]


@contextmanager
def failpoint(name: str, action: Action) -> Iterator[None]:
    """While the context is open, run `action` each time the failpoint `name` is reached.

    Args:
        name: One of `mediator.distributed.failpoints.NAMES`.
        action: `kill`, `Failure(error)`, `Cancel(task)`, a `Pause`, or any coroutine function without arguments.

    Raises:
        NotFoundError: No failpoint has the given name.
    """
    if name not in failpoints.NAMES:
        raise not_found.no_failpoint(name, failpoints.NAMES)
    before = failpoints.armed.get(name)
    failpoints.armed[name] = action
    try:
        yield
    finally:
        del failpoints.armed[name]
        if before is not None:
            failpoints.armed[name] = before


async def kill() -> None:
    """Kill this process with SIGKILL. No buffer is flushed, and no exit handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)


class Failure:
    """Raises an exception the first `times` times that the failpoint is reached."""

    def __init__(self, error: BaseException, *, times: int = 1) -> None:
        self._error = error
        self._times = times

    async def __call__(self) -> None:
        """Raise the exception, unless it was raised `times` times already."""
        if self._times > 0:
            self._times -= 1
            raise self._error


class Cancel:
    """Cancels a task, such as a worker or the sender of a command, each time the failpoint is reached."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    async def __call__(self) -> None:
        """Cancel the task, and let other tasks run, so that the cancellation is delivered."""
        self._task.cancel()
        await asyncio.sleep(0)


class Pause:
    """Suspends every task that reaches the failpoint, until `release` is called.

    Attributes:
        reached: An `asyncio.Event`, which is set when a task is suspended at the failpoint.
    """

    def __init__(self) -> None:
        self.reached: asyncio.Event = asyncio.Event()
        self._released = asyncio.Event()

    async def __call__(self) -> None:
        """Wait until `release` is called."""
        self.reached.set()
        await self._released.wait()

    def release(self) -> None:
        """Resume the suspended tasks. Tasks that reach the failpoint later are not suspended."""
        self._released.set()
