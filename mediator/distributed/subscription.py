"""EventSubscription: the port through which the broker hands events to this application."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from mediator.distributed.cloudevents import CloudEvent


class Delivery(ABC):
    """One event as the broker hands it over, until it is acknowledged.

    Attributes:
        event: The event; `None` when the message is not a CloudEvent (`problem` says why).
        problem: Why the message could not be read; empty when it could.
        attempt: How often the broker has delivered it, from 1.
        subject: Where it was published, for logs.
        sequence: Its place in the stream.
    """

    event: CloudEvent | None
    problem: str
    attempt: int
    subject: str
    sequence: int

    @abstractmethod
    async def ack(self) -> None:
        """Tell the broker that the event has taken effect. Not durable at once: it may be delivered again."""

    @abstractmethod
    async def nak(self, delay: float) -> None:
        """Ask for the event again after `delay` seconds."""

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
    """

    group: str
    ack_wait: float

    @abstractmethod
    def open(self, event_types: Iterable[str], /, *, prefetch: int) -> AbstractAsyncContextManager[Deliveries]:
        """Start pulling events of the types named (`<context>.<name>`, every version of them).

        At most `prefetch` deliveries are handed over or waiting here without an acknowledgement. Opening does not need
        a broker: it is waited for. Leaving hands unread deliveries back at once and is bounded in time.
        """
