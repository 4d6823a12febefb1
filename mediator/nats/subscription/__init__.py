"""Subscribing to JetStream: the consumers of a group, pull requests, and deliveries."""

from mediator.nats.subscription.subscription import NatsEventSubscription

__all__ = ["NatsEventSubscription"]
