"""SharedLock: lets the handlers of a process run concurrently, but the handlers of a suspect alone.

A suspect is an event that may have killed a process. Newcomers are the events that are delivered while a suspect waits.
"""

import asyncio
import contextvars
import heapq
import itertools
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

PATIENCE = 5.0
"""While a suspect waits, newcomers wait for this many seconds. For as many seconds after that, newcomers may start."""


class SharedLock:
    """A fair shared/exclusive lock. A suspect acquires the lock exclusively; all other events share the lock.

    A suspect waits until the running handlers have ended, and newcomers wait for the suspect. When the suspect has
    ended, all waiting newcomers run before the next suspect. Among the waiting suspects, the suspect with the fewest
    starts runs first. So the harmless suspects take effect before the event that kills the process is handled again.

    A handler that never ends would make suspects and newcomers wait without end. Therefore newcomers wait for suspects
    at most `patience` seconds. After that, newcomers may start for `patience` seconds even if suspects wait.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._newcomers_pass = False
        self._timer: asyncio.TimerHandle | None = None
        self._running = 0
        self._exclusive = False
        self._shared_waiters: list[asyncio.Future[None]] = []
        self._exclusive_waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    def request_shared(self) -> asyncio.Future[None]:
        """Request the shared lock. The future is done at once when no suspect runs or waits."""
        granted = asyncio.get_running_loop().create_future()
        self._shared_waiters.append(granted)
        if not self._exclusive_waiters or self._newcomers_pass:
            self._admit()
        return granted

    def request_exclusive(self, starts: int) -> asyncio.Future[None]:
        """Request the exclusive lock. Suspects with fewer starts acquire the lock earlier."""
        granted = asyncio.get_running_loop().create_future()
        heapq.heappush(self._exclusive_waiters, (starts, next(self._arrivals), granted))
        self._admit_exclusive()
        return granted

    def cancel(self, granted: asyncio.Future[None]) -> None:
        """Cancel a request that was not granted yet."""
        self._shared_waiters = [each for each in self._shared_waiters if each is not granted]
        self._exclusive_waiters = [each for each in self._exclusive_waiters if each[2] is not granted]
        heapq.heapify(self._exclusive_waiters)
        if not self._exclusive_waiters:
            self._admit()
        self._update_timer()

    def downgrade(self) -> None:
        """Turn the exclusive lock into a shared lock. Waiting newcomers start at once."""
        self._exclusive = False
        self._running += 1
        self._admit()
        self._update_timer()

    def release(self, *, alone: bool) -> None:
        """Release a lock that was granted; `alone` is true for the exclusive lock."""
        if alone:
            self._exclusive = False
            self._admit()
        else:
            self._running -= 1
        self._admit_exclusive()

    def _admit(self) -> None:
        if not self._exclusive:
            self._running += len(self._shared_waiters)
            for granted in self._shared_waiters:
                granted.set_result(None)
            self._shared_waiters = []

    def _admit_exclusive(self) -> None:
        if self._exclusive_waiters and not self._running and not self._exclusive:
            self._exclusive = True
            heapq.heappop(self._exclusive_waiters)[2].set_result(None)
        self._update_timer()

    def _update_timer(self) -> None:
        """Run the timer only while suspects wait for running handlers."""
        if not self._exclusive_waiters or self._exclusive:
            self._newcomers_pass = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._patience, self._on_timer, context=contextvars.Context())

    def _on_timer(self) -> None:
        self._timer = None
        self._newcomers_pass = not self._newcomers_pass
        if self._newcomers_pass:
            self._admit()
        self._update_timer()


class Guard:
    """Acquires a `SharedLock` for one delivery. Leaving the `with` block of the guard releases the lock.

    Once `stopping` is set, all waits of the guard end. `is_exclusive` is true if the guard holds or requests
    the exclusive lock.
    """

    def __init__(self, lock: SharedLock, stopping: asyncio.Event) -> None:
        self._lock = lock
        self._stopping = stopping
        self._holds = False
        self.is_exclusive: bool = False

    def __enter__(self) -> Self:
        """Return the guard, which does not hold the lock yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock, if the guard holds it."""
        self._release()

    async def shared(self) -> bool:
        """Wait for the shared lock, unless the guard holds a lock already. Return false if `stopping` ends the wait."""
        if self._holds:
            return True
        self.is_exclusive = False  # the guard may have released the exclusive lock
        return await self._wait(self._lock.request_shared())

    async def exclusive(self, starts: int) -> bool:
        """Release a held lock, and wait for the exclusive lock. Return false if `stopping` ends the wait."""
        self._release()
        self.is_exclusive = True
        return await self._wait(self._lock.request_exclusive(starts))

    def downgrade(self) -> None:
        """Turn a held exclusive lock into a shared lock."""
        if self._holds and self.is_exclusive:
            self.is_exclusive = False
            self._lock.downgrade()

    def release(self) -> None:
        """Release the lock for a while. `reacquire` acquires the same kind of lock again."""
        if self._holds:
            self._holds = False
            self._lock.release(alone=self.is_exclusive)

    async def reacquire(self, starts: int) -> bool:
        """Wait for the kind of lock that was held before `release`. Return false if `stopping` ends the wait."""
        if self._holds:
            return True
        return await (self.exclusive(starts) if self.is_exclusive else self.shared())

    async def _wait(self, granted: asyncio.Future[None]) -> bool:
        if granted.done():
            self._holds = True
            return True
        stop = asyncio.get_running_loop().create_task(self._stopping.wait())
        try:
            await asyncio.wait((granted, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._holds = granted.done()  # also after a cancellation, so that a granted lock is released later
            if not self._holds:
                self._lock.cancel(granted)
            stop.cancel()
            await asyncio.wait((stop,))
        return self._holds

    def _release(self) -> None:
        self.release()
        self.is_exclusive = False


_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, SharedLock] = WeakKeyDictionary()


def shared_lock_here() -> SharedLock:
    """Return the one lock that all consumers on the running event loop share.

    One lock is needed because an event that kills the process stops all consumers. Other event loops have other locks.
    """
    return _locks.setdefault(asyncio.get_running_loop(), SharedLock())
