"""The applications of the scenarios: one moves stock and publishes events, another one stores them.

Their settings are in the environment variable SCENARIO, as JSON; see `Settings`.
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
_SLOW_SECONDS = 0.5


class Settings(msgspec.Struct, frozen=True):
    """The settings of one process.

    Attributes:
        database: The URL of its database.
        nats: The URLs of the broker.
        replicas: The number of servers that store each event.
        name: The name of the process and of its connections to PostgreSQL.
        frozen_seconds: Seconds after which PostgreSQL takes the events from a frozen relay.
        ack_wait: Seconds for which the broker waits for an acknowledgement; `None` for the default.
        retry_delays: The pauses before the quick tries of an event; `None` for the default.
        later_delays: The pauses before the later tries of an event.
        handler_timeout: Seconds that the handlers of an event may take.
        max_pending: The maximum number of pending events in the outbox.
        repaired: Whether handlers can handle the events that they refused before.
    """

    database: str
    nats: list[str]
    replicas: int = 1
    name: str = "scenario"
    frozen_seconds: float = 10.0
    ack_wait: float | None = None
    retry_delays: list[float] | None = None
    later_delays: list[float] = []
    handler_timeout: float = 300.0
    max_pending: int | None = None
    repaired: bool = False

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a process with these settings."""
        return {"SCENARIO": msgspec.json.encode(self).decode()}

    @classmethod
    def from_environment(cls) -> "Settings":
        return msgspec.json.decode(os.environ["SCENARIO"], type=cls)


class RolledBackError(Exception):
    """Raised after the events of a command were added: the events must never be published."""


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
    """One of many events that are raised at once, without a subscription."""

    event_type: ClassVar[str] = "load.counted"


@dataclass(frozen=True, slots=True)
class Move(Command[None]):
    """Moves stock, with an event for each key.

    Attributes:
        keys: The keys of the events; a key may occur several times.
        writer: The number of the writer.
        number: The number of the command within its writer.
        with_row: Whether to update a row of each key, which orders the commits; otherwise rows are only inserted.
        action: The action of the handlers of the events.
        fails: Whether the command fails in the end.
    """

    keys: tuple[str, ...]
    writer: int
    number: int
    with_row: bool = False
    action: str = ""
    fails: bool = False


class MoveHandler(RequestHandler[Move, None]):
    """Records the id of each event in the same transaction, so that the checker knows the committed events."""

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
    """Perform the action of an event on the process of its handler."""
    if action == "broken" or (action == "flaky" and current_delivery().attempt <= 2):
        raise ValueError(action)
    if action == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "slow":
        await asyncio.sleep(_SLOW_SECONDS)
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
        retry_delays=config.retry_delays,
        later_delays=config.later_delays, handler_timeout=config.handler_timeout, drain_timeout=1.0,
    )  # fmt: skip
    keep = providers.Factory(KeepMoved, unit_of_work, config.repaired)


def configured(container: type[containers.DeclarativeContainer]) -> containers.DynamicContainer:
    """Return the container of a process, and write its logs to standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    settings = Settings.from_environment()
    named = {"server_settings": {"application_name": settings.name}}
    connect_args = named if settings.database.startswith("postgresql") else {}
    return container(config={**msgspec.structs.asdict(settings), "connect_args": connect_args})


def relay() -> containers.DynamicContainer:
    """Create the container for `mediator run`."""
    return configured(RelayContainer)


def keeper() -> containers.DynamicContainer:
    """Create the container for `mediator run` and `mediator parked`."""
    return configured(KeeperContainer)
