"""Errors of the broker that carries distributed events, and of its streams and consumers."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.transient import TransientError
from mediator.printable import shown, shown_reason


@dataclass(eq=False, repr=False)
class PublisherUnavailableError(TransientError, ConnectionError):
    """The broker cannot be reached or did not answer; nothing is known of the event, and it may be sent again."""

    broker: str
    reason: str

    def __str__(self) -> str:
        return f"{self.broker} is not available: {shown_reason(self.reason)}"


@dataclass(eq=False, repr=False)
class DuplicateDroppedError(PublisherUnavailableError):
    """The broker remembers the id of an event that its stream holds no longer, and dropped it as a duplicate."""

    event_id: str = ""

    def __str__(self) -> str:
        return (
            f"{self.broker} dropped the event {shown(self.event_id)} as a duplicate: {shown_reason(self.reason)}. "
            f"Refill with "
            "`mediator outbox verify --republish`, which gets around that, or wait until the stream's "
            f"duplicate_window is "
            "over."
        )


@dataclass(eq=False, repr=False)
class StreamNotFoundError(PublisherUnavailableError):
    """The stream of an event does not exist."""

    stream: str = ""

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} does not exist at {self.broker}: {shown_reason(self.reason)}. Create it "
            f"with `mediator topology "
            "apply`, or let the publisher do so with `provision=True`. Events stay in the outbox meanwhile."
        )


@dataclass(eq=False, repr=False)
class StreamUnavailableError(PublisherUnavailableError):
    """The broker can be reached, and the stream of an event takes nothing at present: it is full, or has no leader."""

    stream: str = ""

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} at {self.broker} takes no events: {shown_reason(self.reason)}. They stay in "
            f"the outbox meanwhile, "
            "and those of other streams go on."
        )


@dataclass(eq=False, repr=False)
class ConsumerNotFoundError(PublisherUnavailableError):
    """The durable consumer of a group does not exist, and the application is not to create it."""

    stream: str = ""
    consumer: str = ""

    def __str__(self) -> str:
        return (
            f"The consumer {self.consumer} of the stream {self.stream} does not exist at {self.broker}: "
            f"{shown_reason(self.reason)}. "
            "Create it with `mediator topology apply`, or let the subscription do so with `provision=True`. Events "
            f"stay "
            "in the stream meanwhile."
        )


@dataclass(eq=False, repr=False)
class StreamMismatchError(PublisherUnavailableError):
    """A stream exists with other settings than this application needs; it is never changed silently."""

    stream: str = ""
    differences: Sequence[str] = ()

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} at {self.broker} differs from what is needed: "
            f"{shown_reason('; '.join(self.differences))}. "
            "Change the stream or the settings so that they agree. Events stay in the outbox meanwhile."
        )
