"""StagedEvent: an encoded event to store in the outbox, with its key locking and its delivery time."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import KeyLocking
from mediator.errors import EventIdConflictError, EventLimitError


@dataclass(frozen=True, slots=True)
class StagedEvent:
    """An encoded event that is stored with the commit.

    Attributes:
        event: The envelope.
        key_locking: The `key_locking` of the event's class (see `DistributedEvent`).
        deliver_at: The earliest time to publish the event, timezone-aware; `None` to publish the event at once.
    """

    event: CloudEvent
    key_locking: KeyLocking = "strict"
    deliver_at: datetime | None = None

    @property
    def locked_key(self) -> str | None:
        """The partition key if the key has to be locked while the event is stored; else `None`.

        The key of a delayed event is not locked, because delayed events are published without order.
        """
        return self.event.partitionkey if self.key_locking == "strict" and self.deliver_at is None else None


def count_waiting(events: Sequence[StagedEvent], max_pending: int) -> int:
    """Return how many of the events will wait in the outbox after the commit. Delayed events do not count.

    Raises:
        EventLimitError: These events alone are more than `max_pending`. A later try cannot succeed either.
    """
    count = sum(each.deliver_at is None for each in events)
    if count > max_pending:
        raise EventLimitError(None, count, max_pending)
    return count


def check_ids(events: Sequence[StagedEvent], waiting: Iterable[CloudEvent] = ()) -> None:
    """Check that the ids of `events` differ from each other, and from the ids of the events in `waiting`.

    Raises:
        EventIdConflictError: Two events have the same id.
    """
    counted = Counter(each.event.id for each in events)
    if repeated := [event_id for event_id, count in counted.items() if count > 1]:
        raise EventIdConflictError(tuple(repeated), in_one_command=True)
    if taken := [event.id for event in waiting if event.id in counted]:
        raise EventIdConflictError(tuple(taken))
