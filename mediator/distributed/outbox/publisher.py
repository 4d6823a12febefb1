"""EventPublisher: the port that sends stored events to the broker."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import SettingError


@dataclass(frozen=True, slots=True)
class HeldStream:
    """The state of a stream in the broker.

    Attributes:
        name: Its name.
        created_at: When it was created.
        last_sequence: The sequence of the newest message that the stream has ever stored.
        oldest_at: When its oldest message was stored; `None` for a stream without messages.
        max_age: How long messages are kept, in seconds; `None` for no limit.
        drops_oldest: `True` if the full stream drops its oldest messages to make room.
    """

    name: str
    created_at: datetime
    last_sequence: int
    oldest_at: datetime | None
    max_age: float | None
    drops_oldest: bool


class StreamContents(ABC):
    """Reads the streams of a publisher. Reading changes neither the streams nor a subscriber's progress."""

    @abstractmethod
    def stream(self, domain: str, /) -> str:
        """Return the name of a domain's stream."""

    @abstractmethod
    async def state(self, domain: str, /) -> HeldStream | None:
        """Return the stream of a domain; `None` when the domain has no stream.

        Raises:
            PublisherUnavailableError: The broker did not answer, or refused the request.
        """

    @abstractmethod
    def ids(
        self, domain: str, /, *, since: datetime | None = None, after: int = 0
    ) -> AsyncGenerator[Sequence[tuple[str, str]]]:
        """Yield the source and the id of each event in a domain's stream, in order, page by page.

        Events that are stored after the call are left out. Events of other applications, and events that this
        application stored under a former name, are included.

        Args:
            domain: The domain. Nothing is read if the domain has no stream.
            since: Skip events that were stored before this time, as far as the broker can skip them.
            after: Only events with a sequence above this number.

        Raises:
            PublisherUnavailableError: The broker stopped answering before everything was read.
        """


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The result of publishing one event.

    Attributes:
        event: The event as it was given.
        error: `None`: the broker has stored the event, now or earlier under the same id. `PublisherUnavailableError`:
            the outcome is unknown, and the event may be sent again. `EventHeldBackError`: the event was not sent,
            because an earlier event of its partition key was not stored. `EventRefusedError`: the broker would refuse
            the event again.
        duplicate: `True` if the broker already knew the id, and stored nothing this time.
    """

    event: CloudEvent
    error: Exception | None = None
    duplicate: bool = False


class EventPublisher(ABC):
    """Sends events to the broker, and reports for each event whether the broker has stored it.

    Attributes:
        application: The source for events that have none; `None` when the outbox sets the source of each event.
    """

    application: str | None = None

    @abstractmethod
    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        """Send events, and return one result for each event, in the given order.

        Events of one partition key are stored in the given order. If an event fails, later events of its key are not
        sent in this call, and get an `EventHeldBackError`. If an event fails in an outage, the later events may get a
        `PublisherUnavailableError` instead. After a refused event, later events must not get a
        `PublisherUnavailableError`, because the relay would take the error for an outage of the whole domain.

        An event that is sent twice is stored once, as long as the broker remembers its id. The call is bounded in time.
        An unavailable broker is reported in the results, not raised. After a cancellation the outcome of the events in
        flight is unknown. These events can safely be sent again, under the same ids.
        """

    async def refill(self, events: Sequence[CloudEvent], /, *, mark: str = "") -> Sequence[PublishResult]:
        """Publish lost events again, although the broker may still remember the ids of these events.

        Args:
            events: Events that are missing from their streams. The caller has read the streams to find them.
            mark: A text of at most 64 letters and digits. With a mark, the broker looks for duplicates by `<id>.<mark>`
                instead of the id; the id of the event stays the same. Without a mark, an event whose id the broker
                remembers gets a `DuplicateDroppedError`, and later events of its partition key are not sent.
        """
        del mark
        return await self.publish(events)

    @property
    def contents(self) -> StreamContents | None:
        """The contents of the streams that this publisher writes to; `None` when the streams cannot be read."""
        return None

    async def wait_for_recovery(self, seconds: float, /) -> bool:
        """Wait until the broker is available again, and return true; return false after `seconds` seconds.

        The default implementation does not observe the broker, and returns false after `seconds` seconds.
        """
        await asyncio.sleep(seconds)
        return False


def check_source(event: CloudEvent, application: str | None) -> None:
    """Check that an event has a source when it is published: its own, or the publisher's application name.

    Raises:
        SettingError: The event has no source. All events stay in the outbox until the application has a name.
    """
    if not event.source and application is None:
        problem = "the events have no source: give the name of the application to the outbox"
        raise SettingError("application", application, problem)
