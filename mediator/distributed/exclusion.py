"""Exclusion: handlers run beside each other in their process, but for a suspect, which has it to itself."""

import asyncio
import heapq
import itertools
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary


class Exclusion:
    """Who may run now: any number beside each other, or one alone. Fair in phases, so that neither side starves.

    Who wants to be alone waits for those that run and holds up those that come later. When it has ended, all of them run
    before the next one is alone. Among those that want to be alone, the one with the fewest starts comes first: what is
    innocent takes effect before the deadly one ends the process again.
    """

    def __init__(self) -> None:
        self._running = 0
        self._alone = False
        self._beside: list[asyncio.Future[None]] = []
        self._suspects: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    def ask(self) -> asyncio.Future[None]:
        """Ask to run beside others; it is done at once when nobody is alone or waits to be."""
        granted = asyncio.get_running_loop().create_future()
        self._beside.append(granted)
        if not self._suspects:
            self._admit()
        return granted

    def ask_alone(self, starts: int) -> asyncio.Future[None]:
        """Ask to run alone, after others with fewer starts."""
        granted = asyncio.get_running_loop().create_future()
        heapq.heappush(self._suspects, (starts, next(self._arrivals), granted))
        self._admit_suspect()
        return granted

    def withdraw(self, granted: asyncio.Future[None]) -> None:
        """Take back what was asked and not granted yet."""
        self._beside = [each for each in self._beside if each is not granted]
        self._suspects = [each for each in self._suspects if each[2] is not granted]
        heapq.heapify(self._suspects)
        if not self._suspects:
            self._admit()

    def end(self, *, alone: bool) -> None:
        """What was granted has ended."""
        if alone:
            self._alone = False
            self._admit()
        else:
            self._running -= 1
        self._admit_suspect()

    def _admit(self) -> None:
        if not self._alone:
            self._running += len(self._beside)
            for granted in self._beside:
                granted.set_result(None)
            self._beside = []

    def _admit_suspect(self) -> None:
        if self._suspects and not self._running and not self._alone:
            self._alone = True
            heapq.heappop(self._suspects)[2].set_result(None)


class Turn:
    """One participant of an exclusion. What it holds ends with its `with` block.

    Args:
        exclusion: Where it takes part.
        stopping: When this is set it waits no longer.
    """

    def __init__(self, exclusion: Exclusion, stopping: asyncio.Event) -> None:
        self._exclusion = exclusion
        self._stopping = stopping
        self._holds = False
        self.is_alone: bool = False

    def __enter__(self) -> Self:
        """Nothing is held yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let others go on."""
        self._end()

    async def beside_others(self) -> bool:
        """Wait until it may run, unless it may already; False when stopping."""
        return self._holds or await self._wait(self._exclusion.ask())

    async def alone(self, starts: int) -> bool:
        """Wait, holding nothing, until it may run alone; False when stopping."""
        self._end()
        self.is_alone = True
        return await self._wait(self._exclusion.ask_alone(starts))

    async def _wait(self, granted: asyncio.Future[None]) -> bool:
        if granted.done():
            self._holds = True
            return True
        stop = asyncio.get_running_loop().create_task(self._stopping.wait())
        try:
            await asyncio.wait((granted, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._holds = granted.done()  # also when cancelled at this moment: it is ended like any other
            if not self._holds:
                self._exclusion.withdraw(granted)
            stop.cancel()
            await asyncio.wait((stop,))
        return self._holds

    def _end(self) -> None:
        held, self._holds = self._holds, False
        if held:
            self._exclusion.end(alone=self.is_alone)
        self.is_alone = False


_exclusions: WeakKeyDictionary[asyncio.AbstractEventLoop, Exclusion] = WeakKeyDictionary()


def exclusion_here() -> Exclusion:
    """The one of all consumers on the running event loop: they would die together. Loops in threads have their own."""
    return _exclusions.setdefault(asyncio.get_running_loop(), Exclusion())
