"""Publishing to JetStream: one by one or in atomic batches, with a result for each event."""

from mediator.nats.publisher.publisher import NatsEventPublisher

__all__ = ["NatsEventPublisher"]
