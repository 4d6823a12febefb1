"""`event_flows` lists the events of each publisher and subscription of a container without calling providers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
from dependency_injector import containers, providers

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    EventConsumer,
    OutboxRelay,
    RequestHandler,
)
from mediator.dependency_injector import MediatorProvider
from mediator.dependency_injector.event_flows import event_flows
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Deliveries, EventSubscription
from mediator.distributed.outbox import EventPublisher, PublishResult
from tests.adapters.shipping import application as shipping


@dataclass(frozen=True, slots=True)
class Paid(DistributedEvent):
    event_type: ClassVar[str] = "accounts.paid"


class Pay(Command[None]):
    pass


class PayHandler(RequestHandler[Pay, None]):
    def __init__(self, events: DistributedEventBroker) -> None:
        self._events = events

    async def handle(self, command: Pay) -> None:
        self._events.add(Paid())


class TakeShipment(DistributedEventHandler[shipping.OrderShipped]):
    async def handle(self, event: shipping.OrderShipped) -> None: ...


class TakeOrder(DistributedEventHandler[shipping.OrderPlaced]):
    async def handle(self, event: shipping.OrderPlaced) -> None: ...


class Publisher(EventPublisher):
    def __init__(self) -> None:
        raise AssertionError

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        raise AssertionError


class Subscription(EventSubscription):
    def __init__(self) -> None:
        raise AssertionError

    def open(self, *arguments: object, **options: object) -> Deliveries:
        raise AssertionError

    def read(self, *arguments: object, **options: object) -> CloudEvent:
        raise AssertionError


class Sales(containers.DeclarativeContainer):
    mediator = MediatorProvider()
    pay = providers.Factory(PayHandler, events=providers.Object(None))
    take_order = providers.Factory(TakeOrder)
    subscription = providers.Singleton(Subscription)
    consumer = providers.Singleton(EventConsumer, subscription, None, None, mediator)


class Container(containers.DeclarativeContainer):
    """Two mediators with a subscription each: one is an attribute, the other is nested in its consumer."""

    config = providers.Configuration(strict=True)
    sales = providers.Container(Sales)
    mediator = MediatorProvider()
    take_shipment = providers.Factory(TakeShipment)
    relay = providers.Singleton(OutboxRelay, None, providers.Singleton(Publisher))
    consumer = providers.Singleton(
        EventConsumer, providers.Singleton(Subscription), None, None, mediator, ordering=config.ordering
    )


def flows(container: containers.DeclarativeContainer, packages: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    return {flow.label: flow.event_types for flow in event_flows(container, packages)}


def test_each_subscription_has_the_events_that_its_consumers_mediator_handles() -> None:
    found = flows(Container())
    assert found["container.consumer"] == ("sales.order-placed", "shipping.order-shipped")  # both containers
    assert found["container.sales.subscription"] == ("sales.order-placed",)


def test_a_publisher_has_the_events_that_handlers_raise_and_none_that_they_only_handle() -> None:
    assert flows(Container())["container.relay"] == ("accounts.paid",)


def test_additional_packages_contribute_their_events() -> None:
    expected = ("accounts.paid", "sales.order-cancelled", "sales.order-placed", "shipping.order-shipped")
    assert flows(Container(), ["tests.adapters.shipping"])["container.relay"] == expected


def test_the_ordering_of_a_subscription_is_the_ordering_of_its_consumer() -> None:
    container = Container(config={"ordering": "key"})
    orderings = {flow.label: flow.ordering for flow in event_flows(container)}
    assert orderings["container.consumer"]() == "key"
    assert orderings["container.sales.subscription"] == "none"


def test_an_overridden_provider_is_not_part_of_the_flows() -> None:
    container = Container()
    container.relay.override(providers.Object(None))
    assert "container.relay" not in flows(container)


@pytest.mark.parametrize("make", [providers.Singleton, providers.Factory])
def test_a_publisher_without_a_relay_is_found_by_its_name(make: Callable[..., object]) -> None:
    class Direct(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        pay = providers.Factory(PayHandler, events=providers.Object(None))
        publisher = make(Publisher)

    assert flows(Direct()) == {"container.publisher": ("accounts.paid",)}
