"""The shop: an application that takes orders and publishes an event for each of them."""

from dataclasses import dataclass
from typing import ClassVar

from dependency_injector import containers, providers
from sqlalchemy import text

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    LoggingBehavior,
    Mediator,
    Notification,
    NotificationHandler,
    OutboxRelay,
    RequestHandler,
    TransactionMode,
)
from mediator.dependency_injector import MediatorProvider, Scoped, rewired
from mediator.nats import NatsEventPublisher, open_connection
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, open_engine


@dataclass(frozen=True, slots=True)
class PlaceOrder(Command[str]):
    number: str
    customer: str = ""
    fails: bool = False


@dataclass(frozen=True, slots=True)
class PlaceAll(Command[None]):
    """Places orders by nested commands, then fails or not."""

    numbers: tuple[str, ...]
    fails: bool = False
    mode: TransactionMode = TransactionMode.DEFAULT


@dataclass(frozen=True, slots=True)
class OrderTaken(Notification):
    number: str
    customer: str


@dataclass(frozen=True, slots=True)
class OrderPlaced(DistributedEvent):
    event_type: ClassVar[str] = "shop.order-placed"
    number: str
    customer: str

    @property
    def partition_key(self) -> str | None:
        return self.customer or None


class PlaceOrderHandler(RequestHandler[PlaceOrder, str]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, mediator: Mediator) -> None:
        self._unit_of_work = unit_of_work
        self._mediator = mediator

    async def handle(self, command: PlaceOrder) -> str:
        row = {"number": command.number}
        await self._unit_of_work.session.execute(text("INSERT INTO orders VALUES (:number)"), row)
        await self._mediator.publish(OrderTaken(command.number, command.customer))
        if command.fails:
            raise ValueError(command.number)
        return command.number


class PlaceAllHandler(RequestHandler[PlaceAll, None]):
    def __init__(self, mediator: Mediator) -> None:
        self._mediator = mediator

    async def handle(self, command: PlaceAll) -> None:
        for number in command.numbers:
            await self._mediator.send(PlaceOrder(number), mode=command.mode)
        if command.fails:
            raise ValueError("all")


class AnnounceOrder(NotificationHandler[OrderTaken]):
    def __init__(self, distributed_events: DistributedEventBroker) -> None:
        self._distributed_events = distributed_events

    async def handle(self, notification: OrderTaken) -> None:
        self._distributed_events.add(OrderPlaced(notification.number, notification.customer))


class ShopContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    nats = providers.Resource(open_connection, config.nats)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    publisher = providers.Singleton(NatsEventPublisher, nats, application="shop")
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    logging = providers.Factory(LoggingBehavior)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(logging, transaction))
    place_order = providers.Factory(PlaceOrderHandler, unit_of_work, mediator)
    place_all = providers.Factory(PlaceAllHandler, mediator)
    announce_order = providers.Factory(AnnounceOrder, distributed_events)


@rewired
class DirectShopContainer(ShopContainer):
    """The shop with direct delivery."""

    transaction = providers.Factory(
        DistributedUnitOfWorkBehavior,
        ShopContainer.unit_of_work,
        ShopContainer.distributed_events,
        publisher=ShopContainer.publisher,
        delivery="direct",
    )
