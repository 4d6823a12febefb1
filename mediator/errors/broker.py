"""Errors of the broker that carries distributed events, and of its streams and consumers."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.transient import TransientError
from mediator.printable import shown, shown_reason


@dataclass(eq=False, repr=False)
class PublisherUnavailableError(TransientError, ConnectionError):
    """The broker cannot be reached or did not answer. Sending an event again is safe, even if the broker has stored it."""

    broker: str
    reason: str

    def __str__(self) -> str:
        return f"{self.broker} is not available: {shown_reason(self.reason)}"


@dataclass(eq=False, repr=False)
class DuplicateDroppedError(PublisherUnavailableError):
    """The broker dropped an event as a duplicate: the broker knows the event's id, but the stream lacks the event."""

    event_id: str = ""

    def __str__(self) -> str:
        return (
            f"{self.broker} dropped the event {shown(self.event_id)} as a duplicate: {shown_reason(self.reason)}. "
            "Send the event again with `mediator outbox verify --republish`, which bypasses the duplicate check, or wait "
            "until the stream's duplicate_window is over."
        )


@dataclass(eq=False, repr=False)
class StreamNotFoundError(PublisherUnavailableError):
    """The stream of an event does not exist."""

    stream: str = ""

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} does not exist at {self.broker}: {shown_reason(self.reason)}. Create it with "
            "`mediator topology apply`, or let the publisher create it with `provision=True`. The events stay in the "
            "outbox until the stream exists."
        )


@dataclass(eq=False, repr=False)
class StreamUnavailableError(PublisherUnavailableError):
    """The broker can be reached, but the stream of an event stores nothing at present: it is full, or has no leader."""

    stream: str = ""

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} at {self.broker} takes no events: {shown_reason(self.reason)}. Its events stay in "
            "the outbox until the stream takes events again. Events of other streams are still published."
        )


@dataclass(eq=False, repr=False)
class ConsumerNotFoundError(PublisherUnavailableError):
    """The durable consumer of a group does not exist, and the application may not create it."""

    stream: str = ""
    consumer: str = ""

    def __str__(self) -> str:
        return (
            f"The consumer {self.consumer} of the stream {self.stream} does not exist at {self.broker}: "
            f"{shown_reason(self.reason)}. Create it with `mediator topology apply`, or let the subscription create it "
            "with `provision=True`. The events stay in the stream until the consumer exists."
        )


@dataclass(eq=False, repr=False)
class StreamMismatchError(PublisherUnavailableError):
    """A stream has other settings than this application needs. The library never changes streams silently."""

    stream: str = ""
    differences: Sequence[str] = ()

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} at {self.broker} differs from what is needed: "
            f"{shown_reason('; '.join(self.differences))}. Change the stream or its consumer, or change the settings. "
            "Until they agree, the events wait in the outbox or in the stream."
        )
