"""Conformance suites: what each port promises, to be run against the library's adapters and against anybody's own."""

from mediator.testing.conformance.broker_outage import BrokerOutageConformance
from mediator.testing.conformance.cancellation import CancellationConformance
from mediator.testing.conformance.container import ContainerConformance
from mediator.testing.conformance.container_capability import ContainerCapability
from mediator.testing.conformance.delayed_events import DelayedEventsConformance
from mediator.testing.conformance.delivery import DeliveryConformance
from mediator.testing.conformance.durability import DurabilityConformance
from mediator.testing.conformance.foreign_messages import ForeignMessagesConformance
from mediator.testing.conformance.inbox import InboxConformance
from mediator.testing.conformance.key_ordering import KeyOrderingConformance
from mediator.testing.conformance.outbox import OutboxConformance
from mediator.testing.conformance.parking import ParkingConformance
from mediator.testing.conformance.publisher import PublisherConformance
from mediator.testing.conformance.refused_events import RefusedEventsConformance
from mediator.testing.conformance.request_capability import RequestCapability
from mediator.testing.conformance.request_suite import RequestsUnderTest
from mediator.testing.conformance.requests import RequestConformance
from mediator.testing.conformance.sample_application import SampleApplication
from mediator.testing.conformance.storage import StorageUnderTest
from mediator.testing.conformance.storage_capability import StorageCapability
from mediator.testing.conformance.storage_conformance import StorageConformance
from mediator.testing.conformance.subscription import SubscriptionConformance
from mediator.testing.conformance.suite import ConformanceSuite, needs
from mediator.testing.conformance.transport import TransportUnderTest
from mediator.testing.conformance.transport_capability import TransportCapability
from mediator.testing.conformance.transport_conformance import TransportConformance
from mediator.testing.conformance.unit_of_work import UnitOfWorkConformance

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
    "InboxConformance",
    "KeyOrderingConformance",
    "OutboxConformance",
    "ParkingConformance",
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
