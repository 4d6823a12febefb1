"""The application that fails: it takes orders, publishes an event for each, and reserves goods for its own events."""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from dependency_injector import containers, providers
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    Mediator,
    Notification,
    NotificationHandler,
    OutboxRelay,
    RequestHandler,
    current_delivery,
)
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.distributed.requests import RemoteSender, RequestResponder, trust_broker
from mediator.nats import NatsEventPublisher, NatsEventSubscription, NatsRequestChannel, StreamSettings, open_connection
from mediator.sqlalchemy import (
    SqlAlchemyInbox,
    SqlAlchemyOutbox,
    SqlAlchemyParking,
    SqlAlchemyUnitOfWork,
    create_schema,
    open_engine,
)

ACK_WAIT = 0.5


@dataclass(frozen=True, slots=True)
class Place(Command[None]):
    request_type: ClassVar[str] = "shop.place"
    number: str
    customer: str = "ada"


@dataclass(frozen=True, slots=True)
class Placed(DistributedEvent):
    event_type: ClassVar[str] = "shop.placed"
    number: str
    customer: str

    @property
    def partition_key(self) -> str:
        return self.customer


@dataclass(frozen=True, slots=True)
class Cancelled(DistributedEvent):
    event_type: ClassVar[str] = "shop.cancelled"
    number: str


@dataclass(frozen=True, slots=True)
class Noted(Notification):
    """A notification after the commit of an order named `noted`."""

    number: str


@dataclass(frozen=True, slots=True)
class Reserved(DistributedEvent):
    """An event without a subscription that follows a reservation."""

    event_type: ClassVar[str] = "stock.reserved"
    number: str


class PlaceHandler(RequestHandler[Place, None]):
    def __init__(
        self, unit_of_work: SqlAlchemyUnitOfWork, distributed_events: DistributedEventBroker, mediator: Mediator
    ) -> None:
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events
        self._mediator = mediator

    async def handle(self, command: Place) -> None:
        row = {"number": command.number}
        await self._unit_of_work.session.execute(text("INSERT INTO orders VALUES (:number)"), row)
        self._distributed_events.add(Placed(command.number, command.customer))
        if command.number == "noted":
            self._mediator.publish_after_commit(Noted(command.number))


class Note(NotificationHandler[Noted]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def handle(self, notification: Noted) -> None:
        row = {"number": notification.number}
        await self._unit_of_work.session.execute(text("INSERT INTO notes VALUES (:number)"), row)


class Reserve(DistributedEventHandler[Placed]):
    """Reserves goods: `flaky` orders fail once, `broken` ones fail until the repair, and `hanging` ones hang until it."""

    hanging: ClassVar[asyncio.Event] = asyncio.Event()

    def __init__(
        self, unit_of_work: SqlAlchemyUnitOfWork, distributed_events: DistributedEventBroker, repaired: bool
    ) -> None:
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events
        self._repaired = repaired

    async def handle(self, event: Placed) -> None:
        row = {"number": event.number}
        await self._unit_of_work.session.execute(text("INSERT INTO reservations VALUES (:number)"), row)
        self._distributed_events.add(Reserved(event.number))
        if self._repaired:
            return
        if event.number == "hanging":
            self.hanging.set()
            await asyncio.Event().wait()
        if event.number.startswith("broken") or (event.number == "flaky" and current_delivery().attempt == 1):
            raise ValueError(event.number)


class Release(DistributedEventHandler[Cancelled]):
    """Handles an event that is never published. So the subscription is not paused while a circuit holds all other events."""

    async def handle(self, event: Cancelled) -> None: ...


class ShopContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    nats = providers.Resource(open_connection, config.nats)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    inbox = providers.Singleton(SqlAlchemyInbox, engine)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    parking = providers.Singleton(SqlAlchemyParking, engine)
    settings = providers.Singleton(StreamSettings, max_bytes=1_000_000)  # the broker reserves this space
    publisher = providers.Singleton(NatsEventPublisher, nats, "shop", prefix=config.prefix, settings=settings)
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    transaction = providers.Factory(
        DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox,
        publisher=publisher, delivery=config.delivery,
    )  # fmt: skip
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    subscription = providers.Singleton(
        NatsEventSubscription, nats, "stock", prefix=config.prefix, settings=settings, ack_wait=ACK_WAIT
    )
    consumer = providers.Singleton(
        EventConsumer, subscription, inbox, unit_of_work.provider, mediator,
        parking=parking, ordering="key", retry_delays=(0.0, 0.0, 0.0), later_delays=config.later_delays,
        circuit_failures=config.circuit_failures, drain_timeout=config.drain_timeout,
    )  # fmt: skip
    channel = providers.Singleton(NatsRequestChannel, nats, "shop", prefix=config.prefix)
    responder = providers.Singleton(
        RequestResponder, channel, mediator, exposes=providers.List(providers.Object(Place)), authenticate=trust_broker
    )
    sender = providers.Singleton(RemoteSender, channel, timeout=20.0)
    place = providers.Factory(PlaceHandler, unit_of_work, distributed_events, mediator)
    note = providers.Factory(Note, unit_of_work)
    release = providers.Factory(Release)
    reserve = providers.Factory(Reserve, unit_of_work, distributed_events, config.repaired)


def configured(
    database: str,
    nats: str,
    prefix: str,
    *,
    repaired: bool = False,
    drain_timeout: float = 5.0,
    delivery: str = "outbox",
    later_delays: tuple[float, ...] = (),
    circuit_failures: int | None = None,
) -> Any:
    """Return the container of one run."""
    config = {
        "database": database,
        "nats": nats,
        "prefix": prefix,
        "repaired": repaired,
        "drain_timeout": drain_timeout,
        "delivery": delivery,
        "later_delays": later_delays,
        "circuit_failures": circuit_failures,
    }
    return ShopContainer(config=config)


async def create_tables(engine: AsyncEngine) -> None:
    """Create the tables of the library and of the application."""
    await create_schema(engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE orders (number TEXT NOT NULL)"))
        await connection.execute(text("CREATE TABLE reservations (number TEXT NOT NULL)"))
        await connection.execute(text("CREATE TABLE notes (number TEXT NOT NULL)"))
