"""Quickstart: messages, handlers and a behavior in one process, without a database. It prints:

book: 2 copies of Dune
stock: 2 of Dune reserved
done: OrderBook, order 1
SoldOutError: only 3 of Dune are left
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from dependency_injector import containers, providers

from mediator import CallNext, Command, Mediator, Notification, NotificationHandler, PipelineBehavior, RequestHandler
from mediator.dependency_injector import MediatorProvider, lifespan


@dataclass(frozen=True, slots=True)
class OrderBook(Command[int]):
    title: str
    copies: int


@dataclass(frozen=True, slots=True)
class BookOrdered(Notification):
    title: str
    copies: int


class SoldOutError(Exception):
    """There are not enough copies."""


class OrderBookHandler(RequestHandler[OrderBook, int]):
    def __init__(self, stock: dict[str, int], mediator: Mediator) -> None:
        self._stock = stock
        self._mediator = mediator

    async def handle(self, command: OrderBook) -> int:
        left = self._stock[command.title]
        if command.copies > left:
            raise SoldOutError(f"only {left} of {command.title} are left")
        print(f"book: {command.copies} copies of {command.title}")
        await self._mediator.publish(BookOrdered(command.title, command.copies))
        return 1


class ReserveStock(NotificationHandler[BookOrdered]):
    def __init__(self, stock: dict[str, int]) -> None:
        self._stock = stock

    async def handle(self, notification: BookOrdered) -> None:
        self._stock[notification.title] -= notification.copies
        print(f"stock: {notification.copies} of {notification.title} reserved")


class ReportBehavior(PipelineBehavior[Command[Any], Any]):  # applies to every command
    async def handle(self, command: Command[Any], call_next: CallNext[Any]) -> Any:
        response = await call_next()
        print(f"done: {type(command).__name__}, order {response}")
        return response


class ShopContainer(containers.DeclarativeContainer):
    stock: providers.Singleton[dict[str, int]] = providers.Singleton(dict, {"Dune": 5})
    report = providers.Factory(ReportBehavior)
    mediator = MediatorProvider(behaviors=providers.List(report))
    order_book = providers.Factory(OrderBookHandler, stock, mediator)
    reserve_stock = providers.Factory(ReserveStock, stock)


async def main() -> None:
    async with lifespan(ShopContainer()) as container:
        mediator = container.mediator()
        await mediator.send(OrderBook("Dune", 2))
        try:
            await mediator.send(OrderBook("Dune", 4))
        except SoldOutError as error:  # a handler's error reaches its sender as it is
            print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    asyncio.run(main())
