"""In-memory adapters, for tests of whole applications without a server."""

from mediator.testing.memory.broker import InMemoryBroker, InMemoryEventPublisher, InMemoryEventSubscription
from mediator.testing.memory.channel import InMemoryRequestChannel
from mediator.testing.memory.database import InMemoryDatabase, InMemoryTable, InMemoryUnitOfWork
from mediator.testing.memory.idempotency import InMemoryIdempotency
from mediator.testing.memory.inbox import InMemoryInbox
from mediator.testing.memory.outbox import InMemoryOutbox
from mediator.testing.memory.parking import InMemoryParking

__all__ = [
    "InMemoryBroker",
    "InMemoryDatabase",
    "InMemoryEventPublisher",
    "InMemoryEventSubscription",
    "InMemoryIdempotency",
    "InMemoryInbox",
    "InMemoryOutbox",
    "InMemoryParking",
    "InMemoryRequestChannel",
    "InMemoryTable",
    "InMemoryUnitOfWork",
]
