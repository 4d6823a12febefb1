"""What tests of applications need: fakes that are no mocks, a recording mediator, failpoints."""

from mediator.testing.behaviors import BehaviorRun, run_behavior, run_stream_behavior
from mediator.testing.broker import InMemoryBroker, InMemoryEventSubscription
from mediator.testing.channel import InMemoryRequestChannel
from mediator.testing.database import InMemoryDatabase, InMemoryTable, InMemoryUnitOfWork
from mediator.testing.frozen_check import FrozenReport, FrozenSampleWarning, check_frozen_events, compare_frozen_events
from mediator.testing.frozen_events import freeze_events
from mediator.testing.idempotency import InMemoryIdempotency
from mediator.testing.inbox import InMemoryInbox
from mediator.testing.outbox import InMemoryOutbox
from mediator.testing.parking import InMemoryParking
from mediator.testing.publisher import InMemoryEventPublisher
from mediator.testing.recording import Expectation, RecordingEventBroker, RecordingMediator

__all__ = [
    "BehaviorRun",
    "Expectation",
    "FrozenReport",
    "FrozenSampleWarning",
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
    "RecordingEventBroker",
    "RecordingMediator",
    "check_frozen_events",
    "compare_frozen_events",
    "freeze_events",
    "run_behavior",
    "run_stream_behavior",
]
