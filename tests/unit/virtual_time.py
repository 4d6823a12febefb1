"""VirtualTime: time that passes when a test says so."""

import asyncio
import heapq
import itertools


async def settle() -> None:
    """Let every task go on until it waits for something that the test decides about."""
    for _ in range(50):
        await asyncio.sleep(0)


class VirtualTime:
    """A clock, and the sleep that goes with it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self.now + seconds, next(self._numbers), woken))
        await woken

    async def passes(self, seconds: float) -> None:
        """Let time pass, and whoever sleeps wake up on the way, at its own time."""
        until = self.now + seconds
        await settle()
        while self._sleeping and self._sleeping[0][0] <= until:
            self.now, _, woken = heapq.heappop(self._sleeping)
            if not woken.done():
                woken.set_result(None)
            await settle()
        self.now = until
