"""The name of an application is given once; a missing or a different name is reported at the start."""

from dataclasses import dataclass, make_dataclass
from typing import Any, ClassVar

import pytest
from dependency_injector import containers, providers

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    IdempotencyBehavior,
    OutboxRelay,
    RequestHandler,
)
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, validate
from mediator.errors import ContainerValidationError, SettingError
from mediator.testing import (
    InMemoryBroker,
    InMemoryDatabase,
    InMemoryEventPublisher,
    InMemoryIdempotency,
    InMemoryOutbox,
    InMemoryUnitOfWork,
)


@dataclass(frozen=True, slots=True)
class Cancel(Command[None]):
    order: int
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Cancelled(DistributedEvent):
    event_type: ClassVar[str] = "shop.cancelled"
    order: int


class CancelHandler(RequestHandler[Cancel, None]):
    def __init__(self, distributed_events: DistributedEventBroker) -> None:
        self._distributed_events = distributed_events

    async def handle(self, command: Cancel, /) -> None:
        self._distributed_events.add(Cancelled(command.order))


class Shop(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    database = providers.Singleton(InMemoryDatabase)
    broker = providers.Singleton(InMemoryBroker)
    unit_of_work = Scoped(InMemoryUnitOfWork, database)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(InMemoryOutbox, database, application="shop")
    publisher = providers.Singleton(InMemoryEventPublisher, broker)
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    cancel = providers.Factory(CancelHandler, distributed_events)


def shop(outbox: Any = "shop", publisher: Any = None) -> Any:
    container: Any = Shop()
    container.outbox.add_kwargs(application=outbox)
    container.publisher.add_kwargs(application=publisher)
    return container


def problems(container: Any) -> str:
    with pytest.raises(ContainerValidationError) as caught:
        validate(container)
    return str(caught.value)


@pytest.mark.parametrize("names", [("shop", None), ("shop", "shop"), (None, "shop")])
def test_a_name_at_one_provider_is_enough(names: tuple[Any, Any]):
    validate(shop(*names))


def test_two_names_are_reported():
    assert "publishes events as 'bank', but its outbox stores them as 'shop'" in problems(shop("shop", "bank"))


def test_no_name_is_reported():
    assert "publishes events without the name of an application" in problems(shop(None, None))


async def test_two_different_configured_names_prevent_the_start():
    container: Any = Shop(config={"name": "bank"})
    container.publisher.add_kwargs(application=container.config.name)
    validate(container)
    with pytest.raises(SettingError, match="the outbox stores its events under 'shop'"):
        async with lifespan(container, workers=True):
            pass


def test_direct_delivery_needs_the_name_at_the_publisher():
    container = shop()
    container.transaction.add_kwargs(delivery="direct", publisher=container.publisher)
    assert "delivers events without the name of an application" in problems(container)
    container.publisher.add_kwargs(application="shop")
    validate(container)


async def test_an_event_that_is_delivered_directly_has_the_name_of_the_publisher():
    container = shop(None, "shop")
    container.transaction.add_kwargs(delivery="direct", publisher=container.publisher)
    async with lifespan(container):
        await container.mediator().send(Cancel(1))
    assert [event.source for event in container.broker().events] == ["shop"]


def test_two_commands_with_the_same_name_are_reported_if_idempotency_keys_are_used():
    other: Any = make_dataclass("Cancel", [("booking", int)], bases=(Command[None],), frozen=True)
    other.__module__ = "hotel"

    class CancelBooking(RequestHandler[other, None]):
        async def handle(self, command: Any, /) -> None:
            pass

    class Keyed(containers.DeclarativeContainer):
        database = providers.Singleton(InMemoryDatabase)
        unit_of_work = Scoped(InMemoryUnitOfWork, database)
        distributed_events = Scoped(DistributedEventBroker, unit_of_work)
        outbox = providers.Singleton(InMemoryOutbox, database, application="shop")
        idempotency = providers.Singleton(InMemoryIdempotency, database)
        transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
        once = providers.Factory(IdempotencyBehavior, idempotency)
        mediator = MediatorProvider(behaviors=providers.List(transaction, once))
        cancel = providers.Factory(CancelHandler, distributed_events)
        cancel_booking = providers.Factory(CancelBooking)

    with pytest.raises(ContainerValidationError, match="Both can have idempotency keys"):
        validate(Keyed(), relay_elsewhere=True)
    other.request_type = "hotel.cancel"
    validate(Keyed(), relay_elsewhere=True)
