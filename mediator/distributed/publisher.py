"""EventPublisher: the port through which stored events reach the broker."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.stream_contents import StreamContents


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What became of one event.

    Attributes:
        event: The event as it was given.
        error: `None` when the broker has stored it (now, or earlier under the same id); a `PublisherUnavailableError`
            when nothing is known of it and the same event may be sent again; an `EventHeldBackError` when it was not
            sent because an earlier one of its partition key was not stored, which is no outage; an `EventRefusedError`
            when the broker will refuse this event every time.
        duplicate: Whether the broker knew the id, and stored nothing this time.
    """

    event: CloudEvent
    error: Exception | None = None
    duplicate: bool = False


class EventPublisher(ABC):
    """Sends events to the broker and tells of each whether it is stored there."""

    @abstractmethod
    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        """Send events and return one result an event, in the order given.

        Events of one partition key are stored in the order given: after one of them failed, none of its successors is
        sent in this call. Their result is an `EventHeldBackError`, always after an event that was refused: the relay would
        take a `PublisherUnavailableError` for an outage of their whole context. In an outage it may be that as well.

        The same event sent twice is stored once, as long as the broker remembers its id. Bounded in time, and never
        raises for a broker that is away: the results say it. Cancelling leaves the events in flight unknown, which is
        safe, because a resend carries the same id.
        """

    async def refill(self, events: Sequence[CloudEvent], /, *, mark: str = "") -> Sequence[PublishResult]:
        """Store events again that the broker has lost, as `publish` does, though it may remember their ids.

        Args:
            events: Events that were read not to be there.
            mark: Without it, an event that the broker knows has a `DuplicateDroppedError`, and none of its successors of
                the same partition key is sent. With it the broker is shown `<id>.<mark>` as the id by which it knows
                duplicates; the id of the event stays as it is. At most 64 letters and digits.
        """
        del mark
        return await self.publish(events)

    @property
    def contents(self) -> StreamContents | None:
        """What the streams hold; `None` where that cannot be read."""
        return None

    async def wait_for_recovery(self, seconds: float, /) -> bool:
        """Wait for a sign that a broker that was away is back, at most so long; False when there was none.

        By default there are no signs, and this only waits.
        """
        await asyncio.sleep(seconds)
        return False
