"""The applications that strangers meet: one answers requests and publishes an event for each, two groups store the events.

One group keeps the order of keys, the other one does not. Both write into one database.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

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
from mediator.distributed.callers import Caller
from mediator.distributed.requests import RemoteCall, RemoteSender, RequestResponder
from mediator.errors import NotAuthorizedError
from mediator.nats import NatsEventPublisher, NatsEventSubscription, NatsRequestChannel, open_connection, open_doorbell
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, open_engine
from tests.faults.scenarios.application import configured

APPLICATION = "load"
ORDERED, UNORDERED = "keeper", "teller"
HEALTHY = "well-"
"""The prefix of keys that no stranger sends."""


@dataclass(frozen=True, slots=True)
class Kept(DistributedEvent):
    """An event for the ordered group."""

    event_type: ClassVar[str] = "load.kept"
    key: str
    number: int
    texts: tuple[str, ...] = ()
    amounts: dict[str, float] = field(default_factory=dict[str, float])
    at: datetime | None = None

    @property
    def partition_key(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Told(Kept):
    """An event for the group without an order."""

    event_type: ClassVar[str] = "load.told"


@dataclass(frozen=True, slots=True)
class Note(Command[int]):
    """Writes a row, and publishes an event for one of the groups; strangers may send it, too."""

    request_type: ClassVar[str] = "load.note"
    key: str
    number: int
    texts: tuple[str, ...] = ()
    amounts: dict[str, float] = field(default_factory=dict[str, float])
    at: datetime | None = None


def identity_text(source: str, event_id: str) -> str:
    """Return the identity of an event for the tables of this scenario: ASCII, even if its producer used other characters."""
    return json.dumps([source, event_id])


async def vouch(call: RemoteCall) -> Caller | None:
    """Refuse every credential as wrong; a request without credentials is anonymous."""
    if "authorization" in call.headers:
        raise NotAuthorizedError(call.name, None)
    return None


class NoteHandler(RequestHandler[Note, int]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, distributed_events: DistributedEventBroker) -> None:
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events

    async def handle(self, command: Note) -> int:
        kind = Kept if command.number % 2 else Told
        told = kind(command.key, command.number, command.texts, command.amounts, command.at)
        row = {
            "id": identity_text(APPLICATION, self._distributed_events.add(told)),
            "key": shown(command.key),
            "detail": kind.event_type,
        }
        await self._unit_of_work.session.execute(_INSERT["entries"], row)
        return command.number


class _Keep:
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def _keep(self, event: Kept) -> None:
        delivery = current_delivery()
        row = {
            "id": identity_text(delivery.event.source, delivery.id),
            "key": shown(event.key),
            "detail": event.event_type,
        }
        await self._unit_of_work.session.execute(_INSERT["effects"], row)


class KeepKept(_Keep, DistributedEventHandler[Kept]):
    async def handle(self, event: Kept) -> None:
        await self._keep(event)


class KeepTold(_Keep, DistributedEventHandler[Told]):
    async def handle(self, event: Told) -> None:
        await self._keep(event)


def shown(key: str) -> str:
    """Return a key for the tables of this scenario."""
    return ascii(key)[1:-1]


_INSERT = {
    table: text(f"INSERT INTO {table} (id, key, detail) VALUES (:id, :key, :detail)")
    for table in ("entries", "effects")
}


class AnsweringContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    nats = providers.Resource(open_connection, config.nats)
    doorbell = providers.Resource(open_doorbell, nats, "load")
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine, doorbell=doorbell)
    publisher = providers.Singleton(NatsEventPublisher, nats, APPLICATION)
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    channel = providers.Singleton(NatsRequestChannel, nats, application=APPLICATION)
    responder = providers.Singleton(RequestResponder, channel, mediator, exposes=[Note], authenticate=vouch)
    note = providers.Factory(NoteHandler, unit_of_work, distributed_events)


class KeepingContainer(containers.DeclarativeContainer):
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


class OrderedContainer(KeepingContainer):
    subscription = providers.Singleton(NatsEventSubscription, KeepingContainer.nats, ORDERED)
    consumer = providers.Singleton(
        EventConsumer, subscription, KeepingContainer.inbox, KeepingContainer.unit_of_work.provider,
        KeepingContainer.mediator, parking=KeepingContainer.parking, ordering="key", unknown_type_grace=0.0,
    )  # fmt: skip
    keep = providers.Factory(KeepKept, KeepingContainer.unit_of_work)


class UnorderedContainer(KeepingContainer):
    subscription = providers.Singleton(NatsEventSubscription, KeepingContainer.nats, UNORDERED)
    consumer = providers.Singleton(
        EventConsumer, subscription, KeepingContainer.inbox, KeepingContainer.unit_of_work.provider,
        KeepingContainer.mediator, parking=KeepingContainer.parking, concurrency=8, unknown_type_grace=0.0,
    )  # fmt: skip
    keep = providers.Factory(KeepTold, KeepingContainer.unit_of_work)


def _configured(container: type[containers.DeclarativeContainer]) -> containers.DynamicContainer:
    """Return a container that logs JSON objects, one per line, so that lines can be counted."""
    made = configured(container)
    structlog.configure(processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()])
    return made


def answering() -> containers.DynamicContainer:
    """Create the container for `mediator run`."""
    return _configured(AnsweringContainer)


def ordered() -> containers.DynamicContainer:
    """Create the container for `mediator run`."""
    return _configured(OrderedContainer)


def unordered() -> containers.DynamicContainer:
    """Create the container for `mediator run`."""
    return _configured(UnorderedContainer)


class AskingContainer(containers.DeclarativeContainer):
    """The container of a valid requester."""

    config = providers.Configuration(strict=True)
    nats = providers.Resource(open_connection, config.nats)
    channel = providers.Singleton(NatsRequestChannel, nats, application="asker")
    sender = providers.Singleton(RemoteSender, channel, timeout=30.0)
