"""A small application for the command line, with valid and invalid containers."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dependency_injector import containers, providers
from sqlalchemy import text

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventHandler,
    EventConsumer,
    LoggingBehavior,
    Notification,
    NotificationHandler,
    RequestHandler,
)
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.nats import NatsEventSubscription, open_connection
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyUnitOfWork, open_engine


@dataclass(frozen=True, slots=True)
class OrderPlaced(DistributedEvent):
    event_type: ClassVar[str] = "sales.order-placed"
    order: str


@dataclass(frozen=True, slots=True)
class ShipOrder(Command[str]):
    order: str


@dataclass(frozen=True, slots=True)
class OrderShipped(Notification):
    order: str


class SlowRecord(DistributedEventHandler[OrderPlaced]):
    """Prints that it has started, and waits until a file exists."""

    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, release: Path) -> None:
        self._unit_of_work = unit_of_work
        self._release = release

    async def handle(self, event: OrderPlaced) -> None:
        print(f"handling {event.order}", flush=True)  # noqa: T201  (the test waits for it)
        while not self._release.exists():
            await asyncio.sleep(0.01)
        session = self._unit_of_work.session
        await session.execute(text("CREATE TABLE shipped (name TEXT)"))
        await session.execute(text("INSERT INTO shipped VALUES (:name)"), {"name": event.order})


class ShipOrderHandler(RequestHandler[ShipOrder, str]):
    async def handle(self, command: ShipOrder) -> str:
        return command.order


class TellCustomer(NotificationHandler[OrderShipped]):
    async def handle(self, notification: OrderShipped) -> None:
        pass


class IdleContainer(containers.DeclarativeContainer):
    logging = providers.Factory(LoggingBehavior)
    mediator = MediatorProvider(behaviors=providers.List(logging))
    ship = providers.Factory(ShipOrderHandler)
    tell = providers.Factory(TellCustomer)


class Container(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    nats = providers.Resource(open_connection, config.nats)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    inbox = providers.Singleton(SqlAlchemyInbox, engine)
    mediator = MediatorProvider()
    subscription = providers.Singleton(NatsEventSubscription, nats, "shipping")
    consumer = providers.Singleton(EventConsumer, subscription, inbox, unit_of_work.provider, mediator)
    record = providers.Factory(SlowRecord, unit_of_work, config.release)


class FaultyContainer(IdleContainer):
    ship_again = providers.Factory(ShipOrderHandler)


def create() -> Container:
    container = Container()
    container.config.from_dict(
        {
            "database": os.environ["SAMPLE_DATABASE"],
            "nats": os.environ.get("SAMPLE_NATS", "nats://127.0.0.1:1"),
            "release": Path(os.environ.get("SAMPLE_RELEASE", "release")),
        }
    )
    return container


class FaultyWorkerContainer(Container):
    record_again = providers.Factory(SlowRecord)


def create_faulty() -> FaultyWorkerContainer:
    return FaultyWorkerContainer(config={"database": "", "nats": "", "release": ""})


def with_arguments(settings: dict[str, str]) -> Container:
    raise AssertionError


def failing() -> Container:
    raise ValueError("no\x1b[2J\nsettings")


async def asynchronous() -> Container:
    return Container()


def returns_a_list() -> list[int]:
    return [1]


idle = IdleContainer()
