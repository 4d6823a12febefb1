"""Errors of distributed events that are sent, received or parked."""

from dataclasses import dataclass
from datetime import timedelta

from mediator.errors.root import MediatorError, name_of
from mediator.errors.transient import TransientError
from mediator.printable import shown, shown_reason

_NAMED = 5
"""The largest number of ids that the text of an error lists."""


class EventError(MediatorError, ValueError):
    """Something is wrong with a distributed event."""


@dataclass(eq=False, repr=False)
class EventNotSerializableError(EventError):
    """An event cannot be encoded. The command that added the event was rolled back."""

    event: object
    reason: str

    def __str__(self) -> str:
        return f"{name_of(self.event)} cannot be serialized: {shown_reason(self.reason)}. The command was rolled back."


@dataclass(eq=False, repr=False)
class EventLimitError(EventError):
    """An event is too large, or a command has too many events. The command was rolled back.

    Attributes:
        event: The event that is too large; `None` when a command has too many events.
        size: The size of the event in bytes, or the number of the command's events that are not delayed.
        limit: The largest size or number that is allowed.
    """

    event: object
    size: int
    limit: int

    def __str__(self) -> str:
        if self.event is None:
            return (
                f"One command has {self.size:,} events, more than max_pending ({self.limit:,}), so even an empty outbox "
                "cannot hold them. The command was rolled back, and would be rolled back again. Send several commands "
                "with fewer events each, or raise max_pending."
            )
        return (
            f"{name_of(self.event)} is {self.size:,} bytes, more than max_event_bytes ({self.limit:,}). The command was "
            "rolled back. Send a reference instead of the content, or raise the limit here and `max_payload` in NATS."
        )


@dataclass(eq=False, repr=False)
class EventIdConflictError(EventError):
    """An event has the same id as another event. The command was rolled back.

    Attributes:
        event_ids: The conflicting ids, or the ids of all events of the command if the database does not report the id.
        in_one_command: True if both events with the id belong to the command; False if one of the two is in the outbox
            already.
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
            f"{taken}. Each event needs a different id, so nothing was committed. If it is the same event, do not add it "
            "again; otherwise make the `ids` of the DistributedEventBroker return a new id for each event."
        )


@dataclass(eq=False, repr=False)
class OutboxFullError(TransientError, EventError, RuntimeError):
    """Too many events wait in the outbox. The command that would have added more was rolled back.

    Attributes:
        database: The database of the outbox.
        pending: The number of waiting events that were counted; further events may wait.
        max_pending: The largest number of events that may wait.
    """

    database: str
    pending: int
    max_pending: int

    def __str__(self) -> str:
        return (
            f"The outbox of {self.database} is full: {self.pending:,} events wait, and max_pending is "
            f"{self.max_pending:,}. The command was rolled back and can be sent again later. Check that "
            "a relay runs, that it can reach the broker, and that the broker stores events."
        )


@dataclass(eq=False, repr=False)
class EventRefusedError(EventError):
    """The broker refuses an event, and would refuse the event at every attempt."""

    event_id: str
    event_type: str
    reason: str

    def __str__(self) -> str:
        event = f"Event {shown(self.event_id)} of type {shown(self.event_type)}"
        return f"{event} was refused by the broker: {shown_reason(self.reason)}"


@dataclass(eq=False, repr=False)
class EventHeldBackError(EventError):
    """An event was not sent, because the broker did not store an earlier event with the same key. Both may be sent again."""

    event_id: str
    event_type: str

    def __str__(self) -> str:
        return (
            f"Event {shown(self.event_id)} of type {shown(self.event_type)} was not sent: an earlier event of its "
            "partition key was not stored. Send the earlier event again, and then this event."
        )


@dataclass(eq=False, repr=False)
class EventNotDecodableError(EventError):
    """A received event cannot be decoded as the event class of its type."""

    event_type: str
    reason: str

    def __str__(self) -> str:
        return f"An event of type {shown(self.event_type)} cannot be decoded: {shown_reason(self.reason)}"


class FatalEventError(EventError):
    """A handler raises this error when every further attempt would fail. The event is then parked at once."""


@dataclass(eq=False, repr=False)
class RetryLater(EventError):  # noqa: N818  # it is a handler's request, and no failure
    """A handler of a distributed event raises this error to be called again later.

    The call that raises the error does not count as an attempt. With `ordering="key"` the later events of the same key
    wait too. In a unit of work everything that the handler did is rolled back.

    Attributes:
        after: The time until the consumer tries the event again.
    """

    after: timedelta

    @property
    def seconds(self) -> float:
        """The seconds until the next try; 0 for a time that has passed."""
        given: object = self.after
        return max(0.0, given.total_seconds()) if isinstance(given, timedelta) else 0.0

    def __str__(self) -> str:
        return (
            f"A handler asked to be called again after {self.seconds:g} s. Only the consumer of distributed events does so: "
            "raise RetryLater only in the handler of a distributed event."
        )


@dataclass(eq=False, repr=False)
class ParkedEventBlockedError(EventError):
    """A parked event cannot be replayed before an earlier parked event with the same key.

    Attributes:
        number: The number of the event to replay.
        head: The number of the earlier event.
    """

    number: int
    head: int

    def __str__(self) -> str:
        return (
            f"The parked event {self.number} waits behind {self.head}, which has the same key. Replay or discard "
            f"{self.head} first."
        )


@dataclass(eq=False, repr=False)
class ParkedEventConflictError(EventError):
    """A parked event cannot return to the outbox, because its id or place is taken there. The event stays parked.

    Attributes:
        number: The number of the parked event.
        event_id: The id of the parked event.
        sequence: The place of the parked event in the outbox.
        waiting_id: The id of the conflicting event in the outbox; equal to `event_id`, unless only the place is taken.
        has_same_key: Whether the conflicting event has the same partition key, so that it waits for the parked event.
    """

    number: int
    event_id: str
    sequence: int
    waiting_id: str
    has_same_key: bool = False

    def __str__(self) -> str:
        stays = f"The parked event {self.number} cannot return to the outbox and stays parked:"
        if self.waiting_id == self.event_id:
            return f"{stays} an event with its id, {shown(self.event_id)}, is there already. Discard the parked event."
        taken = f"{stays} its place there, {self.sequence}, is now taken by the event {shown(self.waiting_id)}"
        if self.has_same_key:
            return (
                f"{taken}, which has the same key and waits for the parked event. Save the parked event with "
                "`mediator parked export`, discard it, and add it again in a command."
            )
        return f"{taken}. Replay the parked event after event {shown(self.waiting_id)} has been published."
