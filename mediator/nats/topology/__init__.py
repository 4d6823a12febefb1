"""Topology: describes the streams and consumers that an application needs, and sets them up on a broker."""

from mediator.nats.topology.api import NANOSECONDS, ApiError, JetStreamApi, read_answer
from mediator.nats.topology.consumers import MAX_ACK_PENDING, ConsumerSettings, DeliverFrom, ensure_consumer
from mediator.nats.topology.provisioning import (
    OTHER_ORDERING,
    Item,
    Status,
    Topology,
    WantedConsumer,
    WantedStream,
    merged,
    plan,
    provision,
    published,
    survey,
)
from mediator.nats.topology.streams import DEFAULT_SETTINGS, PARTITIONS, StreamSettings, ensure_stream

__all__ = [
    "DEFAULT_SETTINGS",
    "MAX_ACK_PENDING",
    "NANOSECONDS",
    "OTHER_ORDERING",
    "PARTITIONS",
    "ApiError",
    "ConsumerSettings",
    "DeliverFrom",
    "Item",
    "JetStreamApi",
    "Status",
    "StreamSettings",
    "Topology",
    "WantedConsumer",
    "WantedStream",
    "ensure_consumer",
    "ensure_stream",
    "merged",
    "plan",
    "provision",
    "published",
    "read_answer",
    "survey",
]
