"""Garbage: the objects of a dispatch are freed at its end, without the garbage collector."""

import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mediator import Command, Mediator, Notification, TransactionMode, current_context, current_scope
from tests.unit.samples import EnrollStudent, ExpelStudent, StudentEnrolled, answer_name
from tests.unit.wiring import around, handles, listens, wire

DISPATCHES = 200


async def pass_on(_message: Any, call_next: Any) -> Any:
    return await call_next()


async def nothing(_message: Any) -> None:
    current_context()
    current_scope().instances["key"] = object()


async def fail(_command: Any) -> None:
    raise LookupError


def wired() -> Mediator:
    async def nest(command: EnrollStudent) -> str:
        await mediator.publish(StudentEnrolled())
        await mediator.publish(StudentEnrolled(), mode=TransactionMode.NEW)
        return command.name

    behaviors = [around(Command[Any] | Notification, pass_on), around(Command[Any], pass_on)]
    mediator = wire(
        handles(EnrollStudent, nest),
        handles(ExpelStudent, fail),
        listens(StudentEnrolled, nothing),
        behaviors=behaviors,
    )
    return mediator


async def send(mediator: Mediator) -> None:
    await mediator.send(EnrollStudent())


async def send_in_a_context(mediator: Mediator) -> None:
    async with mediator.context(tenant="north"):
        await mediator.send(EnrollStudent())


async def publish(mediator: Mediator) -> None:
    await mediator.publish(StudentEnrolled())


async def send_failing(mediator: Mediator) -> None:
    with contextlib.suppress(LookupError):
        await mediator.send(ExpelStudent())


@pytest.mark.parametrize("dispatch", [send, send_in_a_context, publish, send_failing])
async def test_a_dispatch_leaves_no_reference_cycle_to_the_garbage_collector(
    dispatch: Callable[[Mediator], Awaitable[None]],
):
    mediator = wired()
    await dispatch(mediator)
    gc.collect()
    gc.disable()
    try:
        for _ in range(DISPATCHES):
            await dispatch(mediator)
        assert (
            gc.collect() < DISPATCHES
        )  # a leak would leave at least one object per dispatch; other threads leave a few objects
    finally:
        gc.enable()


async def test_the_handler_returns_the_name_through_a_behavior():
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[around(EnrollStudent, pass_on)])
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
