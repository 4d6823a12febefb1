"""WriterLock: one writer at a time in an SQLite file, across tasks and processes.

Waiting on SQLite's own busy timeout makes throughput collapse and lets writers fail under load. Here a writer waits, in
turn within its process, before it takes a connection; between processes a file lock beside the database decides, which
the operating system frees when its process dies.
"""

import asyncio
from pathlib import Path

from filelock import FileLock, Timeout

from mediator.errors import DatabaseUnavailableError, NestedWriterError, WriterTimeoutError
from mediator.scope import current_frame

_LONGEST_PAUSE = 0.005


class WriterLock:
    """The right to write to one SQLite file.

    Args:
        database: The database file; the lock file is `<database>.writer`.
        timeout: How long to wait for other writers, in seconds.
    """

    def __init__(self, database: Path, *, timeout: float = 30.0) -> None:
        self._database = database
        self._timeout = timeout
        self._turn = asyncio.Lock()
        self._file = FileLock(f"{database}.writer", thread_local=False)
        self._holder: object = None

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
                await self._turn.acquire()
                try:
                    await self._lock_file()
                except BaseException:
                    self._turn.release()
                    raise
        except TimeoutError as error:
            raise WriterTimeoutError(str(self._database), self._timeout) from error
        self._holder = holder

    def release(self) -> None:
        """Give it up; only its holder may."""
        self._holder = None
        self._file.release()
        self._turn.release()

    async def _lock_file(self) -> None:
        pause = 0.0005
        while not self._try_file():
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _try_file(self) -> bool:
        try:
            self._file.acquire(blocking=False)
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
