"""Measuring: how long several contenders take for the same work, side by side in one run.

Contenders take turns, a slice of some milliseconds each (A B C, B C A, ...), so that a machine that is busy for a while is
busy for all of them. What counts is the processor time of this thread: other processes do not.

The rounds begin at different depths of the stack. CPython keeps the frames of calls in chunks of 16 KiB, and a loop whose
calls cross the end of a chunk makes and frees one each time, which can take ten times as long as the work. Whom that
meets depends on who called, not on what is measured.
"""

import gc
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

Loop = Callable[[int], Coroutine[Any, Any, None]]
"""Does the work of a contender so many times, without ever waiting."""

SLICE = 0.004
"""Seconds for a contender's turn."""

FIRST_ROUNDS = 3
"""They warm up caches and the interpreter, and do not count."""

DEPTHS = (0, 60, 20, 80, 40, 100)
"""How many calls deeper a round begins, in turn: about a chunk of the stack altogether."""


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


def measure(contenders: Mapping[str, Loop], rounds: int) -> Times:
    """Measure all of them, interleaved.

    Garbage is collected before, and what is alive then is frozen: collecting goes on as it does in an application, and
    costs each contender what its own garbage costs.
    """
    loops = {"": _nothing, **contenders}
    gc.collect()  # what others left behind would be collected in the first counts
    counts = {name: _count(loop) for name, loop in loops.items()}
    taken: dict[str, list[float]] = {name: [] for name in loops}
    gc.collect()
    gc.freeze()
    try:
        for turn in range(FIRST_ROUNDS + rounds):
            names = list(loops)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                taken[name].append(_once(loops[name], counts[name], DEPTHS[turn % len(DEPTHS)]))
    finally:
        gc.unfreeze()
    empty = median(taken.pop(""))
    return Times({name: [each - empty for each in times[FIRST_ROUNDS:]] for name, times in taken.items()})


def _once(loop: Loop, count: int, depth: int = 0) -> float:
    start = time.thread_time_ns()
    _run(loop(count), depth)
    return (time.thread_time_ns() - start) / count / 1e9


def _run(work: Coroutine[Any, Any, None], depth: int) -> None:
    """Run to the end what never waits, so many calls deeper.

    Raises:
        RuntimeError: It waited.
    """
    if depth:
        _run(work, depth - 1)
        return
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError(f"{work} waited for something, so its time cannot be measured")


def _count(loop: Loop) -> int:
    """How often it fits into a slice, once what is only done the first time has been done."""
    _once(loop, 1)
    count = 1
    while (taken := _once(loop, count) * count) < SLICE / 8:
        count *= 2
    return max(1, round(count * SLICE / taken))


async def _nothing(count: int) -> None:
    for _ in range(count):
        pass
