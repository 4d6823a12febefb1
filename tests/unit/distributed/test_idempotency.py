"""Old idempotency keys are deleted at regular intervals, and sooner while more of them are left."""

import asyncio

import pytest
from structlog.testing import capture_logs

from mediator.testing import InMemoryDatabase, InMemoryIdempotency
from tests.unit.virtual_time import in_virtual_time, now


class Counting(InMemoryIdempotency):
    """A store that finds the given number of old keys at each call. `None` means an error of the database."""

    def __init__(self, *found: int | None, interval: float) -> None:
        super().__init__(InMemoryDatabase(), clean_interval=interval)
        self._found = list(found)
        self.cleaned: list[float] = []

    async def clean(self, limit: int, /) -> int:
        self.cleaned.append(now())
        found = self._found.pop(0) if self._found else 0
        if found is None:
            raise OSError("the disk is full")
        return min(found, limit)


@pytest.mark.parametrize(
    ("interval", "found", "times"),
    [
        (60.0, [0, 5000, 5000, 3, 999], [60, 120, 120.5, 121, 181, 241]),
        (60.0, [None, 1000, None, None, 1000, 0], [60, 120, 120.5, 180.5, 240.5, 241, 301]),
        (0.25, [5000, None, 5000, 0], [0.25, 0.5, 0.75, 1.0, 1.25]),
    ],
)
@in_virtual_time
async def test_cleaning_runs_each_interval_sooner_while_more_remains_and_one_interval_after_a_failure(
    interval: float, found: list[int | None], times: list[float]
) -> None:
    idempotency = Counting(*found, interval=interval)
    with capture_logs() as logs:
        running = asyncio.create_task(idempotency.run())
        await asyncio.sleep(times[-1] + interval / 2)
        running.cancel()
        await asyncio.wait((running,))
    assert idempotency.cleaned == times
    assert [line["event"] for line in logs] == ["idempotency not cleaned"] * found.count(None)
