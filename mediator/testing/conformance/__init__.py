"""Conformance suites: the promises of each port as test cases, for the library's own adapters and for yours."""

from mediator.testing.conformance.container import ContainerCapability, ContainerConformance, SampleApplication
from mediator.testing.conformance.inbox import InboxConformance
from mediator.testing.conformance.outbox import DelayedEventsConformance, OutboxConformance, RefusedEventsConformance
from mediator.testing.conformance.parking import HeldEventsConformance, LaterTriesConformance, ParkingConformance
from mediator.testing.conformance.publisher import PublisherConformance
from mediator.testing.conformance.requests import RequestCapability, RequestConformance, RequestsUnderTest
from mediator.testing.conformance.storage import StorageCapability, StorageUnderTest
from mediator.testing.conformance.subscription import (
    BrokerOutageConformance,
    DeliveryConformance,
    ForeignMessagesConformance,
    KeyOrderingConformance,
    PausingConformance,
    SubscriptionConformance,
)
from mediator.testing.conformance.suite import ConformanceSuite, needs
from mediator.testing.conformance.transport import TransportCapability, TransportUnderTest
from mediator.testing.conformance.unit_of_work import (
    CancellationConformance,
    DurabilityConformance,
    UnitOfWorkConformance,
)

__all__ = [
    "BrokerOutageConformance",
    "CancellationConformance",
    "ConformanceSuite",
    "ContainerCapability",
    "ContainerConformance",
    "DelayedEventsConformance",
    "DeliveryConformance",
    "DurabilityConformance",
    "ForeignMessagesConformance",
    "HeldEventsConformance",
    "InboxConformance",
    "KeyOrderingConformance",
    "LaterTriesConformance",
    "OutboxConformance",
    "ParkingConformance",
    "PausingConformance",
    "PublisherConformance",
    "RefusedEventsConformance",
    "RequestCapability",
    "RequestConformance",
    "RequestsUnderTest",
    "SampleApplication",
    "StorageCapability",
    "StorageConformance",
    "StorageUnderTest",
    "SubscriptionConformance",
    "TransportCapability",
    "TransportConformance",
    "TransportUnderTest",
    "UnitOfWorkConformance",
    "needs",
]


class StorageConformance(
    UnitOfWorkConformance,
    CancellationConformance,
    OutboxConformance,
    DelayedEventsConformance,
    RefusedEventsConformance,
    InboxConformance,
    ParkingConformance,
    LaterTriesConformance,
    HeldEventsConformance,
    DurabilityConformance,
):
    """All cases that a storage must pass. To test only one part of an adapter, subclass the suite for that part."""


class TransportConformance(
    PublisherConformance,
    SubscriptionConformance,
    DeliveryConformance,
    KeyOrderingConformance,
    PausingConformance,
    BrokerOutageConformance,
    ForeignMessagesConformance,
):
    """All cases that a transport must pass. To test only one part of an adapter, subclass the suite for that part."""
