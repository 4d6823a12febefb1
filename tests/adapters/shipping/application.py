"""Applications with a broker for `mediator topology`: one that ships orders, as it was, as it is, and as it will be."""

import os
from dataclasses import dataclass
from typing import ClassVar

from dependency_injector import containers, providers

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    OutboxRelay,
    RequestHandler,
)
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.nats import NatsEventPublisher, NatsEventSubscription, StreamSettings, open_connection
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyUnitOfWork, open_engine


@dataclass(frozen=True, slots=True)
class OrderPlaced(DistributedEvent):
    event_type: ClassVar[str] = "sales.order-placed"


@dataclass(frozen=True, slots=True)
class OrderCancelled(DistributedEvent):
    event_type: ClassVar[str] = "sales.order-cancelled"


@dataclass(frozen=True, slots=True)
class OrderShipped(DistributedEvent):
    event_type: ClassVar[str] = "shipping.order-shipped"


@dataclass(frozen=True, slots=True)
class Ship(Command[None]):
    pass


class ShipHandler(RequestHandler[Ship, None]):
    def __init__(self, distributed_events: DistributedEventBroker) -> None:
        self._distributed_events = distributed_events

    async def handle(self, command: Ship) -> None:
        self._distributed_events.add(OrderShipped())


class PrepareShipment(DistributedEventHandler[OrderPlaced]):
    async def handle(self, event: OrderPlaced) -> None:
        pass


class StopShipment(DistributedEventHandler[OrderCancelled]):
    async def handle(self, event: OrderCancelled) -> None:
        pass


class Container(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, "sqlite:///missing/never-opened.db")
    nats = providers.Resource(open_connection, config.nats, password=config.password)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    settings = providers.Singleton(
        StreamSettings, max_age=config.max_age.as_float(), partitions=config.partitions.as_int()
    )
    publisher = providers.Singleton(NatsEventPublisher, nats, "shipping", prefix=config.prefix, settings=settings)
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    inbox = providers.Singleton(SqlAlchemyInbox, engine)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    subscription = providers.Singleton(NatsEventSubscription, nats, "shipping", prefix=config.prefix)
    consumer = providers.Singleton(EventConsumer, subscription, inbox, unit_of_work.provider, mediator)
    ship = providers.Factory(ShipHandler, distributed_events)
    prepare = providers.Factory(PrepareShipment)


class NextContainer(Container):
    """The next version: it handles one more event."""

    stop = providers.Factory(StopShipment)


class MailsContainer(Container):
    """The same with a second group, which takes the same events in order."""

    mails = providers.Singleton(NatsEventSubscription, Container.nats, "mails", prefix=Container.config.prefix)
    mailing = providers.Singleton(
        EventConsumer, mails, Container.inbox, Container.unit_of_work.provider, Container.mediator, ordering="key"
    )


class LastContainer(containers.DeclarativeContainer):
    """The last version: it takes nothing in any more."""

    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, "sqlite:///missing/never-opened.db")
    nats = providers.Resource(open_connection, config.nats, password=config.password)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    relay = providers.Singleton(
        OutboxRelay, outbox, providers.Singleton(NatsEventPublisher, nats, "shipping", prefix=config.prefix)
    )
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    ship = providers.Factory(ShipHandler, distributed_events)


def config() -> dict[str, str]:
    return {
        "nats": os.environ["SHIPPING_NATS"],
        "password": os.environ.get("SHIPPING_PASSWORD", ""),
        "prefix": os.environ["SHIPPING_PREFIX"],
        "max_age": os.environ.get("SHIPPING_MAX_AGE", "604800"),
        "partitions": os.environ.get("SHIPPING_PARTITIONS", "16"),
    }


def create() -> Container:
    return Container(config=config())


def create_next() -> NextContainer:
    return NextContainer(config=config())


def create_mails() -> MailsContainer:
    return MailsContainer(config=config())


def create_last() -> LastContainer:
    return LastContainer(config=config())
