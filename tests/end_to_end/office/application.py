"""An office that keeps its notes in one database and its bills in another one, with the workers of both in one process."""

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
from mediator.nats import NatsEventPublisher, NatsEventSubscription, open_connection
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, open_engine


@dataclass(frozen=True, slots=True)
class Noted(DistributedEvent):
    event_type: ClassVar[str] = "notes.noted"
    text: str


@dataclass(frozen=True, slots=True)
class Billed(DistributedEvent):
    event_type: ClassVar[str] = "billing.billed"
    text: str


class NoteCommand(Command[None]):
    pass


class BillingCommand(Command[None]):
    pass


@dataclass(frozen=True, slots=True)
class Note(NoteCommand):
    text: str


@dataclass(frozen=True, slots=True)
class Bill(BillingCommand):
    text: str


class NoteHandler(RequestHandler[Note, None]):
    def __init__(self, events: DistributedEventBroker) -> None:
        self._events = events

    async def handle(self, command: Note) -> None:
        self._events.add(Noted(command.text))


class BillHandler(RequestHandler[Bill, None]):
    def __init__(self, events: DistributedEventBroker) -> None:
        self._events = events

    async def handle(self, command: Bill) -> None:
        self._events.add(Billed(command.text))


class Effects(DistributedEventHandler[Noted | Billed]):
    async def handle(self, event: Noted | Billed) -> None:
        pass  # has no other effect than the row in the inbox


class Noting(DistributedUnitOfWorkBehavior[NoteCommand]):
    pass


class Billing(DistributedUnitOfWorkBehavior[BillingCommand]):
    pass


class Office(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    nats = providers.Resource(open_connection, config.nats)
    publisher = providers.Singleton(NatsEventPublisher, nats, "office")

    notes = providers.Resource(open_engine, config.notes)
    notes_work = Scoped(SqlAlchemyUnitOfWork, notes)
    notes_events = Scoped(DistributedEventBroker, notes_work)
    notes_outbox = providers.Singleton(SqlAlchemyOutbox, notes)
    notes_relay = providers.Singleton(OutboxRelay, notes_outbox, publisher)
    noting = providers.Factory(Noting, notes_work, notes_events, notes_outbox)

    bills = providers.Resource(open_engine, config.bills, connect_timeout=1.0, check_at_start=False)
    bills_work = Scoped(SqlAlchemyUnitOfWork, bills)
    bills_events = Scoped(DistributedEventBroker, bills_work)
    bills_outbox = providers.Singleton(SqlAlchemyOutbox, bills)
    bills_relay = providers.Singleton(OutboxRelay, bills_outbox, publisher)
    billing = providers.Factory(Billing, bills_work, bills_events, bills_outbox)

    mediator = MediatorProvider(behaviors=providers.List(noting, billing))
    note = providers.Factory(NoteHandler, notes_events)
    bill = providers.Factory(BillHandler, bills_events)
    take_effect = providers.Factory(Effects)

    notes_consumer = providers.Singleton(
        EventConsumer,
        providers.Singleton(NatsEventSubscription, nats, "notes"),
        providers.Singleton(SqlAlchemyInbox, notes),
        notes_work.provider,
        mediator,
        parking=providers.Singleton(SqlAlchemyParking, notes),
    )
    bills_consumer = providers.Singleton(
        EventConsumer,
        providers.Singleton(NatsEventSubscription, nats, "bills"),
        providers.Singleton(SqlAlchemyInbox, bills),
        bills_work.provider,
        mediator,
        parking=providers.Singleton(SqlAlchemyParking, bills),
    )
