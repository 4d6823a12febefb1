"""The containers of the campaign's processes.

What they work with is in the environment variable CAMPAIGN, as JSON; see `Settings`.
"""

import logging
import os
import random
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
from tests.faults.campaign.application import AcknowledgeHandler, AuditKept, AuditNoted, BookHandler, KeepBooked, Within
from tests.faults.campaign.clock import jump, utc_now
from tests.faults.campaign.troubles import JUMPED, FullDisk, Journal, Unclosable

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
        log_failures: Which share of the log lines fails.
        close_failures: Which share of the objects of a scope cannot be closed.
        clock_jumps: Whether the clock of the process jumps.
        journals: The folder for what the process writes down; none when it is empty.
    """

    database: str
    nats: list[str]
    application: str
    replicas: int = 1
    repaired: bool = False
    statement_timeout: float = 10.0
    frozen_seconds: float = 5.0
    ack_wait: float = 5.0
    log_failures: float = 0.0
    close_failures: float = 0.0
    clock_jumps: bool = False
    journals: str = ""

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
    journal = providers.Singleton(Journal, config.journals)
    rng = providers.Singleton(random.Random)
    unclosable = Scoped(Unclosable, journal, config.close_failures, rng)


class LedgerContainer(Connected):
    """Of a writer."""

    unit_of_work = Scoped(SqlAlchemyUnitOfWork, Connected.engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work, clock=utc_now)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, Connected.outbox)
    within = providers.Factory(Within)
    mediator = MediatorProvider(behaviors=providers.List(within, transaction))
    book = providers.Factory(
        BookHandler, unit_of_work, distributed_events, mediator, Connected.journal, Connected.unclosable
    )
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
    distributed_events = Scoped(DistributedEventBroker, unit_of_work, clock=utc_now)
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
        drain_timeout=2.0, clean_interval=1.0,
    )  # fmt: skip
    keep = providers.Factory(
        KeepBooked, ConsumingContainer.unit_of_work, ConsumingContainer.distributed_events, Connected.config.repaired,
        Connected.unclosable,
    )  # fmt: skip


class AuditorContainer(ConsumingContainer):
    """Of a consumer without order."""

    subscription = providers.Singleton(
        NatsEventSubscription, Connected.nats, "auditor",
        settings=Connected.stream_settings, ack_wait=Connected.config.ack_wait,
    )  # fmt: skip
    consumer = providers.Singleton(
        EventConsumer, subscription, ConsumingContainer.inbox, ConsumingContainer.unit_of_work.provider,
        ConsumingContainer.mediator, parking=ConsumingContainer.parking, concurrency=4, retry_delays=_RETRY_DELAYS,
        drain_timeout=2.0, clean_interval=1.0,
    )  # fmt: skip
    audit_noted = providers.Factory(
        AuditNoted, ConsumingContainer.unit_of_work, Connected.config.repaired, Connected.unclosable
    )
    audit_kept = providers.Factory(AuditKept, ConsumingContainer.unit_of_work, Connected.unclosable)


def configured(container: type[containers.DeclarativeContainer]) -> Any:
    """The container of a process, with its logs on standard error, and with the troubles that it is to meet."""
    settings = msgspec.json.decode(os.environ["CAMPAIGN"], type=Settings)
    made: Any = container(config=msgspec.structs.asdict(settings))
    structlog.configure(
        processors=[FullDisk(made.journal(), settings.log_failures, made.rng()), *structlog.get_config()["processors"]],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if settings.clock_jumps:
        jump(made.rng(), lambda: made.journal().happened(JUMPED))
    return made


def relay() -> Any:
    """For `mediator run`."""
    return configured(RelayContainer)


def keeper() -> Any:
    """For `mediator run` and `mediator parked`."""
    return configured(KeeperContainer)


def auditor() -> Any:
    """For `mediator run` and `mediator parked`."""
    return configured(AuditorContainer)
