"""The applications of the scenarios: one moves stock and tells of it, another one keeps what it is told.

What they work with is in the environment variable SCENARIO, as JSON; see `Settings`.
"""

import asyncio
import logging
import os
import signal
import sys
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import structlog
from dependency_injector import containers, providers
from sqlalchemy import text

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    OutboxRelay,
    RequestHandler,
    current_delivery,
)
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.nats import NatsEventPublisher, NatsEventSubscription, StreamSettings, open_connection, open_doorbell
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, open_engine

STREAM = "events-load"
GROUP = "keeper"


class Settings(msgspec.Struct, frozen=True):
    """What one process works with.

    Attributes:
        database: The URL of its database.
        nats: The URLs of the broker.
        replicas: On how many servers events are stored.
        name: Of the process; that of its connections to PostgreSQL.
        frozen_seconds: After how long PostgreSQL takes the events from a frozen relay.
        ack_wait: How long the broker waits for an acknowledgement, in seconds; `None` for as long as it does by default.
        attempts: How often the handlers of an event are started; `None` for as often as by default.
        max_pending: How many events may wait in the outbox.
        repaired: Whether handlers handle what they could not handle.
    """

    database: str
    nats: list[str]
    replicas: int = 1
    name: str = "scenario"
    frozen_seconds: float = 10.0
    ack_wait: float | None = None
    attempts: int | None = None
    max_pending: int | None = None
    repaired: bool = False

    def environment(self) -> dict[str, str]:
        """For a process."""
        return {"SCENARIO": msgspec.json.encode(self).decode()}

    @classmethod
    def from_environment(cls) -> "Settings":
        return msgspec.json.decode(os.environ["SCENARIO"], type=cls)


class RolledBackError(Exception):
    """Raised after the events of a command were added: nobody is ever to see them."""


@dataclass(frozen=True, slots=True)
class Moved(DistributedEvent):
    event_type: ClassVar[str] = "load.moved"
    key: str
    writer: int
    number: int
    action: str = ""

    @property
    def partition_key(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Counted(Moved):
    """One of many that are raised at once; nobody subscribes to it."""

    event_type: ClassVar[str] = "load.counted"


@dataclass(frozen=True, slots=True)
class Move(Command[None]):
    """Moves stock, an event for each key.

    Attributes:
        keys: Of the events; a key may come several times.
        writer: Who does it.
        number: The how manieth command of that writer it is.
        with_row: Whether to update a row of each key, which then orders the commits; else rows are only inserted.
        action: What handlers of the events are to do.
        fails: Whether it fails in the end.
    """

    keys: tuple[str, ...]
    writer: int
    number: int
    with_row: bool = False
    action: str = ""
    fails: bool = False


class MoveHandler(RequestHandler[Move, None]):
    """Writes down, in the same transaction, the id of each event: whoever checks later knows what was committed."""

    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, distributed_events: DistributedEventBroker) -> None:
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events

    async def handle(self, command: Move) -> None:
        session = self._unit_of_work.session
        if command.with_row:
            change = text("UPDATE stock SET changes = changes + 1 WHERE key = :key")
            for key in sorted(set(command.keys)):
                await session.execute(change, {"key": key})
        kind = Moved if len(command.keys) == 1 else Counted
        rows = [
            {
                "id": self._distributed_events.add(kind(key, command.writer, command.number, command.action)),
                "key": key,
                "detail": f"{command.writer}/{command.number}",
            }
            for key in command.keys
        ]
        await session.execute(text("INSERT INTO entries (id, key, detail) VALUES (:id, :key, :detail)"), rows)
        if command.fails:
            raise RolledBackError


class KeepMoved(DistributedEventHandler[Moved]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, repaired: bool) -> None:
        self._unit_of_work = unit_of_work
        self._repaired = repaired

    async def handle(self, event: Moved) -> None:
        delivery = current_delivery()
        row = {"id": delivery.id, "key": event.key, "detail": str(delivery.attempt)}
        insert = text("INSERT INTO effects (id, key, detail) VALUES (:id, :key, :detail)")
        await self._unit_of_work.session.execute(insert, row)
        if not self._repaired:
            await misbehave(event.action)


async def misbehave(action: str) -> None:
    """What a handler may do to its process."""
    if action == "broken":
        raise ValueError(action)
    if action == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hanging":
        structlog.get_logger("keeper").info("hanging")
        await asyncio.Event().wait()


class WriterContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    nats = providers.Resource(open_connection, config.nats)
    doorbell = providers.Resource(open_doorbell, nats, "load")
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine, max_pending=config.max_pending)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine, doorbell=doorbell)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    move = providers.Factory(MoveHandler, unit_of_work, distributed_events)


class RelayContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database, connect_args=config.connect_args)
    nats = providers.Resource(open_connection, config.nats)
    doorbell = providers.Resource(open_doorbell, nats, "load")
    outbox = providers.Singleton(SqlAlchemyOutbox, engine, doorbell=doorbell, frozen_seconds=config.frozen_seconds)
    settings = providers.Singleton(StreamSettings, replicas=config.replicas)
    publisher = providers.Singleton(NatsEventPublisher, nats, "load", settings=settings)
    relay = providers.Singleton(OutboxRelay, outbox, publisher)


class KeeperContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    nats = providers.Resource(open_connection, config.nats)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    inbox = providers.Singleton(SqlAlchemyInbox, engine)
    parking = providers.Singleton(SqlAlchemyParking, engine)
    transaction = providers.Factory(
        DistributedUnitOfWorkBehavior, unit_of_work, Scoped(DistributedEventBroker, unit_of_work)
    )
    mediator = MediatorProvider()
    settings = providers.Singleton(StreamSettings, replicas=config.replicas)
    subscription = providers.Singleton(NatsEventSubscription, nats, GROUP, settings=settings, ack_wait=config.ack_wait)
    consumer = providers.Singleton(
        EventConsumer, subscription, inbox, unit_of_work.provider, mediator, parking=parking, ordering="key",
        max_attempts=config.attempts,
        drain_timeout=1.0,
    )  # fmt: skip
    keep = providers.Factory(KeepMoved, unit_of_work, config.repaired)


def configured(container: type[containers.DeclarativeContainer]) -> containers.DynamicContainer:
    """The container of a process, and its logs on standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    settings = Settings.from_environment()
    named = {"server_settings": {"application_name": settings.name}}
    connect_args = named if settings.database.startswith("postgresql") else {}
    return container(config={**msgspec.structs.asdict(settings), "connect_args": connect_args})


def relay() -> containers.DynamicContainer:
    """For `mediator run`."""
    return configured(RelayContainer)


def keeper() -> containers.DynamicContainer:
    """For `mediator run` and `mediator parked`."""
    return configured(KeeperContainer)
