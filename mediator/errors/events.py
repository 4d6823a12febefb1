"""Errors of distributed events: on their way out, on their way in, and parked."""

from dataclasses import dataclass

from mediator.errors.root import MediatorError, name_of
from mediator.errors.transient import TransientError
from mediator.printable import shown, shown_reason

_NAMED = 5
"""How many ids the text of an error names."""


class EventError(MediatorError, ValueError):
    """Something is wrong with a distributed event."""


@dataclass(eq=False, repr=False)
class EventNotSerializableError(EventError):
    """An event cannot be encoded; the command that raised it has failed and nothing is committed."""

    event: object
    reason: str

    def __str__(self) -> str:
        return f"{name_of(self.event)} cannot be serialized: {shown_reason(self.reason)}. The command was rolled back."


@dataclass(eq=False, repr=False)
class EventLimitError(EventError):
    """An event, or the number of events of a command, is larger than may ever be; nothing is committed.

    Attributes:
        event: The event that is too large; `None` when a command has too many of them.
        size: How many bytes the event has, or how many events the command, delayed ones not counted.
        limit: How many there may be.
    """

    event: object
    size: int
    limit: int

    def __str__(self) -> str:
        if self.event is None:
            return (
                f"One command has {self.size:,} events, and max_pending is {self.limit:,}: even an empty outbox has no "
                "room for them. The command was rolled back, and will be every time. Send several commands with fewer "
                "events each, or raise max_pending."
            )
        return (
            f"{name_of(self.event)} is {self.size:,} bytes, more than max_event_bytes ({self.limit:,}). The command was "
            "rolled back. Send a reference instead of the content, or raise the limit here and `max_payload` in NATS."
        )


@dataclass(eq=False, repr=False)
class EventIdConflictError(EventError):
    """An event has the id of another one that is in the outbox; the command has failed and nothing is committed.

    Attributes:
        event_ids: The id; where the database does not tell which one it is, those of all events of the command.
        in_one_command: Whether two events of the command have it.
    """

    event_ids: tuple[str, ...]
    in_one_command: bool = False

    def __str__(self) -> str:
        named = ", ".join(map(repr, self.event_ids[:_NAMED]))
        more = len(self.event_ids) - _NAMED
        which = "the id" if len(self.event_ids) == 1 else "one of the ids"
        named = f"{which} {named}{f' and {more:,} more' if more > 0 else ''}"
        taken = (
            f"Two events of one command have {named}"
            if self.in_one_command
            else f"An event with {named} waits in the outbox already"
        )
        return (
            f"{taken}; an id names one event: nothing was committed. When it is the same event, do not add it again; "
            "otherwise have the `ids` of the DistributedEventBroker give each event an id of its own."
        )


@dataclass(eq=False, repr=False)
class OutboxFullError(TransientError, EventError, RuntimeError):
    """Too many events wait in the outbox; the command that would have added more has failed and nothing is committed.

    Attributes:
        database: Whose outbox it is.
        pending: How many events wait, at least.
        max_pending: How many may wait.
    """

    database: str
    pending: int
    max_pending: int

    def __str__(self) -> str:
        return (
            f"The outbox of {self.database} is full: {self.pending:,} events wait, and max_pending is "
            f"{self.max_pending:,}. The command was rolled back and can be sent again later. Look at the relay and the "
            "broker: does one run, can it reach the broker, does the broker store events?"
        )


@dataclass(eq=False, repr=False)
class EventRefusedError(EventError):
    """The broker refuses this event, and will refuse it every time."""

    event_id: str
    event_type: str
    reason: str

    def __str__(self) -> str:
        event = f"Event {shown(self.event_id)} of type {shown(self.event_type)}"
        return f"{event} was refused by the broker: {shown_reason(self.reason)}"


@dataclass(eq=False, repr=False)
class EventHeldBackError(EventError):
    """An event was not sent because an earlier one of its partition key was not stored; it may be sent again."""

    event_id: str
    event_type: str

    def __str__(self) -> str:
        return (
            f"Event {shown(self.event_id)} of type {shown(self.event_type)} was not sent: an earlier event of its "
            f"partition key was not "
            "stored. It may be sent again, after that one."
        )


@dataclass(eq=False, repr=False)
class EventNotDecodableError(EventError):
    """An event that arrived cannot be read as the class that handles its type."""

    event_type: str
    reason: str

    def __str__(self) -> str:
        return f"An event of type {shown(self.event_type)} cannot be decoded: {shown_reason(self.reason)}"


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
            f"An event of type {shown(self.event_type)} cannot be decoded as {name_of(self.event_class)}: its "
            f"upcaster from "
            f"version {self.step} to {self.step + 1} {shown_reason(self.reason)}. Correct "
            f"`upcasters[{self.step}]`, and replay it."
        )


class FatalEventError(EventError):
    """Raised by a handler of an event that no further try would help: the event is parked at once."""


@dataclass(eq=False, repr=False)
class ParkedEventBlockedError(EventError):
    """A parked event cannot be replayed before an earlier one of its key."""

    number: int
    head: int

    def __str__(self) -> str:
        return (
            f"The parked event {self.number} waits behind {self.head}, which has the same key. Replay or discard "
            f"that one "
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
            return f"{stays} an event with its id, {shown(self.event_id)}, waits there already. Discard the parked one."
        taken = f"{stays} its place there, {self.sequence}, is now that of the event {shown(self.waiting_id)}"
        if self.has_same_key:
            return (
                f"{taken}, which has the same key and waits for this one. Keep this one with `mediator parked export`, "
                "discard it, and have a command add it anew."
            )
        return f"{taken}. Replay it when that one is published."
