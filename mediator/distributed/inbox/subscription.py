"""EventSubscription: the port through which the broker delivers events to this application."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mediator.distributed.cloudevents import CloudEvent


@dataclass(frozen=True, slots=True)
class UnreadableMessage:
    """The readable parts of a message that is no event.

    They suffice to keep the order of its key, and to show what it was; `identity_of` says why its id is of no use.

    Attributes:
        type: Its wire type; empty when it cannot be read.
        partitionkey: Its key; `None` when it has no readable key.
    """

    type: str = ""
    partitionkey: str | None = None


Ordering = Literal["none", "key"]
"""Whether the events of one partition key are delivered strictly one after the other."""


def not_of(theirs: str, ours: str) -> str:
    """Return why the group of one application is not for another one."""
    return (
        f"it is of the application {theirs!r}, not of {ours!r}: give each its own group; after renaming one, "
        f"say `application={theirs!r}` to its subscription"
    )


class Delivery(ABC):
    """One event as the broker delivers it, until it is acknowledged.

    Attributes:
        event: The event; `None` when the message is not a CloudEvent (`problem` says why).
        problem: Why the message could not be read, as the `reason` of an `EventNotDecodableError`; empty when it could.
        unreadable: The readable parts of a message that is no event, each read by itself. In an ordered group its key
            holds back the later events of that key.
        former_id: The former id of an event without one, from before the time of its storing was part of the id; `None`
            for an event that has an id.
        attempt: How often the broker has delivered it, from 1.
        subject: Where it was published: `<prefix>.<event type>.<partition>`.
        sequence: Its sequence in the stream.
        partition: The ordered part of its event type in which it was published; `None` when the subject names none.
        stored_at: When the broker stored it, timezone-aware.
        headers: The headers as received, also of a message that is no CloudEvent.
        data: The body as received, in bytes.
    """

    event: CloudEvent | None
    problem: str
    unreadable: UnreadableMessage = UnreadableMessage()
    former_id: str | None = None
    attempt: int
    subject: str
    sequence: int
    partition: int | None
    stored_at: datetime
    headers: Mapping[str, str]
    data: bytes

    @abstractmethod
    async def ack(self) -> None:
        """Tell the broker that the event has taken effect. This is not durable at once: it may be redelivered."""

    @abstractmethod
    async def nak(self, delay: float) -> None:
        """Ask the broker to redeliver the event after `delay` seconds."""

    @abstractmethod
    async def term(self, reason: str) -> None:
        """Tell the broker never to redeliver the event to this group, with a reason for the broker's log."""

    @abstractmethod
    async def in_progress(self) -> None:
        """Ask the broker to wait longer before it redelivers the event."""


class Deliveries(ABC):
    """The deliveries of a running subscription."""

    @abstractmethod
    async def next(self) -> Delivery:
        """Wait for the next delivery and return it, through outages of the broker. Cancelling loses nothing."""


class EventSubscription(ABC):
    """Subscribes one group of an application's processes to event types.

    Attributes:
        group: The name under which the group's progress is kept; it also names the group in the inbox.
        ack_wait: How long the broker waits for an acknowledgement before it redelivers, in seconds.
        max_age: How long the broker keeps events, in seconds, as far as it is known here.
    """

    group: str
    ack_wait: float
    max_age: float | None = None

    def use_application(self, application: str | None, /) -> None:  # noqa: B027  # a broker without owners has none to compare
        """Take the name of this application, unless one was given. Another application must not use the same group."""

    @abstractmethod
    def read(self, headers: Mapping[str, str], data: bytes, /, *, fallback_id: str, stored_at: datetime) -> CloudEvent:
        """Return the event in a message that was delivered once, from its stored headers and body.

        Args:
            headers: The headers as received.
            data: The body as received, in bytes.
            fallback_id: The id of an event that has none.
            stored_at: The time of an event that has none.

        Raises:
            EventNotDecodableError: The message is not a CloudEvent, or a broken one.
        """

    @abstractmethod
    def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AbstractAsyncContextManager[Deliveries]:
        """Start pulling events of the named types (`<domain>.<name>`, every version of them).

        With `ordering="key"` each partition has at most one outstanding delivery, among all processes of the group: the
        next one comes when it is acknowledged or terminated.

        At most `prefetch` deliveries are handed over or waiting here without an acknowledgement. Opening works while
        the broker is away: the subscription waits for it. Leaving hands unread deliveries back at once and is bounded
        in time.
        """
