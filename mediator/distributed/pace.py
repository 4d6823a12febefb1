"""Pace: how fast events are published or replayed again, so that those who take them in keep up."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from mediator.errors import SettingError

BATCH = 500
"""How many events are published at a time, at most."""


class Pace:
    """Spends the time that a rate demands.

    Args:
        rate: How many events a second, at most; `None` for no limit.
        clock: Monotonic time in seconds.
        sleep: Waits for some seconds.

    Raises:
        SettingError: The rate is not positive.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if rate is not None and not rate > 0:
            raise SettingError("rate", rate, "use a positive number of events a second")
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    @property
    def batch(self) -> int:
        """How many events to publish at a time, so that a slow rate is an even one."""
        return BATCH if self._rate is None else max(1, min(BATCH, int(self._rate)))

    async def wait(self, events: int) -> None:
        """Wait until so many more events may be published."""
        if self._rate is None:
            return
        now = self._clock()
        pause = self._free_at - now
        self._free_at = max(self._free_at, now) + events / self._rate
        if pause > 0:
            await self._sleep(pause)
