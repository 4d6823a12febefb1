"""WriterLock: one writer at a time in an SQLite file, across tasks and processes.

Waiting on SQLite's own busy timeout makes throughput collapse and lets writers fail under load. Here a writer waits
before it takes a connection. Writers of one process get the lock in the order in which they asked. Between processes, a
file lock beside the database decides, which the operating system releases when a process dies.

A file lock is not fair: a process that releases it and takes it again at once is quicker than processes that poll it,
and a relay beside a busy process would wait for seconds. So a process keeps the file lock while its own writers wait,
but only for a short time. To take it again, it must first hold a second lock, the turnstile, which the next process
already holds. The turnstile only serves fairness. No process waits long for it, since a process that is frozen while
holding it must not keep the others from writing.
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
"""Seconds for which a process keeps the file lock for its own writers; handing it over takes about a millisecond."""
_NEXT_PAUSE = 0.002
"""Seconds between two tries of a process that holds the turnstile; a try takes about a tenth of a millisecond."""
_FIRST_PAUSE = 0.01
_SHORTEST_PAUSE = 0.0025
_PATIENCE = 0.9
"""Factor from one pause to the next. A process that has waited longer tries more often, and so gets the lock sooner."""
_POLITE_SECONDS = 0.5
"""Seconds a writer waits at the turnstile. A process that holds it longer is taken for frozen."""
_IMPOLITE_SECONDS = 5.0
"""Seconds for which a writer then no longer waits at the turnstile."""


class WriterLock:
    """The lock that a writer of one SQLite file holds, in the files `<database>.writer` and `<database>.turnstile`.

    A writer waits `timeout` seconds for other writers.
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
        self._kept = False
        self._impolite_until = 0.0

    async def acquire(self, holder: object) -> None:
        """Wait for the lock.

        Raises:
            MisuseError: The lock belongs to another event loop or process.
            NestedTransactionError: An enclosing dispatch holds the lock, and would wait for this one to end.
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
        """Release the lock; only its holder may do so."""
        self._holder = None
        self._kept = True
        try:
            if not self._waiting or self._clock() >= self._since + _KEEPING_SECONDS:
                self._give_up_file()
        finally:
            self._turn.release()

    def _take_over(self) -> None:
        """Take the lock over into this event loop, since the previous loop no longer runs.

        Tasks of the previous loop must not release anything from now on. A forgotten task ends when it is
        garbage-collected, which may be while a task of this loop writes. It sees that `_turn` was replaced.
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
                if not self._waiting and not turn.locked():  # the file lock was kept for a writer that no longer waits
                    self._give_up_file()

    def _give_up_file(self) -> None:
        if self._kept:
            self._kept = False
            self._file.release()

    async def _lock_file(self) -> None:
        if self._kept:
            self._kept = False
            return
        turn, next_one = self._turn, await self._become_the_next()
        try:
            await self._wait_for(self._file, _NEXT_PAUSE if next_one else _FIRST_PAUSE)
        finally:
            if next_one and turn is self._turn:
                self._turnstile.release()
        self._since = self._clock()

    async def _become_the_next(self) -> bool:
        if self._clock() < self._impolite_until:
            return self._try(self._turnstile)
        try:
            async with asyncio.timeout(min(_POLITE_SECONDS, self._timeout / 4)):
                await self._wait_for(self._turnstile, _FIRST_PAUSE)
        except TimeoutError:
            self._impolite_until = self._clock() + _IMPOLITE_SECONDS
            return False
        return True

    async def _wait_for(self, lock: FileLock, pause: float) -> None:
        while not self._try(lock):
            await asyncio.sleep(pause)
            pause = max(pause * _PATIENCE, min(pause, _SHORTEST_PAUSE))

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
