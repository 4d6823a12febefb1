"""Parking: the port to parked events (dead letters), which are kept in order per partition key for a replay."""

import enum
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.starts import LastStart, Start
from mediator.distributed.storable import time_text
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ClaimLostError, ParkedEventBlockedError
from mediator.printable import text_of

Direction = Literal["in", "out"]

_LONGEST_ERROR = 4096
BEHIND_TEXT: str = "an earlier event of its key is parked"
"""The text that stands for the error of an event that is parked behind an earlier event of its key."""
CLAIM_SECONDS: float = 60.0
"""A claimed event is due again after this many seconds, in case the process that claimed the event has died."""


class ParkReason(enum.StrEnum):
    """The reason why an event was parked."""

    HANDLER_FAILED = "handler-failed"
    """The handlers failed in the last allowed attempt, or `RetryLater` would delay the event for longer than allowed."""
    FATAL_ERROR = "fatal-error"
    """The handlers of the event raised an error that another attempt would raise again."""
    PROCESS_DIED = "process-died"
    """The process died while the handlers of the event ran in the last allowed attempt."""
    UNDECODABLE = "undecodable"
    """The message is not an event, or its payload does not decode to the event class."""
    UNKNOWN_TYPE = "unknown-type"
    """No handler in this application handles the type and version of the event."""
    WAITING = "waiting"
    """The handlers of the event failed, or asked to be called later. The consumer tries the event again by itself."""
    CIRCUIT_OPEN = "circuit-open"
    """The circuit of a handler of the event was open. The consumer tries the event again by itself."""
    KEY_PARKED = "key-parked"
    """An earlier event of the same partition key is parked or waits. This event itself did not fail."""
    REFUSED = "refused"
    """The broker refused to store the event (direction `out`)."""


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """A parked event (dead letter), complete enough to be replayed.

    Attributes:
        direction: `in` for an event that could not be handled, `out` for an event that could not be published.
        consumer: The group that could not handle the event; empty for direction `out`.
        source: The source of the event, as recorded in the inbox; for direction `out`, as stored in the outbox.
        event_id: The id of the event, as recorded in the inbox; for direction `out`, as stored in the outbox.
        type: The wire type, shortened and escaped; empty when the type could not be read.
        time: When the event was raised, ISO 8601.
        partition_key: The key of the event, or a hash of a key that is too long.
        content_type: The media type of the payload.
        extensions: Further attributes of the envelope.
        data: The body of the message as received, in bytes; for direction `out` the payload.
        subject: The subject on which the event was published; empty for direction `out`.
        headers: The headers of the message as received; empty for direction `out`.
        sequence: The sequence of the event in the stream; for direction `out`, in the outbox.
        reason: One of `ParkReason`.
        error: The class and the text of the error, at most 4096 characters. The text may have a part of the payload.
        attempts: How often the handlers were started; for direction `out`, how often the event was published.
        parked_at: When the event was parked, in seconds since the epoch, by the clock of the database; `None` before
            the event is stored.
        number: The number among the parked events; 0 before the event is stored.
        ordered: Whether later events of the key have to wait for this event. `False` in a group without order.
        due_at: When the consumer tries the event again by itself, in seconds since the epoch, by the clock of the
            database; `None` if the event waits for a person, for an earlier event of its key, or for a circuit.
        tries: How many of the `later_delays` the event has used.
        last_start: How the last later try ended, as far as is known. The process may have died in that try.
        claim: How often the event was claimed. A claim is over when this number has grown.
        held_by: The name of the handler class whose circuit holds the event; `None` if no circuit holds the event. A
            held event has no `due_at`. The consumer tries the event as a probe of the circuit, or after the circuit has
            closed.
        asked_at: When the handlers of the event first asked to be called later (`RetryLater`), in seconds since the epoch,
            by the clock of the database; `None` if they have not asked.
    """

    direction: Direction
    consumer: str
    source: str
    event_id: str
    type: str
    time: str
    partition_key: str | None
    content_type: str
    extensions: Mapping[str, str]
    data: bytes
    subject: str
    headers: Mapping[str, str]
    sequence: int
    reason: str
    error: str
    attempts: int
    parked_at: float | None = None
    number: int = 0
    ordered: bool = True
    due_at: float | None = None
    tries: int = 0
    last_start: LastStart = LastStart.ENDED
    claim: int = 0
    held_by: str | None = None
    asked_at: float | None = None

    @property
    def waits(self) -> bool:
        """Whether the consumer tries the event again by itself."""
        return self.due_at is not None or self.held_by is not None

    @property
    def ordering_key(self) -> tuple[str, str, str | int]:
        """The direction, consumer and partition key. Events for which all three are equal are kept in order.

        If the event has no partition key, or its group keeps no order, the last part is the number of the event.
        """
        stands_alone = self.partition_key is None or not self.ordered
        return self.direction, self.consumer, self.number if stands_alone else self.partition_key or ""

    def log_fields(self) -> dict[str, Any]:
        """Return the fields that describe the event in log lines, without the payload."""
        names = ("event_id", "type", "consumer", "reason", "attempts")
        return {name: getattr(self, name) for name in names}


def refused_event(event: CloudEvent, reason: str, error: str, *, sequence: int) -> ParkedEvent:
    """Return the parked form of an event that the broker refused; `sequence` is its sequence in the outbox."""
    return ParkedEvent(
        direction="out",
        consumer="",
        source=event.source,
        event_id=event.id,
        type=event.type,
        time=time_text(event.time),
        partition_key=event.partitionkey,
        content_type=event.datacontenttype,
        extensions=dict(event.extensions),
        data=event.data,
        subject="",
        headers={},
        sequence=sequence,
        reason=reason,
        error=error_text(error),
        attempts=1,
    )


def behind_its_key(event: ParkedEvent) -> ParkedEvent:
    """Return the form of an event that is parked behind an earlier event of its key. No circuit holds it."""
    return replace(event, reason=ParkReason.KEY_PARKED, error=BEHIND_TEXT, held_by=None)


def released_event(parked: ParkedEvent) -> CloudEvent:
    """Return the event to put back into the outbox. This is the inverse of `refused_event`."""
    return CloudEvent(
        id=parked.event_id,
        type=parked.type,
        time=datetime.fromisoformat(parked.time),
        data=parked.data,
        source=parked.source,
        datacontenttype=parked.content_type,
        partitionkey=parked.partition_key,
        extensions=parked.extensions,
    )


def error_text(error: BaseException | str) -> str:
    """Return the class and the text of an error, shortened and escaped to fit into a column."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {text_of(error)}"
    return text[:_LONGEST_ERROR].replace("\0", "\\x00").encode(errors="backslashreplace").decode()[:_LONGEST_ERROR]


def to_json(texts: Mapping[str, str]) -> str:
    """Return headers or extensions as JSON in ASCII, which every database can store."""
    return json.dumps(dict(texts))


def from_json(text: str) -> dict[str, str]:
    """Return the headers or extensions that `to_json` has written."""
    texts: dict[str, str] = json.loads(text or "{}")
    return texts


@dataclass(frozen=True, slots=True)
class ParkedFilter:
    """Selects parked events. An event has to match all fields that are not `None`.

    Attributes:
        numbers: Only events with these numbers; an empty sequence selects no event.
        direction: Only events of this direction, `in` or `out`.
        consumer: Only events of this group.
        type: Only events of this wire type.
        key: Only events of this partition key.
        reason: Only events parked for this reason.
        since: Only events parked at this time or later, in seconds since the epoch.
        waiting: Only events that the consumer tries again by itself (`True`), or only other events (`False`).
        held_by: Only events that the circuit of this handler holds.
    """

    numbers: Sequence[int] | None = None
    direction: Direction | None = None
    consumer: str | None = None
    type: str | None = None
    key: str | None = None
    reason: str | None = None
    since: float | None = None
    waiting: bool | None = None
    held_by: str | None = None

    def __contains__(self, event: ParkedEvent) -> bool:
        """Return whether an event matches."""
        wanted = (self.direction, self.consumer, self.type, self.key, self.reason, self.held_by)
        found = (event.direction, event.consumer, event.type, event.partition_key, event.reason, event.held_by)
        fits = all(want in (None, have) for want, have in zip(wanted, found, strict=True))
        chosen = self.numbers is None or event.number in self.numbers
        recent = self.since is None or (event.parked_at is not None and event.parked_at >= self.since)
        waits = self.waiting is None or self.waiting == event.waits
        return fits and chosen and recent and waits


class Parking(ABC):
    """Keeps parked events until they are replayed or discarded.

    This is the dead letter queue (DLQ). Events never expire here. Events of one consumer and partition key are kept in
    order. Parking an event, or removing it with `take`, locks the key of the event until the transaction ends. A replay
    calls `take` after the handlers. From this call until the replay ends, further events of the key wait. Calls that
    edit or discard the event wait too.
    """

    @abstractmethod
    async def park(self, event: ParkedEvent, /, *, due_in: float | None = None, asked: bool = False) -> bool:
        """Park an incoming event and record the event in the inbox, both in a new transaction, and return true.

        If the event has already taken effect or is already parked, change nothing and return false. An event
        with `held_by` is held by that circuit, with one exception: if an earlier event of its ordering key is parked,
        the event is parked behind it, as `KEY_PARKED`, and no circuit holds it.

        Args:
            event: The event.
            due_in: Seconds until a consumer may claim the event; `None` if the event does not become due by itself.
            asked: Whether the handlers of the event have asked to be called later.
        """

    @abstractmethod
    async def append(self, unit_of_work: UnitOfWork, event: ParkedEvent, /) -> None:
        """Park an event in the running transaction. The inbox has already recorded the event and locked its key."""

    @abstractmethod
    async def find(
        self, which: ParkedFilter, /, *, after: int = 0, limit: int = 100, bodies: bool = True
    ) -> Sequence[ParkedEvent]:
        """Return at most `limit` matching events with numbers above `after`, in the order of their numbers.

        Without `bodies`, the `data` of the events is empty: many large bodies might not fit into memory.
        """

    @abstractmethod
    async def count(self, which: ParkedFilter, /) -> int:
        """Return how many events match."""

    @abstractmethod
    async def get(self, number: int, /) -> ParkedEvent:
        """Return one event.

        Raises:
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
        """

    @abstractmethod
    async def head(self, event: ParkedEvent, /) -> ParkedEvent | None:
        """Return the first parked event with the direction, consumer and key of the given event, or `None`."""

    @abstractmethod
    async def edit(
        self, number: int, /, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> ParkedEvent:
        """Replace the body or the headers of an event, and return the changed event.

        Raises:
            SettingError: Headers are given for an event of direction `out`, which has no headers.
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
        """

    @abstractmethod
    async def claim(self, consumer: str, /, *, held_by: str | None = None) -> ParkedEvent | None:
        """Claim and return the event of a consumer that became due first. Return `None` if no event is due.

        The claim has a new number (`claim`), and the event becomes due again after `CLAIM_SECONDS`, in case the process
        dies. An event that a transaction has reserved is left out. A claim costs the same however many events wait.

        With `held_by`, claim a probe instead: one of the events that the circuit of this handler holds. Choose the
        event that was claimed least often and, among several, the event with the lowest number. The circuit no longer
        holds the claimed event.
        """

    @abstractmethod
    async def holders(self, consumer: str, /) -> Sequence[str]:
        """Return the names of the handlers whose circuits hold events of a consumer, sorted.

        The cost grows with the number of these handlers, and not with the number of the events.
        """

    @abstractmethod
    async def let_go(self, consumer: str, held_by: str, /, *, limit: int = 1000) -> int:
        """Let at most `limit` events that the circuit of a handler holds become due now, and return their number.

        The events that were claimed least often become due first. Events that a transaction has reserved are left out.
        """

    @abstractmethod
    async def due_in(self, consumer: str, /) -> float | None:
        """Return the seconds until the next event of a consumer is due; `None` if no event waits."""

    @abstractmethod
    async def start(self, event: ParkedEvent, limit: int, /, *, alone: bool = False, lasting: float = 0.0) -> Start:
        """Count a start of the handlers of a claimed event, in a transaction of its own.

        Args:
            event: The event as `claim` returned it.
            limit: How often the handlers may be started, as with `Inbox.start`; `attempts` counts the starts.
            alone: As with `Inbox.start`.
            lasting: How long the handlers may run, in seconds. Most databases lock the row of the event while the
                handlers run, and `claim` leaves out locked rows. SQLite locks no rows. There the claim is extended by
                this time.

        Raises:
            ClaimLostError: The claim is over: the event was claimed again, or is no longer parked.
        """

    @abstractmethod
    async def postpone(
        self,
        event: ParkedEvent,
        /,
        *,
        due_in: float | None,
        reason: ParkReason = ParkReason.WAITING,
        error: str | None = None,
        started: bool = True,
        failed: bool = True,
        ended: bool = True,
        held_by: str | None = None,
        asked: bool = False,
    ) -> None:
        """End a start of a claimed event whose handlers did not succeed. Later tries go on after `due_in` seconds.

        Args:
            event: The event as `claim` returned it.
            due_in: Seconds until the next later try; `None` if the event waits for a person from now on.
            reason: The reason for which the event is parked from now on.
            error: The text of the error; `None` keeps the text that is stored.
            started: `False` takes back the start that `start` has counted. `True` changes no count.
            failed: Whether the event uses up one of its `later_delays`, which `tries` counts.
            ended: `False` if the handlers were not even started. A suspect then stays a suspect.
            held_by: The handler whose circuit holds the event from now on. `due_in` is `None` then.
            asked: Whether the handlers raised `RetryLater`. `asked_at` keeps the time at which they first did so.

        Raises:
            ClaimLostError: The claim is over: the event was claimed again, or is no longer parked.
        """

    async def reserve(self, unit_of_work: UnitOfWork, number: int, /, *, claim: int | None = None) -> ParkedEvent:
        """Reserve and return an event for the running transaction. Call `take` after the handlers.

        Other transactions that change the event wait until the running transaction ends. The key of the event is not
        locked before `take`. Until `take` is called, arriving events of the key are parked at once, behind this event.

        The default implementation reserves nothing. So two transactions can replay the event at the same time. The
        second call of `take` raises a `ParkedEventNotFoundError`.

        Raises:
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
            ClaimLostError: `claim` is given, and the event was claimed again.
        """
        del unit_of_work
        event = await self.get(number)
        if claim is not None and event.claim != claim:
            raise ClaimLostError(f"another process has claimed parked event {number}")
        head = await self.head(event)
        if head is not None and head.number < number:
            raise ParkedEventBlockedError(number, head.number)
        return event

    @abstractmethod
    async def take(self, unit_of_work: UnitOfWork, number: int, /, *, release_next: bool = False) -> ParkedEvent:
        """Remove an event that was handled in the running transaction, and lock its key until the transaction ends.

        With `release_next`, the next event of the key becomes due at the commit, if it was parked only because of this
        event.

        Raises:
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
        """

    @abstractmethod
    async def release(self, number: int, /) -> ParkedEvent:
        """Put an event of direction `out` back into the outbox, under its old sequence.

        Raises:
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
            ParkedEventConflictError: Another event with the same id or sequence is in the outbox. The event stays
                parked.
        """

    @abstractmethod
    async def note_failure(self, number: int, error: BaseException, /) -> None:
        """Record why a replay failed, and count the failure; do nothing when the event is no longer parked."""

    @abstractmethod
    async def discard(self, number: int, /) -> ParkedEvent:
        """Delete an event, and return it. The caller has to log the deletion, with a reason.

        Raises:
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
        """
