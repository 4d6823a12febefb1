"""The NATS JetStream adapter: connection, publisher, subscription, and a server for development and tests."""

from mediator.nats.connection import NatsConnection, open_connection
from mediator.nats.doorbell import NatsDoorbell, open_doorbell
from mediator.nats.publisher import NatsEventPublisher
from mediator.nats.requests import NatsRequestChannel
from mediator.nats.server import NatsCluster, NatsServer
from mediator.nats.subscription import NatsEventSubscription
from mediator.nats.topology import StreamSettings

__all__ = [
    "NatsCluster",
    "NatsConnection",
    "NatsDoorbell",
    "NatsEventPublisher",
    "NatsEventSubscription",
    "NatsRequestChannel",
    "NatsServer",
    "StreamSettings",
    "open_connection",
    "open_doorbell",
]
