"""The receiving side: handles the events that the broker delivers, so that each event takes effect exactly once."""

from mediator.distributed.inbox.consumer import EventConsumer, usual_concurrency
from mediator.distributed.inbox.handler import DistributedEventHandler, current_delivery
from mediator.distributed.inbox.port import CLOCK_MARGIN, Admission, Inbox, needed_retention
from mediator.distributed.inbox.replay import ParkedReplay, Replayed
from mediator.distributed.inbox.retries import RetrySchedule, retry_schedule
from mediator.distributed.inbox.subscription import (
    Deliveries,
    Delivery,
    EventSubscription,
    Ordering,
    UnreadableMessage,
    not_of,
)
from mediator.distributed.starts import LastStart, Start, refusal

__all__ = [
    "CLOCK_MARGIN",
    "Admission",
    "Deliveries",
    "Delivery",
    "DistributedEventHandler",
    "EventConsumer",
    "EventSubscription",
    "Inbox",
    "LastStart",
    "Ordering",
    "ParkedReplay",
    "Replayed",
    "RetrySchedule",
    "Start",
    "UnreadableMessage",
    "current_delivery",
    "needed_retention",
    "not_of",
    "refusal",
    "retry_schedule",
    "usual_concurrency",
]
