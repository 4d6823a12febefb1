"""RetrySchedule: how often an event is tried, and how long to wait before each further try."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors import SettingError
from mediator.settings import is_pause

QUICK_DELAYS = (0.0, 1.0, 3.0)
"""The pauses before the quick tries of an event, in seconds. During a pause the event keeps its place at the broker."""
LONGEST_QUICK = 5.0
"""The largest allowed sum of the pauses before the quick tries, in seconds."""
LATER_DELAYS = (30.0, 120.0, 600.0, 3600.0, 21_600.0)
"""The pauses before the later tries of an event, in seconds. During a pause the event waits in the consumer's database."""
ENDLESS_DELAYS = (0.0, 1.0, 5.0, 30.0, 120.0, 600.0)
"""The pauses of a consumer without parking, in seconds. The last pause is repeated without end."""
_JITTER = 0.2
_RESPITE = 1.0
"""Seconds until a delivery is tried again after an error outside the handlers, if the consumer has no quick tries."""


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """How often the handlers of an event are started at most, and the pauses in between.

    Each pause is lengthened or shortened at random by up to a fifth, so that processes do not try again all at the same
    time.

    Attributes:
        quick: The pauses before the quick tries, in seconds. A consumer without parking repeats the last pause.
        later: The pauses before the later tries, in seconds; empty without later tries.
        ends: Whether the tries end. Without parking, an event is tried without end.
    """

    quick: tuple[float, ...]
    later: tuple[float, ...]
    ends: bool

    @property
    def quick_attempts(self) -> float:
        """The number of starts until the event is set aside or parked; infinite when the tries do not end."""
        return len(self.quick) + 1 if self.ends else math.inf

    @property
    def attempts(self) -> float:
        """The number of all starts; infinite when the tries do not end."""
        return self.quick_attempts + len(self.later)

    def quick_delay(self, attempt: int, rng: random.Random) -> float:
        """Return the pause after the failure of an attempt, in seconds. Attempts are numbered from 1."""
        return _jittered(self.quick[min(attempt, len(self.quick)) - 1] if self.quick else _RESPITE, rng)

    def later_delay(self, tries: int, rng: random.Random) -> float | None:
        """Return the next pause of an event that has used `tries` pauses, in seconds; `None` when no pause is left."""
        return _jittered(self.later[tries], rng) if tries < len(self.later) else None

    @property
    def longest(self) -> float:
        """The largest possible sum of the pauses before the quick tries, in seconds; infinite when the tries do not end."""
        return sum(self.quick) * (1 + _JITTER) if self.ends else math.inf


def _jittered(pause: float, rng: random.Random) -> float:
    return pause * rng.uniform(1 - _JITTER, 1 + _JITTER)


def retry_schedule(
    *, parks: bool, retry_delays: Sequence[float] | None = None, later_delays: Sequence[float] | None = None
) -> RetrySchedule:
    """Return the schedule of a consumer from the given values, or from the defaults.

    Args:
        parks: Whether the consumer has a parking.
        retry_delays: The pauses before the quick tries, in seconds; `None` for the default.
        later_delays: The pauses before the later tries, in seconds; `None` for the default.

    Raises:
        SettingError: A pause is negative, the quick tries take too long, or there are later tries without parking.
    """
    quick = tuple(retry_delays) if retry_delays is not None else QUICK_DELAYS if parks else ENDLESS_DELAYS
    later = tuple(later_delays) if later_delays is not None else LATER_DELAYS if parks else ()
    if not all(map(is_pause, quick)):
        raise SettingError("retry_delays", retry_delays, "give pauses in seconds; every pause must be 0 or more")
    if not quick and not parks:
        problem = "give at least one pause: a consumer without parking tries an event without end"
        raise SettingError("retry_delays", retry_delays, problem)
    if not all(map(is_pause, later)):
        raise SettingError("later_delays", later_delays, "give pauses in seconds; every pause must be 0 or more")
    if later and not parks:
        raise SettingError(
            "later_delays", later_delays, "give the consumer a parking, where events wait for a later try"
        )
    schedule = RetrySchedule(quick, later, ends=parks)
    if parks and schedule.longest > LONGEST_QUICK:
        problem = (
            f"an event keeps its place at the broker until its quick tries end: use at most {LONGEST_QUICK:g} s for all "
            "pauses with their jitter, and later_delays for longer pauses"
        )
        raise SettingError("retry_delays", quick, problem)
    return schedule
