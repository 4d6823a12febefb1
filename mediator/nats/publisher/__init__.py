"""Publishing to JetStream: messages in flight, atomic batches, and the result of each event."""

from mediator.nats.publisher.publisher import NatsEventPublisher

__all__ = [
    "NatsEventPublisher",
]
