"""The containers of the campaign's processes.

Their settings are in the environment variable CAMPAIGN, as JSON; see `Settings`.
"""

import logging
import os
import random
import sys
from typing import Any

import msgspec
import structlog
from dependency_injector import containers, providers

from mediator import DistributedEventBroker, DistributedUnitOfWorkBehavior, EventConsumer, OutboxRelay
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.nats import NatsEventPublisher, NatsEventSubscription, StreamSettings, open_connection, open_doorbell
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, open_engine
from tests.faults.campaign.application import (
    AcknowledgeHandler,
    AuditKept,
    AuditNoted,
    BookHandler,
    KeepBooked,
    Service,
    Within,
)
from tests.faults.campaign.clock import jump, utc_now
from tests.faults.campaign.troubles import JUMPED, FullDisk, Journal, Unclosable

_RETRY_DELAYS = (0.0, 0.5, 1.0)
_LATER_DELAYS = (1.0, 3.0, 10.0)


class Settings(msgspec.Struct, frozen=True):
    """The settings of one process.

    Attributes:
        database: The URL of its database.
        nats: The URLs of the broker.
        application: The source of the events that it publishes.
        replicas: The number of servers that store each event.
        repaired: Whether handlers can handle the events that they refused before.
        statement_timeout: The time limit of a PostgreSQL statement, in seconds.
        frozen_seconds: Seconds after which PostgreSQL takes the events from a frozen relay.
        ack_wait: Seconds for which the broker waits for an acknowledgement.
        log_failures: The share of log lines that fail.
        close_failures: The share of scoped objects whose close fails.
        clock_jumps: Whether the clock of the process jumps.
        journals: The folder of the journals; empty for no journal.
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
        """Return the environment variables of a process with these settings."""
        return {"CAMPAIGN": msgspec.json.encode(self).decode()}


class Connected(containers.DeclarativeContainer):
    """The parts of every process: a database, a broker, and the tables of the library."""

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
    """The container of a writer."""

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
    """The container of a relay, on either database."""

    publisher = providers.Singleton(
        NatsEventPublisher, Connected.nats, Connected.config.application, settings=Connected.stream_settings
    )
    relay = providers.Singleton(OutboxRelay, Connected.outbox, publisher)


class ConsumingContainer(Connected):
    """The common container of both groups."""

    unit_of_work = Scoped(SqlAlchemyUnitOfWork, Connected.engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work, clock=utc_now)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, Connected.outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    inbox = providers.Singleton(SqlAlchemyInbox, Connected.engine)
    parking = providers.Singleton(SqlAlchemyParking, Connected.engine)


class KeeperContainer(ConsumingContainer):
    """The container of a consumer with strict order per key."""

    subscription = providers.Singleton(
        NatsEventSubscription, Connected.nats, "keeper",
        settings=Connected.stream_settings, ack_wait=Connected.config.ack_wait,
    )  # fmt: skip
    consumer = providers.Singleton(
        EventConsumer, subscription, ConsumingContainer.inbox, ConsumingContainer.unit_of_work.provider,
        ConsumingContainer.mediator, parking=ConsumingContainer.parking, ordering="key", retry_delays=_RETRY_DELAYS,
        later_delays=_LATER_DELAYS, drain_timeout=2.0, clean_interval=1.0,
    )  # fmt: skip
    service = providers.Singleton(Service, Connected.config.journals)
    keep = providers.Factory(
        KeepBooked, ConsumingContainer.unit_of_work, ConsumingContainer.distributed_events, Connected.config.repaired,
        service, Connected.unclosable,
    )  # fmt: skip


class AuditorContainer(ConsumingContainer):
    """The container of a consumer without order."""

    subscription = providers.Singleton(
        NatsEventSubscription, Connected.nats, "auditor",
        settings=Connected.stream_settings, ack_wait=Connected.config.ack_wait,
    )  # fmt: skip
    consumer = providers.Singleton(
        EventConsumer, subscription, ConsumingContainer.inbox, ConsumingContainer.unit_of_work.provider,
        ConsumingContainer.mediator, parking=ConsumingContainer.parking, concurrency=4, retry_delays=_RETRY_DELAYS,
        later_delays=_LATER_DELAYS, drain_timeout=2.0, clean_interval=1.0,
    )  # fmt: skip
    audit_noted = providers.Factory(
        AuditNoted, ConsumingContainer.unit_of_work, Connected.config.repaired, Connected.unclosable
    )
    audit_kept = providers.Factory(AuditKept, ConsumingContainer.unit_of_work, Connected.unclosable)


def configured(container: type[containers.DeclarativeContainer]) -> Any:
    """Return the container of a process with its troubles, and write its logs to standard error."""
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
    """Create the container for `mediator run`."""
    return configured(RelayContainer)


def keeper() -> Any:
    """Create the container for `mediator run` and `mediator parked`."""
    return configured(KeeperContainer)


def auditor() -> Any:
    """Create the container for `mediator run` and `mediator parked`."""
    return configured(AuditorContainer)
