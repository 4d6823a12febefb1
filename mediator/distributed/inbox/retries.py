"""RetrySchedule: how often an event is tried, and how long to wait before each further attempt."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mediator.distributed.inbox.subscription import Ordering
from mediator.errors import SettingError
from mediator.settings import check_counts, is_pause

DELAYS = (0.0, 1.0, 5.0, 30.0, 120.0, 600.0, 600.0)
"""The pause after each failure of an event with `ordering="none"`, in seconds."""
ORDERED_DELAYS = (0.0, 1.0, 3.0)
"""The pauses of an event with `ordering="key"`, in seconds. During each pause the event's partition waits."""
LONGEST_ORDERED = 5.0
"""The largest allowed sum of the pauses of an event with `ordering="key"`, in seconds."""
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """How often the handlers of an event are started at most, and the pauses in between.

    Attributes:
        max_attempts: After this many failed starts the event is parked.
        delays: The pause after the first failure, after the second, and so on, in seconds; the last pause is repeated.
            Each pause is lengthened or shortened at random by up to a fifth, so that processes do not try again all at
            the same time.
    """

    max_attempts: int
    delays: tuple[float, ...]

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Return the pause after the failure of an attempt, in seconds. Attempts are numbered from 1."""
        pause = self.delays[min(attempt, len(self.delays)) - 1]
        return pause * rng.uniform(1 - _JITTER, 1 + _JITTER)

    @property
    def longest(self) -> float:
        """The largest possible sum of the pauses of an event, in seconds."""
        repeated = self.delays[-1] * max(0, self.max_attempts - 1 - len(self.delays))
        return (sum(self.delays[: self.max_attempts - 1]) + repeated) * (1 + _JITTER)


def retry_schedule(
    ordering: Ordering, max_attempts: int | None = None, delays: Sequence[float] | None = None
) -> RetrySchedule:
    """Return the schedule of a consumer from the given values, or from the defaults of the ordering.

    Raises:
        SettingError: The schedule is invalid, or would keep a partition waiting for too long.
    """
    chosen = tuple(delays) if delays is not None else ORDERED_DELAYS if ordering == "key" else DELAYS
    if not chosen or not all(map(is_pause, chosen)):
        raise SettingError("retry_delays", delays, "give at least one pause, in seconds; every pause must be 0 or more")
    check_counts(max_attempts=max_attempts)
    attempts = len(chosen) + 1 if max_attempts is None else max_attempts
    schedule = RetrySchedule(attempts, chosen)
    if ordering == "key" and schedule.longest > LONGEST_ORDERED:
        problem = f"with ordering='key' the whole partition waits: use at most {LONGEST_ORDERED:g} s for all pauses"
        raise SettingError("retry_delays", chosen, problem)
    return schedule
