"""WriterLock: one writer at a time in an SQLite file, across tasks and processes.

Waiting on SQLite's own busy timeout makes throughput collapse and lets writers fail under load. Here a writer waits, in
turn within its process, before it takes a connection; between processes a file lock beside the database decides, which
the operating system frees when its process dies.

A file lock knows no turns: whoever gives it up and takes it again at once is quicker than those who look again now and
then, and a relay beside a busy process would wait for seconds. So a process keeps it while writers of its own wait, but not
for long; then whoever comes back has to pass the turnstile, a second lock, and finds the next process in it. The turnstile
only makes writers polite. Nobody waits long for it, since a process that is frozen in it must not keep the others from
writing.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from mediator.errors import DatabaseUnavailableError, NestedWriterError, WriterTimeoutError
from mediator.scope import current_frame

_KEEPING_SECONDS = 0.02
"""How long a process writes before others have their turn: changing over takes about a millisecond."""
_NEXT_PAUSE = 0.002
"""How often the next one looks whether the last one has done, in seconds. To look costs a tenth of a millisecond."""
_FIRST_PAUSE = 0.01
_SHORTEST_PAUSE = 0.0025
_PATIENCE = 0.9
"""Who has waited longer for the turnstile looks more often, and so is sooner: each pause is so much of the last one."""
_POLITE_SECONDS = 0.5
"""How long somebody waits to become the next one; he who stands there and does nothing is frozen, or has no time."""
_IMPOLITE_SECONDS = 5.0
"""For how long nobody is waited for after that."""


class WriterLock:
    """The right to write to one SQLite file.

    Args:
        database: The database file; the lock files are `<database>.writer` and `<database>.turnstile`.
        timeout: How long to wait for other writers, in seconds.
        clock: Monotonic, in seconds.
    """

    def __init__(self, database: Path, *, timeout: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._timeout = timeout
        self._clock = clock
        self._turn = asyncio.Lock()
        self._file = FileLock(f"{database}.writer", thread_local=False)
        self._turnstile = FileLock(f"{database}.turnstile", thread_local=False)
        self._holder: object = None
        self._waiting = 0
        self._since = 0.0
        self._kept = False
        self._impolite_until = 0.0

    async def acquire(self, holder: object) -> None:
        """Wait for the right to write.

        Raises:
            NestedWriterError: An enclosing dispatch holds it, and would wait for this one to end.
            WriterTimeoutError: Others held it for too long.
            DatabaseUnavailableError: The lock file cannot be opened.
        """
        if self._holder is not None and self._is_held_by_an_enclosing_dispatch():
            raise NestedWriterError(str(self._database))
        try:
            async with asyncio.timeout(self._timeout):
                await self._take_turn()
                try:
                    await self._lock_file()
                except BaseException:
                    self._file.release()
                    self._turn.release()
                    raise
        except TimeoutError as error:
            raise WriterTimeoutError(str(self._database), self._timeout) from error
        self._holder = holder

    def release(self) -> None:
        """Give it up; only its holder may."""
        self._holder = None
        self._kept = True
        try:
            if not self._waiting or self._clock() >= self._since + _KEEPING_SECONDS:
                self._give_up_file()
        finally:
            self._turn.release()

    async def _take_turn(self) -> None:
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
            if not self._waiting and not self._turn.locked():  # the file was kept for a writer that waits no more
                self._give_up_file()

    def _give_up_file(self) -> None:
        if self._kept:
            self._kept = False
            self._file.release()

    async def _lock_file(self) -> None:
        if self._kept:
            self._kept = False
            return
        next_one = await self._become_the_next()
        try:
            await self._wait_for(self._file, _NEXT_PAUSE if next_one else _FIRST_PAUSE)
        finally:
            if next_one:
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
