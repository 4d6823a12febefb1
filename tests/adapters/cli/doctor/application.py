"""An application for `mediator doctor`: it ships orders that are placed elsewhere, and publishes an event for each."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from dependency_injector import containers, providers
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

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
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, open_engine


@dataclass(frozen=True, slots=True)
class OrderPlaced(DistributedEvent):
    event_type: ClassVar[str] = "ordering.order-placed"


@dataclass(frozen=True, slots=True)
class OrderShipped(DistributedEvent):
    event_type: ClassVar[str] = "dispatch.order-shipped"


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


@asynccontextmanager
async def open_engine_with_pragma(url: str, pragma: str) -> AsyncGenerator[AsyncEngine, None]:
    """Open an SQLite engine with another pragma."""
    async with open_engine(url) as engine:

        @event.listens_for(engine.sync_engine, "connect")
        def hasten(connection: Any, _entry: object) -> None:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        yield engine


@asynccontextmanager
async def open_lazy_engine(url: str, **options: Any) -> AsyncGenerator[AsyncEngine, None]:
    """Create an engine with SQLAlchemy, which connects at its first use."""
    scheme, _, rest = url.partition("://")
    driver = {"postgresql": "asyncpg", "sqlite": "aiosqlite"}[scheme]
    engine = create_async_engine(f"{scheme}+{driver}://{rest}", **options)
    yield engine
    await engine.dispose()


@asynccontextmanager
async def open_refusing_engine(url: str) -> AsyncGenerator[AsyncEngine, None]:
    """Open an engine whose connections are refused by a listener of the application."""
    engine = create_async_engine(url.replace("sqlite://", "sqlite+aiosqlite://"))

    @event.listens_for(engine.sync_engine, "connect")
    def refuse(connection: Any, _entry: object) -> None:
        raise LookupError("no token for postgresql://app:hidden@server:5432/app")

    yield engine
    await engine.dispose()


class Container(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database, pool_size=config.pool_size.as_int(), max_overflow=0)
    nats = providers.Resource(open_connection, config.nats)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    settings = providers.Singleton(StreamSettings, replicas=config.replicas.as_int(), max_bytes=10**6)
    publisher = providers.Singleton(NatsEventPublisher, nats, "shipping", prefix=config.prefix, settings=settings)
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    inbox = providers.Singleton(SqlAlchemyInbox, engine, keep_seconds=config.keep_seconds.as_float())
    parking = providers.Singleton(SqlAlchemyParking, engine)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    subscription = providers.Singleton(NatsEventSubscription, nats, "shipping", prefix=config.prefix, settings=settings)
    consumer = providers.Singleton(
        EventConsumer,
        subscription,
        inbox,
        unit_of_work.provider,
        mediator,
        parking=parking,
        ordering=config.ordering,
        concurrency=config.concurrency.as_int(),
    )
    ship = providers.Factory(ShipHandler, distributed_events)
    prepare = providers.Factory(PrepareShipment)


class FaultyContainer(Container):
    prepare = providers.Factory(PrepareShipment, providers.Dependency())
    ship_again = providers.Factory(ShipHandler)


def config(**others: Any) -> dict[str, Any]:
    return {
        "database": os.environ.get("DOCTOR_DATABASE", ""),
        "nats": os.environ.get("DOCTOR_NATS", ""),
        "prefix": os.environ.get("DOCTOR_PREFIX", ""),
        "replicas": 1,
        "pool_size": 10,
        "keep_seconds": 8 * 86400.0,
        "ordering": "none",
        "concurrency": 1,
        **others,
    }


def create() -> Container:
    return Container(config=config())


def create_incomplete() -> Container:
    """Create the application without one of its settings."""
    given = config()
    del given["concurrency"]
    return Container(config=given)


def fail_to_resolve() -> Any:
    raise LookupError("no value for it")


async def hang_forever() -> Any:
    await asyncio.Event().wait()


def with_setting(part: str, name: str, value: Any) -> Callable[..., Container]:
    """Return a function that creates the application with another setting of one of its parts."""

    def make(config: dict[str, Any]) -> Container:
        container = Container(config=config)
        container.providers[part].add_kwargs(**{name: value})
        return container

    return make


def with_pragma(pragma: str) -> Callable[..., Container]:
    """Return a function that creates the application with another pragma of its engine."""

    def make(config: dict[str, Any]) -> Container:
        container = Container(config=config)
        container.engine.override(providers.Resource(open_engine_with_pragma, config["database"], pragma))
        return container

    return make


def plain(config: dict[str, Any], **options: Any) -> Container:
    """Create the application with an engine that `open_engine` did not create."""
    container = Container(config=config)
    container.engine.override(providers.Resource(open_lazy_engine, config["database"], **options))
    return container


def refusing(config: dict[str, Any]) -> Container:
    """Create the application with an engine whose connections fail in the application's own code."""
    container = Container(config=config)
    container.engine.override(providers.Resource(open_refusing_engine, config["database"]))
    return container


class RemoteContainer(containers.DeclarativeContainer):
    """An application that uses its broker only for requests."""

    config = providers.Configuration(strict=True)
    nats = providers.Resource(open_connection, config.nats)
