"""Failpoints for tests: make the process fail, stop or die at a named place of the commit path, relay or consumer."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mediator.distributed import failpoints
from mediator.errors import FailpointNotFoundError

Action = Callable[[], Awaitable[None]]


@contextmanager
def failpoint(name: str, action: Action) -> Iterator[None]:
    """Do `action` whenever the failpoint is reached inside the block.

    Args:
        name: One of `mediator.distributed.failpoints.NAMES`.
        action: `kill`, `Failure(error)`, `Cancel(task)`, a `Pause`, or any coroutine function without arguments.

    Raises:
        FailpointNotFoundError: There is no such failpoint.
    """
    if name not in failpoints.NAMES:
        raise FailpointNotFoundError(name, failpoints.NAMES)
    before = failpoints.armed.get(name)
    failpoints.armed[name] = action
    try:
        yield
    finally:
        del failpoints.armed[name]
        if before is not None:
            failpoints.armed[name] = before


async def kill() -> None:
    """End this process at once, as `kill -9` does: nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)


class Failure:
    """Raises an exception, the first `times` it is reached."""

    def __init__(self, error: BaseException, *, times: int = 1) -> None:
        self._error = error
        self._times = times

    async def __call__(self) -> None:
        """Raise."""
        if self._times > 0:
            self._times -= 1
            raise self._error


class Cancel:
    """Cancels a task, each time it is reached: the caller of what fails here, or the worker that does it."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    async def __call__(self) -> None:
        """Cancel, and let that arrive."""
        self._task.cancel()
        await asyncio.sleep(0)


class Pause:
    """Stops whoever reaches it until it is released.

    Attributes:
        reached: Set when somebody is stopped here.
    """

    def __init__(self) -> None:
        self.reached: asyncio.Event = asyncio.Event()
        self._released = asyncio.Event()

    async def __call__(self) -> None:
        """Stop until released."""
        self.reached.set()
        await self._released.wait()

    def release(self) -> None:
        """Let go on who is stopped, and who comes later."""
        self._released.set()
