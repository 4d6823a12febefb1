"""Throttle: limits how fast events are republished or replayed, so that the receivers keep up."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from mediator.errors import SettingError
from mediator.settings import is_seconds

BATCH = 500
"""The largest number of events that are published at a time."""


class Throttle:
    """Limits how many events are published per second.

    A `rate` of `None` is no limit. A rate that is not positive raises a `SettingError`.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if rate is not None and not is_seconds(rate):
            raise SettingError("rate", rate, "use a positive number of events a second")
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    @property
    def batch(self) -> int:
        """The number of events to publish at a time. A low rate has small batches, so that the rate stays even."""
        return BATCH if self._rate is None else max(1, min(BATCH, int(self._rate)))

    async def wait(self, events: int) -> None:
        """Wait until `events` more events may be published."""
        if self._rate is None:
            return
        now = self._clock()
        pause = self._free_at - now
        self._free_at = max(self._free_at, now) + events / self._rate
        if pause > 0:
            await self._sleep(pause)
