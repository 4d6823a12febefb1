"""Errors of distributed events: their classes, their content, and their way out."""

from dataclasses import dataclass

from mediator.errors.root import MediatorError, name_of

_NAMED = 5
"""How many ids the text of an error names."""


class EventError(MediatorError, ValueError):
    """Something is wrong with a distributed event."""


@dataclass(eq=False, repr=False)
class EventKindError(EventError, TypeError):
    """Something that is not a distributed event was added to the broker."""

    message: object

    def __str__(self) -> str:
        cls = self.message if isinstance(self.message, type) else type(self.message)  # a text may be a payload
        return (
            f"{name_of(cls)} is not a DistributedEvent and cannot leave the process. Publish a notification "
            "with `await mediator.publish(...)`, or derive the class from DistributedEvent."
        )


@dataclass(eq=False, repr=False)
class EventDeclarationError(EventError, TypeError):
    """An event class does not say, or wrongly says, what its type is on the wire."""

    event_class: type
    problem: str

    def __str__(self) -> str:
        return (
            f"{name_of(self.event_class)} {self.problem}. Declare it as "
            '`event_type: ClassVar[str] = "<context>.<name>"`, both of up to 64 lower-case letters, digits and hyphens, and '
            '`event_version: ClassVar[int] = 1`. An `ordering`, if there is one, is "strict" or "row".'
        )


@dataclass(eq=False, repr=False)
class EventNotSerializableError(EventError):
    """An event cannot be encoded; the command that raised it has failed and nothing is committed."""

    event: object
    reason: str

    def __str__(self) -> str:
        return f"{name_of(self.event)} cannot be serialized: {self.reason}. The command was rolled back."


@dataclass(eq=False, repr=False)
class EventTooLargeError(EventError):
    """An event is larger than allowed; the command that raised it has failed and nothing is committed."""

    event: object
    size: int
    limit: int

    def __str__(self) -> str:
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
class DeliveryTimeError(EventError):
    """An event cannot be delayed as asked for; when the command is committing, nothing is committed."""

    event: object
    problem: str

    def __str__(self) -> str:
        return (
            f"{name_of(self.event)} cannot be delayed: {self.problem}. Give `deliver_at` a timezone-aware datetime, such as "
            '`datetime.now(UTC) + timedelta(hours=1)`, and use `delivery="outbox"`.'
        )


@dataclass(eq=False, repr=False)
class OutboxFullError(EventError, RuntimeError):
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
class TooManyEventsError(EventError):
    """A command has more events than may ever wait in the outbox; it has failed and nothing is committed.

    Attributes:
        count: How many events it has, delayed ones not counted.
        max_pending: How many may wait.
    """

    count: int
    max_pending: int

    def __str__(self) -> str:
        return (
            f"One command has {self.count:,} events, and max_pending is {self.max_pending:,}: even an empty outbox has no "
            "room for them. The command was rolled back, and will be every time. Send several commands with fewer events "
            "each, or raise max_pending."
        )


@dataclass(eq=False, repr=False)
class OutboxEventNotFoundError(EventError, LookupError):
    """No event with an id is in the outbox or its archive."""

    event_id: str

    def __str__(self) -> str:
        return (
            f"The outbox and its archive have no event with the id {self.event_id!r}. It was never committed, is older than "
            "the archive keeps, or is parked: see `mediator parked list`."
        )


@dataclass(eq=False, repr=False)
class ClaimLostError(MediatorError, RuntimeError):
    """A relay's claim on events had ended before it said what became of them; nothing was changed."""

    reason: str

    def __str__(self) -> str:
        return (
            f"The claim on a batch of events has ended: {self.reason}. Nothing was changed: the events are still in the "
            "outbox, and are sent again under the same ids."
        )


@dataclass(eq=False, repr=False)
class EventSchemaError(EventError, TypeError):
    """The payload of an event class cannot be described, or no sample of it can be made."""

    event_class: type
    reason: str

    def __str__(self) -> str:
        return (
            f"{name_of(self.event_class)} cannot be frozen: {self.reason}. When only the sample is at fault, give one: "
            "`freeze_events([OrderPlaced(...)], folder)`."
        )


@dataclass(eq=False, repr=False)
class UpcasterDeclarationError(EventError, TypeError):
    """An event class declares upcasters that cannot lift older versions to its own."""

    event_class: type
    problem: str

    def __str__(self) -> str:
        return (
            f"{name_of(self.event_class)} {self.problem}. Declare a plain function for each older version, without a "
            "gap: `upcasters: ClassVar[Mapping[int, Upcaster]] = {1: from_v1, 2: from_v2}` with `event_version` 3."
        )


@dataclass(eq=False, repr=False)
class EventRefusedError(EventError):
    """The broker refuses this event, and will refuse it every time."""

    event_id: str
    event_type: str
    reason: str

    def __str__(self) -> str:
        return f"Event {self.event_id} of type {self.event_type} was refused by the broker: {self.reason}"


@dataclass(eq=False, repr=False)
class EventHeldBackError(EventError):
    """An event was not sent because an earlier one of its partition key was not stored; it may be sent again."""

    event_id: str
    event_type: str

    def __str__(self) -> str:
        return (
            f"Event {self.event_id} of type {self.event_type} was not sent: an earlier event of its partition key was not "
            "stored. It may be sent again, after that one."
        )
