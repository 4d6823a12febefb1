"""Work in an empty context: its result is not lost when its caller is cancelled at the same time."""

import asyncio
from contextvars import ContextVar

import pytest

from mediator.owner import detached

name: ContextVar[str] = ContextVar("name", default="nobody")


async def test_detached_work_sees_no_context_of_its_caller() -> None:
    async def work() -> str:
        return name.get()

    name.set("somebody")
    assert await detached(work()) == "nobody"


@pytest.mark.parametrize("steps", range(8))
async def test_a_result_is_returned_or_discarded_whenever_the_caller_is_cancelled(steps: int) -> None:
    made: list[object] = []
    discarded: list[object] = []

    async def work() -> object:
        await asyncio.sleep(0)
        made.append(object())
        return made[0]

    async def call() -> object:
        return await detached(work(), discard=discarded.append)

    calling = asyncio.create_task(call())
    for _ in range(steps):
        await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait({calling})
    returned = [] if calling.cancelled() else [calling.result()]
    assert returned + discarded == made


async def test_a_result_is_discarded_when_the_caller_is_cancelled_in_the_last_step_of_the_work() -> None:
    discarded: list[str] = []

    async def work() -> str:
        calling.cancel()
        return "made"

    calling = asyncio.create_task(detached(work(), discard=discarded.append))
    await asyncio.wait({calling})
    assert calling.cancelled()
    assert discarded == ["made"]
