"""VirtualTime: a clock whose time passes only when a test advances it."""

import asyncio
import functools
import heapq
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from mediator.testing.conformance import ConformanceSuite
from tests.contracts.model_events.virtual_loop import VirtualLoop

P = ParamSpec("P")
Suite = TypeVar("Suite", bound=type[ConformanceSuite])

_LONGEST = 10_800.0


async def settle() -> None:
    """Let every task run until it waits for something that only the test can change."""
    for _ in range(50):
        await asyncio.sleep(0)


class VirtualTime:
    """A clock that the test moves, and a sleep on that clock."""

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
        """Let time pass, and wake each sleeping task at its own time."""
        until = self.now + seconds
        await settle()
        while self._sleeping and self._sleeping[0][0] <= until:
            self.now, _, woken = heapq.heappop(self._sleeping)
            if not woken.done():
                woken.set_result(None)
            await settle()
        self.now = until


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on an event loop that jumps to the next timer when every task sleeps.

    The test must not wait for a thread or another process. `now()` is the time of the loop. Every wait of the test must
    end within three hours of virtual time.
    """

    async def bounded(*args: P.args, **options: P.kwargs) -> None:
        async with asyncio.timeout(_LONGEST):
            await test(*args, **options)

    @functools.wraps(test)
    def run(*args: P.args, **options: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(bounded(*args, **options))

    return run


def cases_in_virtual_time(suite: Suite) -> Suite:
    """Run each case of a conformance suite as `in_virtual_time` runs a test."""
    for name in suite.cases():
        setattr(suite, name, in_virtual_time(getattr(suite, name)))
    return suite


def now() -> float:
    """Return the time of the running loop, in seconds."""
    return asyncio.get_running_loop().time()
