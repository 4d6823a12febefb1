"""The containers of the campaign's processes.

What they work with is in the environment variable CAMPAIGN, as JSON; see `Settings`.
"""

import logging
import os
import sys
from typing import Any

import msgspec
import structlog
from dependency_injector import containers, providers

from mediator import (
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    OutboxRelay,
)
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.nats import NatsEventPublisher, NatsEventSubscription, StreamSettings, open_connection, open_doorbell
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, open_engine
from tests.faults.campaign.application import AcknowledgeHandler, AuditKept, AuditNoted, BookHandler, KeepBooked

_RETRY_DELAYS = (0.0, 0.5, 1.0)


class Settings(msgspec.Struct, frozen=True):
    """What one process works with.

    Attributes:
        database: The URL of its database.
        nats: The URLs of the broker.
        application: The source of the events that it publishes.
        replicas: On how many servers events are stored.
        repaired: Whether handlers handle what they could not handle.
        statement_timeout: How long a statement waits for PostgreSQL's answer, in seconds.
        frozen_seconds: After how long PostgreSQL takes the events from a frozen relay, in seconds.
        ack_wait: How long the broker waits for an acknowledgement, in seconds.
    """

    database: str
    nats: list[str]
    application: str
    replicas: int = 1
    repaired: bool = False
    statement_timeout: float = 10.0
    frozen_seconds: float = 5.0
    ack_wait: float = 5.0

    def environment(self) -> dict[str, str]:
        """For a process."""
        return {"CAMPAIGN": msgspec.json.encode(self).decode()}


class Connected(containers.DeclarativeContainer):
    """What every process has: a database, a broker, and the tables of the library."""

    config = providers.Configuration(strict=True)
    engine = providers.Resource(
        open_engine, config.database, statement_timeout=config.statement_timeout, connect_timeout=5.0
    )
    nats = providers.Resource(open_connection, config.nats, probe_interval=1.0)
    doorbell = providers.Resource(open_doorbell, nats, config.application)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine, doorbell=doorbell, frozen_seconds=config.frozen_seconds)
    stream_settings = providers.Singleton(StreamSettings, replicas=config.replicas)


class LedgerContainer(Connected):
    """Of a writer."""

    unit_of_work = Scoped(SqlAlchemyUnitOfWork, Connected.engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, Connected.outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    book = providers.Factory(BookHandler, unit_of_work, distributed_events, mediator)
    acknowledge = providers.Factory(AcknowledgeHandler, unit_of_work)


class RelayContainer(Connected):
    """Of a relay, on either database."""

    publisher = providers.Singleton(
        NatsEventPublisher, Connected.nats, Connected.config.application, settings=Connected.stream_settings
    )
    relay = providers.Singleton(OutboxRelay, Connected.outbox, publisher)


class ConsumingContainer(Connected):
    """Of either group."""

    unit_of_work = Scoped(SqlAlchemyUnitOfWork, Connected.engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, Connected.outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    inbox = providers.Singleton(SqlAlchemyInbox, Connected.engine)
    parking = providers.Singleton(SqlAlchemyParking, Connected.engine)


class KeeperContainer(ConsumingContainer):
    """Of a consumer in strict order of each key."""

    subscription = providers.Singleton(
        NatsEventSubscription, Connected.nats, "keeper",
        settings=Connected.stream_settings, ack_wait=Connected.config.ack_wait,
    )  # fmt: skip
    consumer = providers.Singleton(
        EventConsumer, subscription, ConsumingContainer.inbox, ConsumingContainer.unit_of_work.provider,
        ConsumingContainer.mediator, parking=ConsumingContainer.parking, ordering="key", retry_delays=_RETRY_DELAYS,
        drain_timeout=2.0,
    )  # fmt: skip
    keep = providers.Factory(
        KeepBooked, ConsumingContainer.unit_of_work, ConsumingContainer.distributed_events, Connected.config.repaired
    )


class AuditorContainer(ConsumingContainer):
    """Of a consumer without order."""

    subscription = providers.Singleton(
        NatsEventSubscription, Connected.nats, "auditor",
        settings=Connected.stream_settings, ack_wait=Connected.config.ack_wait,
    )  # fmt: skip
    consumer = providers.Singleton(
        EventConsumer, subscription, ConsumingContainer.inbox, ConsumingContainer.unit_of_work.provider,
        ConsumingContainer.mediator, parking=ConsumingContainer.parking, concurrency=4, retry_delays=_RETRY_DELAYS,
        drain_timeout=2.0,
    )  # fmt: skip
    audit_noted = providers.Factory(AuditNoted, ConsumingContainer.unit_of_work, Connected.config.repaired)
    audit_kept = providers.Factory(AuditKept, ConsumingContainer.unit_of_work)


def configured(container: type[containers.DeclarativeContainer]) -> Any:
    """The container of a process, and its logs on standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    settings = msgspec.json.decode(os.environ["CAMPAIGN"], type=Settings)
    return container(config=msgspec.structs.asdict(settings))


def relay() -> Any:
    """For `mediator run`."""
    return configured(RelayContainer)


def keeper() -> Any:
    """For `mediator run` and `mediator parked`."""
    return configured(KeeperContainer)


def auditor() -> Any:
    """For `mediator run` and `mediator parked`."""
    return configured(AuditorContainer)
