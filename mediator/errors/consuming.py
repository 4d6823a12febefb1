"""Errors of events that come in: reading, handling and parking them."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.events import EventError
from mediator.errors.root import MediatorError, name_of


@dataclass(eq=False, repr=False)
class EventNotDecodableError(EventError):
    """An event that arrived cannot be read as the class that handles its type."""

    event_type: str
    reason: str

    def __str__(self) -> str:
        return f"An event of type {self.event_type} cannot be decoded: {self.reason}"


class FatalEventError(EventError):
    """Raised by a handler of an event that no further try would help: the event is parked at once."""


@dataclass(eq=False, repr=False)
class HandlerTimeoutError(EventError, TimeoutError):
    """The handlers of an event that was delivered did not end in time. They were cancelled and rolled back."""

    event_type: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"An event of type {self.event_type} was not handled within {self.seconds:g} s. Look for what its handler waits "
            "for, or raise `handler_timeout` of the consumer."
        )


@dataclass(eq=False, repr=False)
class ParkedEventNotFoundError(EventError, LookupError):
    """An event is not parked, or no longer: it was replayed or discarded."""

    number: int

    def __str__(self) -> str:
        return f"No event is parked under the number {self.number}: it was replayed or discarded, or never there."


@dataclass(eq=False, repr=False)
class ParkedEventBlockedError(EventError):
    """A parked event cannot be replayed before an earlier one of its key."""

    number: int
    head: int

    def __str__(self) -> str:
        return (
            f"The parked event {self.number} waits behind {self.head}, which has the same key. Replay or discard that one "
            "first."
        )


@dataclass(eq=False, repr=False)
class ParkedEventConflictError(EventError):
    """A parked event cannot go back into the outbox, where its id or its place is taken; it is parked as before.

    Attributes:
        number: Of the parked event.
        event_id: Its id.
        sequence: Its place in the outbox.
        waiting_id: The id of the event in the outbox: the same, or that of the one which has its place.
        has_same_key: Whether that one has the same partition key, so that it waits for the parked one.
    """

    number: int
    event_id: str
    sequence: int
    waiting_id: str
    has_same_key: bool = False

    def __str__(self) -> str:
        stays = f"The parked event {self.number} cannot go back into the outbox and stays parked:"
        if self.waiting_id == self.event_id:
            return f"{stays} an event with its id, {self.event_id}, waits there already. Discard the parked one."
        taken = f"{stays} its place there, {self.sequence}, is now that of the event {self.waiting_id}"
        if self.has_same_key:
            return (
                f"{taken}, which has the same key and waits for this one. Keep this one with `mediator parked export`, "
                "discard it, and have a command add it anew."
            )
        return f"{taken}. Replay it when that one is published."


@dataclass(eq=False, repr=False)
class ConsumerGroupNotFoundError(MediatorError, LookupError):
    """A parked event belongs to a consumer that this application does not have."""

    consumer: str
    known: Sequence[str] = ()

    def __str__(self) -> str:
        known = f"There are: {', '.join(self.known)}." if self.known else "There is none."
        return (
            f"No consumer of this container has the group {self.consumer!r}, which parked the event. {known} Replay it with "
            "the container of the application that handles it."
        )


@dataclass(eq=False, repr=False)
class EventNotUpcastableError(EventNotDecodableError):
    """An event of an older version arrived, and one of the upcasters that lift it to the version of its class failed.

    Attributes:
        event_class: The class whose upcaster it is.
        step: The version from which it was to be lifted to the next.
    """

    event_class: type
    step: int

    def __str__(self) -> str:
        return (
            f"An event of type {self.event_type} cannot be decoded as {name_of(self.event_class)}: its upcaster from "
            f"version {self.step} to {self.step + 1} {self.reason}. Correct `upcasters[{self.step}]`, and replay it."
        )
