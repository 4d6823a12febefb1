"""The clock of one process, which can be set wrong. Imported before anything that keeps `time.time` for later."""

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
    """What `time.time` tells."""
    return _true() + _wrong()


def utc_now() -> datetime:
    """What `datetime.now(UTC)` would tell, if it could be replaced."""
    return datetime.fromtimestamp(shown(), UTC)


def jump(rng: random.Random, jumped: Callable[[], None]) -> None:
    """Let the clock of this process jump from now on: by hours to nine days, forward and back, every few seconds.

    Args:
        rng: Where to, and when.
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
