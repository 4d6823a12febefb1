"""StagedEvent: an event on its way into the outbox, with what the outbox has to know and the receiver has not."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import Ordering
from mediator.errors import EventIdConflictError, TooManyEventsError


@dataclass(frozen=True, slots=True)
class StagedEvent:
    """An encoded event that is stored with the commit.

    Attributes:
        event: The envelope.
        ordering: Of the event's class.
        deliver_at: Not to be published before this time (timezone-aware); `None` for at once.
    """

    event: CloudEvent
    ordering: Ordering = "strict"
    deliver_at: datetime | None = None

    @property
    def ordered_key(self) -> str | None:
        """The partition key, if a lock of it is to be held while the event is stored.

        A delayed event has no place in the order of its key.
        """
        return self.event.partitionkey if self.ordering == "strict" and self.deliver_at is None else None


def count_waiting(events: Sequence[StagedEvent], max_pending: int) -> int:
    """How many events would wait in the outbox from the commit on: all but delayed ones.

    Raises:
        TooManyEventsError: They are more than may ever wait, so that no later try would help.
    """
    count = sum(each.deliver_at is None for each in events)
    if count > max_pending:
        raise TooManyEventsError(count, max_pending)
    return count


def check_ids(events: Sequence[StagedEvent], waiting: Iterable[CloudEvent] = ()) -> None:
    """Let each event have an id of its own, beside those that wait in the outbox.

    Raises:
        EventIdConflictError: One has that of another.
    """
    counted = Counter(each.event.id for each in events)
    if repeated := [event_id for event_id, count in counted.items() if count > 1]:
        raise EventIdConflictError(tuple(repeated), in_one_command=True)
    if taken := [event.id for event in waiting if event.id in counted]:
        raise EventIdConflictError(tuple(taken))
