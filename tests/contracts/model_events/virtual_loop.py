"""VirtualLoop: an event loop that jumps to the next timer when every task sleeps."""

import asyncio
import selectors
from typing import Any

_LONGEST = 30 * 86400.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that runs all ready tasks, and then sets its time to the next timer without waiting."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self._passes))

    def time(self) -> float:
        return self._now

    def _passes(self, seconds: float) -> None:
        self._now += seconds
        if self._now > _LONGEST:
            raise AssertionError(f"{self._now:,.0f} s have passed, and only timers are left: something waits for ever")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self, passes: Any) -> None:
        super().__init__()
        self._passes = passes

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("nothing will ever happen again: whoever waits, waits for ever")
        if timeout > 0:
            self._passes(timeout)
        return super().select(0)
