"""The containers of the shop and its subscribers for the command line, in tests in which a broker loses events."""

import os
from typing import Any

from dependency_injector import containers, providers

from mediator import EventConsumer, OutboxRelay
from mediator.nats import NatsEventPublisher, NatsEventSubscription, StreamSettings, open_connection
from mediator.sqlalchemy import SqlAlchemyOutbox, open_engine
from tests.end_to_end.shop.application import ShopContainer
from tests.end_to_end.warehouse.application import OrderedWarehouseContainer


class NewcomerContainer(OrderedWarehouseContainer):
    """A separate subscriber that has never received an event."""

    subscription = providers.Singleton(NatsEventSubscription, OrderedWarehouseContainer.nats, "newcomer")
    consumer = providers.Singleton(
        EventConsumer,
        subscription,
        OrderedWarehouseContainer.inbox,
        OrderedWarehouseContainer.unit_of_work.provider,
        OrderedWarehouseContainer.mediator,
        parking=OrderedWarehouseContainer.parking,
        ordering="key",
    )


class BranchesContainer(containers.DeclarativeContainer):
    """Two outboxes in two databases, each with its own publisher."""

    config = providers.Configuration(strict=True)
    nats = providers.Resource(open_connection, config.nats)
    north_engine = providers.Resource(open_engine, config.north)
    north = providers.Singleton(SqlAlchemyOutbox, north_engine)
    north_publisher = providers.Singleton(NatsEventPublisher, nats, application="north", prefix="north")
    north_relay = providers.Singleton(OutboxRelay, north, north_publisher)
    south_engine = providers.Resource(open_engine, config.south)
    south = providers.Singleton(SqlAlchemyOutbox, south_engine)
    south_publisher = providers.Singleton(NatsEventPublisher, nats, application="south", prefix="south")
    south_relay = providers.Singleton(OutboxRelay, south, south_publisher)


def shop() -> Any:
    container = ShopContainer()
    container.config.from_dict({"database": os.environ["SHOP_DATABASE"], "nats": os.environ["BROKER"].split(",")})
    replicas = int(os.environ.get("REPLICAS", "1"))
    container.publisher.add_kwargs(settings=StreamSettings(replicas=replicas, max_bytes=64 * 1024**2))
    return container


def branches() -> Any:
    container = BranchesContainer()
    container.config.from_dict({name: os.environ[name.upper()] for name in ("nats", "north", "south")})
    return container
