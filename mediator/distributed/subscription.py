"""EventSubscription: the port through which the broker hands events to this application."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Literal

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.remnant import Remnant

Ordering = Literal["none", "key"]
"""Whether the events of one partition key are delivered strictly one after the other."""


class Delivery(ABC):
    """One event as the broker hands it over, until it is acknowledged.

    Attributes:
        event: The event; `None` when the message is not a CloudEvent (`problem` says why).
        problem: Why the message could not be read, as the `reason` of an `EventNotDecodableError`; empty when it could.
        remnant: What can still be read of a message that is no event, each attribute by itself; in an ordered group its
            key holds back the later events of that key.
        attempt: How often the broker has delivered it, from 1.
        subject: Where it was published, for logs.
        sequence: Its place in the stream.
        partition: The ordered part of its event type in which it was published; `None` when the subject names none.
        stored_at: When the broker stored it, timezone-aware.
        headers: The headers as they came, also of a message that is no CloudEvent.
        data: The body as it came, in bytes.
    """

    event: CloudEvent | None
    problem: str
    remnant: Remnant = Remnant()
    attempt: int
    subject: str
    sequence: int
    partition: int | None
    stored_at: datetime
    headers: Mapping[str, str]
    data: bytes

    @abstractmethod
    async def ack(self) -> None:
        """Tell the broker that the event has taken effect. Not durable at once: it may be delivered again."""

    @abstractmethod
    async def nak(self, delay: float) -> None:
        """Ask for the event again after `delay` seconds."""

    @abstractmethod
    async def term(self, reason: str) -> None:
        """Tell the broker never to deliver the event to this group again, and why, for its own log."""

    @abstractmethod
    async def in_progress(self) -> None:
        """Ask the broker to wait longer before it delivers the event again."""


class Deliveries(ABC):
    """A running subscription."""

    @abstractmethod
    async def next(self) -> Delivery:
        """Wait for the next delivery, through outages of the broker. Cancelling loses nothing."""


class EventSubscription(ABC):
    """Subscribes one group of an application's processes to event types.

    Attributes:
        group: The name under which the group's progress is kept; it also names the group in the inbox.
        ack_wait: How long the broker waits for an acknowledgement before it delivers again, in seconds.
        max_age: How long the broker keeps events, in seconds, as far as it is known here.
    """

    group: str
    ack_wait: float
    max_age: float | None = None

    @abstractmethod
    def read(self, headers: Mapping[str, str], data: bytes, /, *, fallback_id: str, stored_at: datetime) -> CloudEvent:
        """The event in a message that was delivered once, of which the headers and the body were kept.

        Args:
            headers: As they came.
            data: The body as it came.
            fallback_id: The id of an event that has none.
            stored_at: The time of an event that has none.

        Raises:
            EventNotDecodableError: The message is not a CloudEvent, or a broken one.
        """

    @abstractmethod
    def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AbstractAsyncContextManager[Deliveries]:
        """Start pulling events of the types named (`<context>.<name>`, every version of them).

        With `ordering="key"` each partition has at most one delivery outstanding, among all processes of the group: the
        next one comes when it is acknowledged or terminated.

        At most `prefetch` deliveries are handed over or waiting here without an acknowledgement. Opening does not need
        a broker: it is waited for. Leaving hands unread deliveries back at once and is bounded in time.
        """
