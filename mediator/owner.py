"""Owner: the event loop to which an object belongs. This module also starts tasks that belong to no dispatch.

A task keeps a copy of the context variables that were set when the task was created. Suppose that a connection is
opened while a command is handled. The tasks of the connection would keep the command, the tenant and the log fields in
memory until the connection is closed. To prevent this, the tasks of connections are started in an empty context.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from mediator.errors import misuse


class Owner:
    """The owner of an object that is bound to an event loop: the first loop that uses the object.

    When the owner no longer runs, the next loop that uses the object becomes the owner, as when one `asyncio.run`
    follows another. Another process, or a loop that runs at the same time in another thread, gets an error at once.
    Without the error, the process or loop could wait forever.
    """

    __slots__ = ("_loop", "_part", "_process", "_thread")

    def __init__(self, part: str) -> None:
        self._part = part
        self._process = os.getpid()
        self._thread = threading.current_thread().name
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    def check(self, *, busy: bool = False, moves: bool = True) -> bool:
        """Check that the running event loop owns the object, or make the running loop the owner if that is allowed.

        Return True if the loop has just taken the object over from another loop, otherwise False. If `busy` is true,
        the object can be taken over only from a closed loop. If `moves` is false, the object cannot be taken over. When
        another process or event loop owns the object, a `MisuseError` is raised.
        """
        loop, owner = running_loop(), self._owner()
        if self._loop is None:
            self._take(loop)
            return False
        if os.getpid() == self._process and loop is not None:
            if owner is loop:
                return False
            if moves and (owner is None or owner.is_closed() or not (busy or owner.is_running())):
                self._take(loop)
                return True
        owned = f"the event loop of the thread {self._thread!r} in process {self._process}"
        raise misuse.wrong_owner(self._part, owned, _here())

    def _take(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is not None:
            self._loop = weakref.ref(loop)
            self._process, self._thread = os.getpid(), threading.current_thread().name

    @property
    def is_in_another_process(self) -> bool:
        """Whether this process is a fork of the process that owns the object."""
        return os.getpid() != self._process

    @property
    def is_elsewhere(self) -> bool:
        """Whether the object belongs to another process, or to an event loop that is closed or no longer exists."""
        owner = self._owner()
        return self.is_in_another_process or (self._loop is not None and (owner is None or owner.is_closed()))

    def _owner(self) -> asyncio.AbstractEventLoop | None:
        return None if self._loop is None else self._loop()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or `None`."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _here() -> str:
    place = "the thread" if running_loop() is None else "another event loop, of the thread"
    return f"{place} {threading.current_thread().name!r} in process {os.getpid()}"


T = TypeVar("T")


def start_detached(work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
    """Start a task in an empty context."""
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())


async def detached(work: Coroutine[Any, Any, T], *, discard: Callable[[T], object] | None = None) -> T:
    """Run a coroutine in an empty context and return its result. Cancelling the call cancels the coroutine.

    If the cancellation arrives just when the coroutine has ended, `discard` gets the result, which nobody else receives.
    """
    results: list[T] = []

    async def keep() -> T:
        results.append(await work)
        return results[0]

    try:
        return await start_detached(keep())
    except asyncio.CancelledError:
        work.close()  # in case the task was cancelled before its first step
        if discard is not None and results:
            discard(results[0])
        raise
