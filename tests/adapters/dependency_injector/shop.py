"""A small shop that the tests share: its messages, and handlers that return their arguments."""

from dataclasses import dataclass, field
from typing import Any, NewType

from mediator.handlers import NotificationHandler, RequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command, Notification, Query
from mediator.pipeline import CallNext, PipelineBehavior

OrderId = NewType("OrderId", int)


@dataclass(frozen=True, slots=True)
class PlaceOrder(Command[OrderId]):
    total: int = 1


@dataclass(frozen=True, slots=True)
class CountOrders(Query[int]):
    pass


@dataclass(frozen=True, slots=True)
class OrderPlaced(Notification):
    order_id: OrderId


@dataclass
class UnitOfWork:
    closed: bool = False

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Orders:
    unit_of_work: UnitOfWork


@dataclass
class PlaceOrderHandler(RequestHandler[PlaceOrder, OrderId]):
    orders: Orders
    mediator: Mediator

    async def handle(self, command: PlaceOrder) -> OrderId:
        order_id = OrderId(command.total)
        await self.mediator.publish(OrderPlaced(order_id))
        return order_id


class CountOrdersHandler(RequestHandler[CountOrders, int]):
    async def handle(self, _: CountOrders) -> int:
        return 7


@dataclass
class Seen:
    items: list[Any] = field(default_factory=list)


@dataclass
class RememberOrder(NotificationHandler[OrderPlaced]):
    seen: Seen
    unit_of_work: UnitOfWork

    async def handle(self, notification: OrderPlaced) -> None:
        self.seen.items.append((notification.order_id, self.unit_of_work))


@dataclass
class Spy(PipelineBehavior[Command[Any], Any]):
    seen: Seen

    async def handle(self, message: Command[Any], call_next: CallNext[Any]) -> Any:
        self.seen.items.append(type(message).__name__)
        return await call_next()
