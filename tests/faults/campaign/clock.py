"""A clock of one process that can be set wrong. It must be imported before modules that store `time.time`."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

_true = time.time
_wrong: Callable[[], float] = lambda: 0.0  # noqa: E731  (until it jumps)

_HOUR = 3600.0
_FARTHEST = 9 * 24 * _HOUR
_LONGEST_STAY = 3.0


def shown() -> float:
    """Return the time, as a replacement of `time.time`."""
    return _true() + _wrong()


def utc_now() -> datetime:
    """Return the time, as a replacement of `datetime.now(UTC)`."""
    return datetime.fromtimestamp(shown(), UTC)


def jump(rng: random.Random, jumped: Callable[[], None]) -> None:
    """Let the clock of this process jump every few seconds from now on, by hours to nine days, forward and back.

    Args:
        rng: Chooses the times and distances of the jumps.
        jumped: Called for each jump.
    """
    global _wrong  # noqa: PLW0603  (a process has one clock)
    offset, until = 0.0, 0.0

    def wrong() -> float:
        nonlocal offset, until
        if time.monotonic() >= until:
            until = time.monotonic() + rng.uniform(0.5, _LONGEST_STAY)
            offset = rng.choice((-1, 1)) * rng.uniform(_HOUR, _FARTHEST)
            jumped()
        return offset

    _wrong = wrong


time.time = shown
