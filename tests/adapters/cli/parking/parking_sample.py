"""An application with parked events, for `mediator parked`."""

import asyncio
import os
from dataclasses import dataclass
from typing import ClassVar

from dependency_injector import containers, providers
from sqlalchemy import text

from mediator import DistributedEvent, DistributedEventHandler, EventConsumer
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.nats import NatsEventSubscription, open_connection
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, open_engine


@dataclass(frozen=True, slots=True)
class OrderPlaced(DistributedEvent):
    event_type: ClassVar[str] = "store.order-placed"
    order: str


class Ship(DistributedEventHandler[OrderPlaced]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def handle(self, event: OrderPlaced) -> None:
        await self._unit_of_work.session.execute(text("INSERT INTO shipped VALUES (:order)"), {"order": event.order})
        if event.order == "poison":
            raise ValueError(f"cannot ship \x1b[31m{event.order}")
        if event.order == "slow":
            print("shipping slowly", flush=True)  # noqa: T201  (the test waits for it)
            await asyncio.Event().wait()


class ShippingContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    nats = providers.Resource(open_connection, "nats://127.0.0.1:1")
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    inbox = providers.Singleton(SqlAlchemyInbox, engine)
    parking = providers.Singleton(SqlAlchemyParking, engine)
    mediator = MediatorProvider()
    subscription = providers.Singleton(NatsEventSubscription, nats, "shipping")
    consumer = providers.Singleton(EventConsumer, subscription, inbox, unit_of_work.provider, mediator, parking=parking)
    ship = providers.Factory(Ship, unit_of_work)


class TwoParkings(ShippingContainer):
    other_parking = providers.Singleton(SqlAlchemyParking, ShippingContainer.engine)


def create() -> ShippingContainer:
    return ShippingContainer(config={"database": os.environ["SAMPLE_DATABASE"]})


def create_two() -> TwoParkings:
    return TwoParkings(config={"database": os.environ["SAMPLE_DATABASE"]})
