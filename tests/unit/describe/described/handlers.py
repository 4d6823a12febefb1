"""Handlers of the application that is described."""

from typing import Any, ClassVar

from mediator import (
    CallNext,
    Command,
    DistributedEventBroker,
    Mediator,
    NotificationHandler,
    PipelineBehavior,
    RequestHandler,
)
from tests.unit.describe.described import messages
from tests.unit.describe.described.messages import Changed, Order, Ordered, OrderPlaced, Pay, Ping, Price


class Student:
    """An object that handlers add to a collection. It is no message."""


class OrderHandler(RequestHandler[Order, list[str]]):
    def __init__(self, mediator: Mediator, events: DistributedEventBroker, session: set[Any]) -> None:
        self._mediator, self._events, self._session = mediator, events, session

    async def handle(self, command: Order) -> list[str]:
        self._session.add(Student())
        price = await self._mediator.send(messages.Price())
        await self._announce()
        return [command.title] * price

    async def _announce(self) -> None:
        notification = Ordered()
        await self._mediator.publish(notification)


class PriceHandler(RequestHandler[Price, int]):
    async def handle(self, query: Price) -> int:
        return 1


class Announce(NotificationHandler[Changed]):
    def __init__(self, events: DistributedEventBroker) -> None:
        self._events = events

    async def handle(self, notification: Changed) -> None:
        self._events.add(OrderPlaced())


class PayHandler(RequestHandler[Pay, None]):
    dispatches: ClassVar = (Ordered, Ping)

    async def handle(self, command: Pay) -> None:
        Price()


class Inheriting(PriceHandler, RequestHandler[Price, int]):
    """Inherits its code."""


class Overriding(OrderHandler):
    async def _announce(self) -> None:
        """Announces nothing."""


class Audit(PipelineBehavior[Command[Any], Any]):
    async def handle(self, command: Command[Any], call_next: CallNext[Any]) -> Any:
        return await call_next()
