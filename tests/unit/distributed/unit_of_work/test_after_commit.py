"""After-commit calls: one timeout applies to all calls of a commit together."""

import asyncio
from typing import Any

import pytest

from mediator.distributed.unit_of_work.after_commit import AfterCommitQueue
from mediator.errors import AfterCommitError
from tests.unit.virtual_time import in_virtual_time, now


@in_virtual_time
async def test_calls_share_the_timeout_and_those_that_found_no_time_left_are_named() -> None:
    queue, called = AfterCommitQueue(), list[int]()

    def call(number: int) -> Any:
        async def take_a_while() -> None:
            called.append(number)
            await asyncio.sleep(0.4)

        return take_a_while

    for number in range(5):
        queue.add(number, call(number))
    began = now()
    with pytest.raises(AfterCommitError, match="did not end within 1 s") as caught:
        await queue.run("1", "command", None, None, timeout=1.0, errors=[])
    assert now() - began == pytest.approx(1.0)
    assert called == [0, 1, 2]
    assert caught.value.notifications == [2, 3, 4]
