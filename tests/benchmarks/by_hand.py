"""By hand: the code of an application without a mediator, with the same providers, laziness and order of calls."""

from collections.abc import Awaitable, Callable
from typing import Any

from tests.benchmarks.measuring import Loop

Handle = Callable[[Any], Awaitable[Any]]


def sending_by_hand(container: Any, behaviors: int, message: Any) -> Loop:
    handle = WRITTEN[behaviors](container.rename, *(getattr(container, f"behavior_{n}") for n in range(behaviors)))

    async def loop(count: int) -> None:
        for _ in range(count):
            await handle(message)

    return loop


def publishing_by_hand(container: Any, handlers: int, notification: Any) -> Loop:
    found = [getattr(container, f"handler_{number}") for number in range(handlers)]

    async def publish(notification: Any) -> None:
        for handler in found:
            await handler().handle(notification)

    async def loop(count: int) -> None:
        for _ in range(count):
            await publish(notification)

    return loop


def _through_none(handler: Any) -> Handle:
    return lambda message: handler().handle(message)


def _through_3(handler: Any, a: Any, b: Any, c: Any) -> Handle:
    return lambda message: a().handle(
        message, lambda: b().handle(message, lambda: c().handle(message, lambda: handler().handle(message)))
    )


def _through_5(handler: Any, *behaviors: Any) -> Handle:
    a, b, c, d, e = behaviors
    return lambda message: a().handle(
        message,
        lambda: b().handle(
            message,
            lambda: c().handle(
                message, lambda: d().handle(message, lambda: e().handle(message, lambda: handler().handle(message)))
            ),
        ),
    )


WRITTEN: dict[int, Callable[..., Handle]] = {0: _through_none, 3: _through_3, 5: _through_5}
