"""Measuring: how long several contenders take for the same work, side by side in one run.

Contenders take turns of some milliseconds each (A B C, B C A, ...), so that a temporarily busy machine slows down all of
them. The processor time of this thread is measured, so that other processes do not count.

The rounds begin at different depths of the stack. CPython keeps the frames of calls in chunks of 16 KiB, and a loop whose
calls cross the end of a chunk allocates and frees a chunk in each call, which can take ten times as long as the work. Which
contender is affected depends on the depth of the stack, not on the measured work.
"""

import gc
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

Loop = Callable[[int], Coroutine[Any, Any, None]]
"""Does the work of a contender the given number of times, without ever waiting."""

SLICE = 0.004
"""Seconds of one turn of a contender."""

FIRST_ROUNDS = 3
"""The number of rounds that warm up caches and the interpreter, and do not count."""

DEPTHS = (0, 60, 20, 80, 40, 100)
"""The numbers of extra calls on the stack at the start of successive rounds: about one chunk of the stack."""


@dataclass(frozen=True)
class Times:
    """The measured seconds of one operation, for each contender and round."""

    by_contender: Mapping[str, list[float]]

    def typical(self, name: str) -> float:
        """Return the median of a contender, in seconds."""
        return median(self.by_contender[name])

    def ratio(self, name: str, to: str) -> float:
        """Return the median of the ratios of the rounds. It describes the machine with its current load."""
        rounds = zip(self.by_contender[name], self.by_contender[to], strict=True)
        return median(one / other for one, other in rounds)

    def best_ratio(self, name: str, to: str) -> float:
        """Return the ratio of the best rounds. It is hardly affected by other load, so a test can rely on it."""
        return min(self.by_contender[name]) / min(self.by_contender[to])


def measure(contenders: Mapping[str, Loop], rounds: int) -> Times:
    """Measure all contenders in turns.

    Existing garbage is collected first, and the living objects are frozen. The garbage collector stays on, as in an
    application, so that each contender pays for its own garbage.
    """
    loops = {"": _nothing, **contenders}
    gc.collect()  # otherwise the first turns would pay for the garbage of earlier tests
    counts = {name: _count(loop) for name, loop in loops.items()}
    taken: dict[str, list[float]] = {name: [] for name in loops}
    gc.collect()
    gc.freeze()
    try:
        for turn in range(FIRST_ROUNDS + rounds):
            names = list(loops)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                taken[name].append(_time_of(loops[name], counts[name], DEPTHS[turn % len(DEPTHS)]))
    finally:
        gc.unfreeze()
    empty = median(taken.pop(""))
    return Times({name: [each - empty for each in times[FIRST_ROUNDS:]] for name, times in taken.items()})


def _time_of(loop: Loop, count: int, depth: int = 0) -> float:
    start = time.thread_time_ns()
    _run(loop(count), depth)
    return (time.thread_time_ns() - start) / count / 1e9


def _run(work: Coroutine[Any, Any, None], depth: int) -> None:
    """Run a coroutine that never waits, with the given number of extra calls on the stack.

    Raises:
        RuntimeError: The coroutine waited.
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
    """Return how often the work fits into a slice, after a first call that is not counted."""
    _time_of(loop, 1)
    count = 1
    while (taken := _time_of(loop, count) * count) < SLICE / 8:
        count *= 2
    return max(1, round(count * SLICE / taken))


async def _nothing(count: int) -> None:
    for _ in range(count):
        pass
