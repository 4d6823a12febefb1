"""Retry: how often to try again, and how long to wait before the next try."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from mediator.distributed.bounds import check_counts
from mediator.distributed.subscription import Ordering
from mediator.errors import SettingError

DELAYS = (0.0, 1.0, 5.0, 30.0, 120.0, 600.0, 600.0)
"""The pauses after each failure of an event without order, in seconds."""
ORDERED_DELAYS = (0.0, 1.0, 3.0)
"""Those of an event that others wait for."""
LONGEST_ORDERED = 5.0
"""How long an event may keep its partition waiting between its tries, in seconds in all."""
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """How often the handlers of an event are started, and the pauses between.

    Attributes:
        max_attempts: After that many starts that failed the event is parked.
        delays: The pause after the first failure, after the second, and so on; the last one is repeated. In seconds,
            each lengthened or shortened by up to a fifth so that processes spread out.
    """

    max_attempts: int
    delays: tuple[float, ...]

    def delay(self, attempt: int, rng: random.Random) -> float:
        """The pause after the failure of that attempt, from 1, in seconds."""
        pause = self.delays[min(attempt, len(self.delays)) - 1]
        return pause * rng.uniform(1 - _JITTER, 1 + _JITTER)

    @property
    def longest(self) -> float:
        """How long an event can wait between its tries, in seconds in all."""
        repeated = self.delays[-1] * max(0, self.max_attempts - 1 - len(self.delays))
        return (sum(self.delays[: self.max_attempts - 1]) + repeated) * (1 + _JITTER)


def retry_schedule(
    ordering: Ordering, max_attempts: int | None = None, delays: Sequence[float] | None = None
) -> RetrySchedule:
    """The schedule of a consumer: what was given, or the default of its ordering.

    Raises:
        SettingError: It cannot work, or would keep a partition waiting for too long.
    """
    chosen = tuple(delays) if delays is not None else ORDERED_DELAYS if ordering == "key" else DELAYS
    if not chosen or not all(0 <= delay < math.inf for delay in chosen):
        raise SettingError("retry_delays", delays, "give at least one pause, none of them negative, in seconds")
    check_counts(max_attempts=max_attempts)
    attempts = len(chosen) + 1 if max_attempts is None else max_attempts
    schedule = RetrySchedule(attempts, chosen)
    if ordering == "key" and schedule.longest > LONGEST_ORDERED:
        problem = f"with ordering='key' the other keys of a partition wait too: at most {LONGEST_ORDERED:g} s in all"
        raise SettingError("retry_delays", chosen, problem)
    return schedule


class Backoff:
    """Pauses that double from `first` to `last` seconds, each shortened by up to half so that processes spread out."""

    def __init__(self, first: float, last: float, rng: random.Random) -> None:
        self._first = first
        self._last = last
        self._rng = rng
        self._tries = 0

    def next(self) -> float:
        """The next pause, in seconds."""
        pause = self.at(self._tries)
        self._tries += 1
        return pause

    def at(self, tries: int) -> float:
        """The pause after so many failed tries before this one, in seconds."""
        pause = min(self._first * 2.0 ** min(tries, 60), self._last)
        return pause * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again with the first pause."""
        self._tries = 0
