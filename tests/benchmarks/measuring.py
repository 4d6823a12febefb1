"""Measuring: how long several contenders take for the same work, side by side in one run.

Contenders take turns, a slice of some milliseconds each (A B C, B C A, ...), so that a machine that is busy for a while is
busy for all of them. What counts is the processor time of this thread: other processes do not.
"""

import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median

Loop = Callable[[int], Awaitable[None]]
"""Does the work of a contender so many times."""

SLICE = 0.004
"""Seconds for a contender's turn."""

FIRST_ROUNDS = 3
"""They warm up caches and the interpreter, and do not count."""


@dataclass(frozen=True)
class Times:
    """What was measured: seconds for one operation, by contender, one in each round."""

    by_contender: Mapping[str, list[float]]

    def typical(self, name: str) -> float:
        """The median, in seconds."""
        return median(self.by_contender[name])

    def ratio(self, name: str, to: str) -> float:
        """The median of the ratios of the single rounds: what is said of a machine as it is."""
        rounds = zip(self.by_contender[name], self.by_contender[to], strict=True)
        return median(one / other for one, other in rounds)

    def best_ratio(self, name: str, to: str) -> float:
        """The ratio of the best rounds: what is left when nothing else disturbs either, for a test to rely on."""
        return min(self.by_contender[name]) / min(self.by_contender[to])


async def measure(contenders: Mapping[str, Loop], rounds: int) -> Times:
    """Measure all of them, interleaved.

    Garbage is collected before, and what is alive then is frozen: collecting goes on as it does in an application, and
    costs each contender what its own garbage costs.
    """
    loops = {"": _nothing, **contenders}
    counts = {name: await _count(loop) for name, loop in loops.items()}
    taken: dict[str, list[float]] = {name: [] for name in loops}
    gc.collect()
    gc.freeze()
    try:
        for turn in range(FIRST_ROUNDS + rounds):
            names = list(loops)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                taken[name].append(await _once(loops[name], counts[name]))
    finally:
        gc.unfreeze()
    empty = median(taken.pop(""))
    return Times({name: [each - empty for each in times[FIRST_ROUNDS:]] for name, times in taken.items()})


async def _once(loop: Loop, count: int) -> float:
    start = time.thread_time_ns()
    await loop(count)
    return (time.thread_time_ns() - start) / count / 1e9


async def _count(loop: Loop) -> int:
    """How often it fits into a slice."""
    count = 1
    while (taken := await _once(loop, count) * count) < SLICE / 8:
        count *= 2
    return max(1, round(count * SLICE / taken))


async def _nothing(count: int) -> None:
    for _ in range(count):
        pass
