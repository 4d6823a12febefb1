"""EventPublisher: the port through which stored events reach the broker."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import SettingError


@dataclass(frozen=True, slots=True)
class HeldStream:
    """A stream as the broker has it.

    Attributes:
        name: Its name.
        created_at: When it was created.
        last_sequence: The sequence of the newest message that it ever had.
        oldest_at: When its oldest message was stored; `None` for a stream without messages.
        max_age: How long messages are kept, in seconds; `None` for ever.
        drops_oldest: Whether it makes room by dropping its oldest messages.
    """

    name: str
    created_at: datetime
    last_sequence: int
    oldest_at: datetime | None
    max_age: float | None
    drops_oldest: bool


class StreamContents(ABC):
    """Reads the streams of a publisher. It changes neither the streams nor a subscriber's progress."""

    @abstractmethod
    def stream(self, domain: str, /) -> str:
        """Return the name of a domain's stream."""

    @abstractmethod
    async def state(self, domain: str, /) -> HeldStream | None:
        """Return the stream of a domain; `None` when there is none.

        Raises:
            PublisherUnavailableError: The broker did not answer, or refused to.
        """

    @abstractmethod
    def ids(
        self, domain: str, /, *, since: datetime | None = None, after: int = 0
    ) -> AsyncGenerator[Sequence[tuple[str, str]]]:
        """Yield the source and the id of each event in a domain's stream, as of now, in order, in parts.

        They include events of other applications, and events of this one under its former names.

        Args:
            domain: The domain. If it has no stream, nothing is read.
            since: Only events that were stored then or later, as far as the broker can skip the rest.
            after: Only events with a higher sequence.

        Raises:
            PublisherUnavailableError: The broker stopped answering before everything was read.
        """


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The result of publishing one event.

    Attributes:
        event: The event as it was given.
        error: `None` when the broker has stored the event (now, or earlier under the same id). A
            `PublisherUnavailableError` when the outcome is unknown and the same event may be sent again. An
            `EventHeldBackError` when the event was not sent because an earlier event of its partition key was not
            stored, which is no outage. An `EventRefusedError` when the broker will refuse this event every time.
        duplicate: Whether the broker knew the id, and stored nothing this time.
    """

    event: CloudEvent
    error: Exception | None = None
    duplicate: bool = False


class EventPublisher(ABC):
    """Sends events to the broker, and reports for each event whether the broker has stored it.

    Attributes:
        application: The source of events that have none; `None` when their outbox sets the source of each.
    """

    application: str | None = None

    @abstractmethod
    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        """Send events and return one result for each event, in the order given.

        Events of one partition key are stored in the order given: after one of them failed, none of its successors is
        sent in this call. The result of a successor is an `EventHeldBackError`, always when the earlier event was
        refused: the relay would take a `PublisherUnavailableError` for an outage of the whole domain. In an outage the
        result may also be a `PublisherUnavailableError`.

        The same event sent twice is stored once, as long as the broker remembers its id. The call is bounded in time
        and never raises when the broker is away: the results say so. After a cancellation the outcome of the events in
        flight is unknown. That is safe, because a resend carries the same id.
        """

    async def refill(self, events: Sequence[CloudEvent], /, *, mark: str = "") -> Sequence[PublishResult]:
        """Store events again that the broker has lost. Like `publish`, but the broker may still remember their ids.

        Args:
            events: Events that are missing from their streams. The streams were read to find that out.
            mark: Without a mark, an event whose id the broker remembers gets a `DuplicateDroppedError`, and none of its
                successors of the same partition key is sent. With a mark, the broker gets `<id>.<mark>` as the id for
                its deduplication; the id of the event stays the same. At most 64 letters and digits.
        """
        del mark
        return await self.publish(events)

    @property
    def contents(self) -> StreamContents | None:
        """The contents of the streams that this publisher writes to; `None` when they cannot be read."""
        return None

    async def wait_for_recovery(self, seconds: float, /) -> bool:
        """Wait up to `seconds` for a sign that the broker is back; return false when there was none.

        The default implementation knows no signs, and only waits.
        """
        await asyncio.sleep(seconds)
        return False


def check_source(event: CloudEvent, application: str | None) -> None:
    """Check that an event has a source when it is published: its own, or the name of the publisher.

    Raises:
        SettingError: The event has no source. This counts against no event: all of them wait until the application has
            a name.
    """
    if not event.source and application is None:
        problem = "the events have no source: give the name of the application to the outbox"
        raise SettingError("application", application, problem)
