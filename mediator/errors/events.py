"""Errors of distributed events: their classes, their content, and the broker that carries them."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.root import MediatorError, name_of


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
            '`event_type: ClassVar[str] = "<context>.<name>"`, both of lower-case letters, digits and hyphens, and '
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
class ClaimLostError(MediatorError, RuntimeError):
    """A relay's claim on events had ended before it said what became of them; nothing was changed."""

    reason: str

    def __str__(self) -> str:
        return (
            f"The claim on a batch of events has ended: {self.reason}. Nothing was changed: the events are still in the "
            "outbox, and are sent again under the same ids."
        )


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
class DeliveryTimeoutError(EventError, TimeoutError):
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
class PublisherUnavailableError(MediatorError, ConnectionError):
    """The broker cannot be reached or did not answer; nothing is known of the event, and it may be sent again."""

    broker: str
    reason: str

    def __str__(self) -> str:
        return f"{self.broker} is not available: {self.reason}"


@dataclass(eq=False, repr=False)
class StreamNotFoundError(PublisherUnavailableError):
    """The stream of an event does not exist."""

    stream: str = ""

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} does not exist at {self.broker}: {self.reason}. Create it with `mediator topology "
            "apply`, or let the publisher do so with `provision=True`. Events stay in the outbox meanwhile."
        )


@dataclass(eq=False, repr=False)
class ConsumerNotFoundError(PublisherUnavailableError):
    """The durable consumer of a group does not exist, and the application is not to create it."""

    stream: str = ""
    consumer: str = ""

    def __str__(self) -> str:
        return (
            f"The consumer {self.consumer} of the stream {self.stream} does not exist at {self.broker}: {self.reason}. "
            "Create it with `mediator topology apply`, or let the subscription do so with `provision=True`. Events stay "
            "in the stream meanwhile."
        )


@dataclass(eq=False, repr=False)
class StreamMismatchError(PublisherUnavailableError):
    """A stream exists with other settings than this application needs; it is never changed silently."""

    stream: str = ""
    differences: Sequence[str] = ()

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} at {self.broker} differs from what is needed: {'; '.join(self.differences)}. "
            "Change the stream or the settings so that they agree. Events stay in the outbox meanwhile."
        )


@dataclass(eq=False, repr=False)
class GroupOrderingError(EventError):
    """A group that consumed with one ordering is to consume with the other one, and would begin again from its start."""

    group: str
    ordering: str
    stream: str
    consumer: str

    def __str__(self) -> str:
        return (
            f"The group {self.group} cannot consume {self.stream} with ordering={self.ordering!r}: the consumer "
            f"{self.consumer} shows that it did so with the other ordering, and its progress cannot be taken over. Use "
            f"another group; or stop every instance of this one and delete its consumers on {self.stream}: it then begins "
            "where `start` says, and the inbox recognizes what it has taken in before."
        )


@dataclass(eq=False, repr=False)
class ServerStartError(MediatorError, RuntimeError):
    """A nats-server could not be started."""

    reason: str
    log: str = ""

    def __str__(self) -> str:
        tail = f"\nThe end of its log:\n{self.log}" if self.log else ""
        return f"nats-server did not start: {self.reason}{tail}"
