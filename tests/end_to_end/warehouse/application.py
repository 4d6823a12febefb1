"""The warehouse: an application that reserves goods for the orders of the shop."""

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog
from dependency_injector import containers, providers
from sqlalchemy import text

from mediator import (
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    OutboxRelay,
    current_context,
    current_delivery,
)
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.nats import NatsEventPublisher, NatsEventSubscription, open_connection
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, open_engine


@dataclass(frozen=True, slots=True)
class OrderPlacedAtShop(DistributedEvent):
    """The warehouse's own class for the shop's event."""

    event_type: ClassVar[str] = "shop.order-placed"
    number: str
    customer: str


@dataclass(frozen=True, slots=True)
class GoodsReserved(DistributedEvent):
    event_type: ClassVar[str] = "warehouse.goods-reserved"
    number: str


class ReserveGoods(DistributedEventHandler[OrderPlacedAtShop]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, distributed_events: DistributedEventBroker) -> None:
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events

    async def handle(self, event: OrderPlacedAtShop) -> None:
        delivery = current_delivery()
        row: dict[str, Any] = {
            "number": event.number,
            "customer": event.customer,
            "id": delivery.id,
            "attempt": delivery.attempt,
            "correlation": current_context().correlation_id,
        }
        await self._unit_of_work.session.execute(
            text("INSERT INTO reservations VALUES (:number, :customer, :id, :attempt, :correlation)"), row
        )
        self._distributed_events.add(GoodsReserved(event.number))
        if event.number.startswith("poison") and delivery.attempt == 1:
            raise ValueError(event.number)
        if not os.environ.get("WAREHOUSE_REPAIRED"):
            await misbehave(event.number)


async def misbehave(number: str) -> None:
    """Do something unusual that a handler may do to a consumer."""
    if number.startswith("broken"):
        raise ValueError(number)
    if number.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    if number.startswith("hanging"):
        structlog.get_logger("warehouse").info("hanging")
        await asyncio.Event().wait()


class WarehouseContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    nats = providers.Resource(open_connection, config.nats)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    inbox = providers.Singleton(SqlAlchemyInbox, engine)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    publisher = providers.Singleton(NatsEventPublisher, nats, application="warehouse")
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    subscription = providers.Singleton(NatsEventSubscription, nats, "warehouse", ack_wait=2.0)
    consumer = providers.Singleton(
        EventConsumer, subscription, inbox, unit_of_work.provider, mediator, retry_delays=(0.05, 1.0)
    )
    reserve_goods = providers.Factory(ReserveGoods, unit_of_work, distributed_events)


class OrderedWarehouseContainer(WarehouseContainer):
    """The warehouse with strict order of each customer's orders, and with parking."""

    parking = providers.Singleton(SqlAlchemyParking, WarehouseContainer.engine)
    consumer = providers.Singleton(
        EventConsumer,
        WarehouseContainer.subscription,
        WarehouseContainer.inbox,
        WarehouseContainer.unit_of_work.provider,
        WarehouseContainer.mediator,
        parking=parking,
        ordering="key",
        retry_delays=(0.0, 0.1),
        later_delays=(),
        drain_timeout=0.1,
    )
