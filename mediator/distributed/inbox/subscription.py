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
    """The readable parts of a message that is not a valid event.

    The partition key is needed to keep later events of the same key in order, and the type is shown to operators.
    `identity_of` explains why the id of the message is not used.

    Attributes:
        type: The wire type of the message; empty when the type cannot be read.
        partitionkey: The partition key of the message; `None` when no key can be read.
    """

    type: str = ""
    partitionkey: str | None = None


Ordering = Literal["none", "key"]
"""With `"key"`, the events of one partition key are delivered strictly one after the other."""


def not_of(theirs: str, ours: str) -> str:
    """Return the reason why an application cannot use the group of another application."""
    return (
        f"the group belongs to the application {theirs!r}, not to {ours!r}: give each application its own group; if "
        f"{theirs!r} was renamed to {ours!r}, set `application={theirs!r}` on the subscription"
    )


class Delivery(ABC):
    """A delivered event that is not acknowledged yet.

    Attributes:
        event: The event; `None` when the message is not a CloudEvent (`problem` says why).
        problem: Why the message is not a CloudEvent: the `reason` of an `EventNotDecodableError`. Empty when the
            message is a CloudEvent.
        unreadable: The readable parts of a message that is not a valid event.
        former_id: For a message without an id: the id by which the inbox knew the message before version 2 of the tables.
            `None` for a message with an id.
        attempt: The number of this delivery of the event, from 1.
        subject: The subject on which the event was published: `<prefix>.<event type>.<partition>`.
        sequence: The sequence of the event in the stream.
        partition: The number of the partition in which the event was published; `None` when the subject has none.
        stored_at: When the broker stored the event, timezone-aware.
        headers: The headers as received, even if the message is not a CloudEvent.
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
        """Tell the broker that the event has taken effect. A broker that loses this answer may redeliver the event."""

    @abstractmethod
    async def nak(self, delay: float) -> None:
        """Ask the broker to redeliver the event after `delay` seconds."""

    @abstractmethod
    async def term(self, reason: str) -> None:
        """Tell the broker never to redeliver the event to this group. `reason` is a text for the broker's log."""

    @abstractmethod
    async def in_progress(self) -> None:
        """Ask the broker to wait longer before it redelivers the event."""


class Deliveries(ABC):
    """The deliveries of a running subscription."""

    @abstractmethod
    async def next(self) -> Delivery:
        """Wait for a delivery, even while the broker is unavailable. A cancelled call loses no delivery."""

    def pause(self) -> None:  # noqa: B027  # overriding is optional
        """Ask the broker for no more deliveries until `resume` is called. A second call changes nothing.

        `next` still returns the deliveries that the broker was asked for before. If a subscription cannot pause, this
        method does nothing, and the consumer parks the events that arrive.
        """

    def resume(self) -> None:  # noqa: B027  # overriding is optional
        """Ask the broker for deliveries again. Without a `pause`, do nothing."""


class EventSubscription(ABC):
    """Subscribes one group of an application's processes to event types.

    Attributes:
        group: The name of the group, in the broker and in the inbox. The broker keeps the progress of the group under
            this name.
        ack_wait: How long the broker waits for an acknowledgement before a redelivery, in seconds.
        max_age: How long the broker keeps events, in seconds; `None` when it is not known.
    """

    group: str
    ack_wait: float
    max_age: float | None = None

    def use_application(self, application: str | None, /) -> None:  # noqa: B027  # overriding is optional
        """Set the name of this application, unless the name is set already. No other application may use the group."""

    @abstractmethod
    def read(self, headers: Mapping[str, str], data: bytes, /, *, fallback_id: str, stored_at: datetime) -> CloudEvent:
        """Decode an earlier message from its stored headers and body, and return the event.

        Args:
            headers: The headers as received.
            data: The body as received, in bytes.
            fallback_id: The id that an event without an id gets.
            stored_at: The time that an event without a time gets.

        Raises:
            EventNotDecodableError: The message is not a valid CloudEvent.
        """

    @abstractmethod
    def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AbstractAsyncContextManager[Deliveries]:
        """Start pulling events of the given types (`<domain>.<name>`), in every version.

        With `ordering="key"` each partition has at most one outstanding delivery, among all processes of the group. The
        next delivery of the partition comes after the outstanding delivery was acknowledged or terminated.

        At most `prefetch` deliveries are unacknowledged in this process. The context can be entered while the broker is
        unavailable; the subscription then waits for the broker. Leaving the context hands unread deliveries back to
        the broker, in bounded time.
        """
