"""Tools for tests of applications: working fakes instead of mocks, a recording mediator, failpoints, frozen events."""

from mediator.testing.behaviors import BehaviorRun, run_behavior, run_stream_behavior
from mediator.testing.frozen import (
    FrozenReport,
    FrozenSampleWarning,
    check_frozen_events,
    compare_frozen_events,
    freeze_events,
)
from mediator.testing.memory import (
    InMemoryBroker,
    InMemoryDatabase,
    InMemoryEventPublisher,
    InMemoryEventSubscription,
    InMemoryIdempotency,
    InMemoryInbox,
    InMemoryOutbox,
    InMemoryParking,
    InMemoryRequestChannel,
    InMemoryTable,
    InMemoryUnitOfWork,
)
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
