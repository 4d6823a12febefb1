"""WriterLock: a lock for one writer at a time in an SQLite file, across tasks and processes.

With SQLite's own busy timeout, throughput collapses under load, and writers fail. With this lock, a writer waits before
taking a connection. Writers of one process get the lock in the order of their requests. Processes compete for a file
lock beside the database. If the process that holds the file lock dies, the operating system releases the file lock.

A file lock is not fair. The process that has just released the file lock can take the lock again faster than processes
that poll. A process that polls could therefore wait for seconds. Two rules make the lock fairer. First, a
process keeps the file lock for its own waiting writers only for a short time. Second, a process polls the file lock
only while holding a second file lock, the turnstile. The process that has just released the file lock must therefore
wait behind the process that holds the turnstile.

The turnstile is needed only for fairness. A frozen process may hold the turnstile. A process therefore waits for the
turnstile only for a short time, and then polls the file lock without the turnstile.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from mediator.errors import DatabaseUnavailableError, WriterTimeoutError, misuse
from mediator.owner import Owner
from mediator.scope import current_frame

_KEEPING_SECONDS = 0.02
"""Seconds for which a process keeps the file lock for its own writers. A hand-over to another process takes 1 ms."""
_NEXT_PAUSE = 0.002
"""Seconds between two attempts to take the file lock while holding the turnstile. One attempt takes about 0.1 ms."""
_FIRST_PAUSE = 0.01
"""Seconds between the first two attempts of a process to take a file lock without holding the turnstile."""
_SHORTEST_PAUSE = 0.0025
_PAUSE_FACTOR = 0.9
"""The factor from one pause to the next. A process that has waited longer polls more often, and gets the lock sooner."""
_TURNSTILE_SECONDS = 0.5
"""Seconds a writer waits for the turnstile. A process that holds the turnstile longer is assumed to be frozen."""
_IGNORING_SECONDS = 5.0
"""After a writer has waited `_TURNSTILE_SECONDS` in vain, no writer waits for the turnstile for this many seconds."""


class WriterLock:
    """The writer lock of one SQLite file, made of the lock files `<database>.writer` and `<database>.turnstile`.

    A writer waits at most `timeout` seconds for other writers.
    """

    def __init__(self, database: Path, *, timeout: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._timeout = timeout
        self._clock = clock
        self._owner = Owner(f"The right to write to {database}")
        self._turn = asyncio.Lock()
        self._file = FileLock(f"{database}.writer", thread_local=False)
        self._turnstile = FileLock(f"{database}.turnstile", thread_local=False)
        self._holder: object = None
        self._waiting = 0
        self._since = 0.0
        self._keeps_file = False
        self._ignoring_turnstile_until = 0.0

    async def acquire(self, holder: object) -> None:
        """Wait for the lock.

        Raises:
            MisuseError: The lock belongs to another event loop or process; or an enclosing dispatch holds the lock, and
                waits for the dispatch that calls this method.
            WriterTimeoutError: Other writers held the lock for too long.
            DatabaseUnavailableError: The lock file cannot be opened.
        """
        if self._owner.check(busy=self._turn.locked()):
            self._take_over()
        if self._holder is not None and self._is_held_by_an_enclosing_dispatch():
            raise misuse.nested_writer(str(self._database))
        try:
            async with asyncio.timeout(self._timeout):
                await self._take_turn()
                turn = self._turn
                try:
                    await self._lock_file()
                except BaseException:
                    if turn is self._turn:
                        self._file.release()
                        turn.release()
                    raise
        except TimeoutError as error:
            raise WriterTimeoutError(str(self._database), self._timeout) from error
        self._holder = holder

    def release(self) -> None:
        """Release the lock. Only the holder of the lock may call this method."""
        self._holder = None
        self._keeps_file = True
        try:
            if not self._waiting or self._clock() >= self._since + _KEEPING_SECONDS:
                self._give_up_file()
        finally:
            self._turn.release()

    def _take_over(self) -> None:
        """Move the lock to this event loop, since the previous loop no longer runs.

        A task of the previous loop may end late, when the task is garbage-collected. This task must not release the
        lock of a task in this loop. This method therefore replaces `_turn`, and a task releases nothing if `_turn` was
        replaced.
        """
        if self._turn.locked():
            self._file.release()
            self._turnstile.release()
        self._turn, self._holder, self._waiting = asyncio.Lock(), None, 0

    async def _take_turn(self) -> None:
        turn = self._turn
        self._waiting += 1
        try:
            await turn.acquire()
        finally:
            if turn is self._turn:
                self._waiting -= 1
                if not self._waiting and not turn.locked():  # no other writer of this process needs the file lock
                    self._give_up_file()

    def _give_up_file(self) -> None:
        if self._keeps_file:
            self._keeps_file = False
            self._file.release()

    async def _lock_file(self) -> None:
        if self._keeps_file:
            self._keeps_file = False
            return
        turn, is_next = self._turn, await self._take_turnstile()
        try:
            await self._wait_for(self._file, _NEXT_PAUSE if is_next else _FIRST_PAUSE)
        finally:
            if is_next and turn is self._turn:
                self._turnstile.release()
        self._since = self._clock()

    async def _take_turnstile(self) -> bool:
        """Try for a short time to take the turnstile, and return whether this process holds the turnstile."""
        if self._clock() < self._ignoring_turnstile_until:
            return self._try(self._turnstile)
        try:
            async with asyncio.timeout(min(_TURNSTILE_SECONDS, self._timeout / 4)):
                await self._wait_for(self._turnstile, _FIRST_PAUSE)
        except TimeoutError:
            self._ignoring_turnstile_until = self._clock() + _IGNORING_SECONDS
            return False
        return True

    async def _wait_for(self, lock: FileLock, pause: float) -> None:
        while not self._try(lock):
            await asyncio.sleep(pause)
            pause = max(pause * _PAUSE_FACTOR, min(pause, _SHORTEST_PAUSE))

    def _try(self, lock: FileLock) -> bool:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise DatabaseUnavailableError(str(self._database), f"its lock file: {error}") from error
        return True

    def _is_held_by_an_enclosing_dispatch(self) -> bool:
        frame = current_frame()
        while frame is not None:
            if frame.scope.transaction is self._holder:
                return True
            frame = frame.parent
        return False
