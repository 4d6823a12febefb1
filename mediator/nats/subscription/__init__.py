"""Subscribing to JetStream: the consumers of a group, pulling, and deliveries."""

from mediator.nats.subscription.subscription import NatsEventSubscription

__all__ = [
    "NatsEventSubscription",
]
