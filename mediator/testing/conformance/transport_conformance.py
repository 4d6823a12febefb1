"""TransportConformance: the suites of a broker's publisher and subscription in one."""

from mediator.testing.conformance.broker_outage import BrokerOutageConformance
from mediator.testing.conformance.delivery import DeliveryConformance
from mediator.testing.conformance.foreign_messages import ForeignMessagesConformance
from mediator.testing.conformance.key_ordering import KeyOrderingConformance
from mediator.testing.conformance.publisher import PublisherConformance
from mediator.testing.conformance.subscription import SubscriptionConformance


class TransportConformance(
    PublisherConformance,
    SubscriptionConformance,
    DeliveryConformance,
    KeyOrderingConformance,
    BrokerOutageConformance,
    ForeignMessagesConformance,
):
    """What the transport of an application must pass; to work at one part of an adapter, subclass that part's suite."""
