"""Start: whether the handlers of an event may be started again. The process may have died in an earlier start."""

import enum
from dataclasses import dataclass


class LastStart(enum.StrEnum):
    """How the last start of an event's handlers ended. If unknown: whether other events were being handled then."""

    ENDED = "ended"
    """The handlers failed, or the start was taken back."""
    BESIDE = "beside"
    """Other events were being handled at the same time, and it is not known how the start ended.

    If the handlers are not running any more, their process died.
    """
    ALONE = "alone"
    """No other event was being handled in the process, and it is not known how the start ended."""


@dataclass(frozen=True, slots=True)
class Start:
    """The answer of `Inbox.start` and `Parking.start`: whether the handlers of an event may be started.

    Attributes:
        attempt: The number of this start, from 1; when `exhausted` or `suspect`, the number of earlier starts.
        taken: `True` if the handlers must not start, because the event has taken effect or is parked.
        exhausted: `True` if the handlers must not start, because all allowed starts are used up and the process died
            in the last start.
        suspect: `True` if the handlers may only start alone, because it is not known how the last start ended. The
            requested start was not counted.
    """

    attempt: int
    taken: bool = False
    exhausted: bool = False
    suspect: bool = False


def refusal(starts: int, last: LastStart, limit: int, *, alone: bool) -> Start | None:
    """Return why the handlers of an event may not be started now; `None` if they may.

    `Inbox.start` and `Parking.start` use this rule.
    """
    if last is LastStart.ALONE and starts >= limit:
        return Start(starts, exhausted=True)
    if last is not LastStart.ENDED and not alone:
        return Start(starts, suspect=True)
    return None
