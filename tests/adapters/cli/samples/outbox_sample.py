"""Applications with outboxes, for `mediator outbox`."""

import os

from dependency_injector import containers, providers

from mediator import OutboxRelay
from mediator.sqlalchemy import SqlAlchemyOutbox, open_engine
from mediator.testing import InMemoryBroker, InMemoryEventPublisher

BROKER = InMemoryBroker()


def broker() -> InMemoryBroker:
    """Return the one broker, because a container copies attributes that are not providers."""
    return BROKER


class SalesContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    publisher = providers.Singleton(InMemoryEventPublisher, providers.Callable(broker), application="sales")
    relay = providers.Singleton(OutboxRelay, outbox, publisher)


class TwoPublishers(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    first = providers.Singleton(InMemoryEventPublisher, providers.Callable(broker), application="first")
    second = providers.Singleton(InMemoryEventPublisher, providers.Callable(broker), application="second")


class Silent(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.database)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)


class Nothing(containers.DeclarativeContainer):
    pass


def create() -> SalesContainer:
    return SalesContainer(config={"database": os.environ["SAMPLE_DATABASE"]})


def create_two() -> TwoPublishers:
    return TwoPublishers(config={"database": os.environ["SAMPLE_DATABASE"]})


def create_silent() -> Silent:
    return Silent(config={"database": os.environ["SAMPLE_DATABASE"]})
