"""StagedEvent: an event on its way into the outbox, with what the outbox has to know and the receiver has not."""

from dataclasses import dataclass
from datetime import datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import Ordering


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
