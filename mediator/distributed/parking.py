"""Parking: the port to parked events (dead letters), which are kept in order per key for their replay."""

import enum
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.storable import time_text
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ParkedEventBlockedError
from mediator.printable import text_of

Direction = Literal["in", "out"]

_LONGEST_ERROR = 4096


class ParkReason(enum.StrEnum):
    """Why an event was parked."""

    HANDLER_FAILED = "handler-failed"
    """Its handlers failed, and were started as often as allowed."""
    FATAL_ERROR = "fatal-error"
    """Its handlers raised an error that no further attempt would change."""
    PROCESS_DIED = "process-died"
    """The process died in its handlers, which were started as often as allowed."""
    UNDECODABLE = "undecodable"
    """The message is no event, or its payload is not of the class that handles it."""
    UNKNOWN_TYPE = "unknown-type"
    """No handler in this application handles its type and version."""
    KEY_PARKED = "key-parked"
    """An earlier event of its key is parked; nothing is wrong with this one."""
    REFUSED = "refused"
    """The broker refuses to store it (direction `out`)."""


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """A parked event (dead letter), complete enough to be replayed.

    Attributes:
        direction: `in` for an event that could not be handled, `out` for an event that could not be published.
        consumer: The group that could not handle it; empty for direction `out`.
        source: Its source, as the inbox identifies it. For direction `out`, the application under which it is stored.
        event_id: Its id, as the inbox identifies it.
        type: Its wire type, cut and escaped; empty when it could not be read.
        time: When it was raised, ISO 8601.
        partition_key: Its key, or a hash of a key that is too long.
        content_type: The media type of its payload.
        extensions: Further attributes of the envelope.
        data: The body of the message as received, in bytes; for direction `out` the payload.
        subject: The subject on which it was published; empty for direction `out`.
        headers: The headers of the message as received; empty for direction `out`.
        sequence: Its sequence in the stream; for direction `out`, in the outbox.
        reason: One of `ParkReason`.
        error: The class and the text of the error, at most 4096 characters. It may contain a part of the payload.
        attempts: How often its handlers were started; for direction `out`, how often it was published.
        parked_at: When it was parked, in seconds since the epoch, by the clock of the database; `None` before it is
            stored.
        number: Its number among the parked events; 0 before it is stored.
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

    @property
    def ordering_key(self) -> tuple[str, str, str | int]:
        """The direction, consumer and key within which it is ordered. Without a key, its number takes that place."""
        return self.direction, self.consumer, self.number if self.partition_key is None else self.partition_key

    def log_fields(self) -> dict[str, Any]:
        """Return the fields that describe the event in log lines, never the payload."""
        names = ("event_id", "type", "consumer", "reason", "attempts")
        return {name: getattr(self, name) for name in names}


def refused_event(event: CloudEvent, reason: str, error: str, *, sequence: int) -> ParkedEvent:
    """Return the parked form of an event that the broker refused; `sequence` is its place in the outbox."""
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


def released_event(parked: ParkedEvent) -> CloudEvent:
    """Return the event that goes back into the outbox: the inverse of `refused_event`."""
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
    """Return headers or extensions as JSON in ASCII, which fits into every column."""
    return json.dumps(dict(texts))


def from_json(text: str) -> dict[str, str]:
    """Return the headers or extensions that `to_json` has written."""
    texts: dict[str, str] = json.loads(text or "{}")
    return texts


@dataclass(frozen=True, slots=True)
class ParkedFilter:
    """Selects parked events. An event has to match everything that is given.

    Attributes:
        numbers: Only events with these numbers, so none at all when it is empty; `None` for all.
        direction: Only events of this direction, `in` or `out`.
        consumer: Only events of this group.
        type: Only events of this wire type.
        key: Only events of this partition key.
        reason: Only events parked for this reason.
        since: Only events parked at this time or later, in seconds since the epoch.
    """

    numbers: Sequence[int] | None = None
    direction: Direction | None = None
    consumer: str | None = None
    type: str | None = None
    key: str | None = None
    reason: str | None = None
    since: float | None = None

    def __contains__(self, event: ParkedEvent) -> bool:
        """Return whether an event matches."""
        wanted = (self.direction, self.consumer, self.type, self.key, self.reason)
        found = (event.direction, event.consumer, event.type, event.partition_key, event.reason)
        fits = all(want in (None, have) for want, have in zip(wanted, found, strict=True))
        chosen = self.numbers is None or event.number in self.numbers
        recent = self.since is None or (event.parked_at is not None and event.parked_at >= self.since)
        return fits and chosen and recent


class Parking(ABC):
    """Keeps parked events until somebody replays or discards them; there is no other way out.

    This is the dead letter queue (DLQ). Events of one consumer and key are kept in order. Adding an event to a key and
    replaying an event of that key both lock the key. So an event that arrives while the last parked one is replayed
    waits until the replay ends, and so does editing or discarding an event that a replay has taken.
    """

    @abstractmethod
    async def park(self, event: ParkedEvent, /) -> bool:
        """Park an incoming event, in a transaction that also records it in the inbox.

        Return false, and change nothing, when the event has taken effect or is parked already.
        """

    @abstractmethod
    async def append(self, unit_of_work: UnitOfWork, event: ParkedEvent, /) -> None:
        """Park an event in the running transaction, in which the inbox has recorded it and locked its key."""

    @abstractmethod
    async def find(
        self, which: ParkedFilter, /, *, after: int = 0, limit: int = 100, bodies: bool = True
    ) -> Sequence[ParkedEvent]:
        """Return at most `limit` matching events with numbers above `after`, in the order of their numbers.

        Without `bodies` their `data` is empty and not read: many large bodies would not fit into memory.
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
        """Return the first event of the same direction, consumer and key; `None` when none is left."""

    @abstractmethod
    async def edit(
        self, number: int, /, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> ParkedEvent:
        """Replace the body or the headers of an event, and return the event as it is parked now.

        Raises:
            SettingError: Headers are given for an event of direction `out`, which has none yet.
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
        """

    async def reserve(self, unit_of_work: UnitOfWork, number: int, /) -> ParkedEvent:
        """Reserve an event for the running transaction, which handles it and then calls `take`.

        Until `take` the key is not locked: events that arrive for it are parked behind this one at once. Another
        transaction that changes the event waits until this one ends. The default implementation lets nothing wait, and
        the later of two `take` calls does not find the event.

        Raises:
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
        """
        del unit_of_work
        event = await self.get(number)
        head = await self.head(event)
        if head is not None and head.number < number:
            raise ParkedEventBlockedError(number, head.number)
        return event

    @abstractmethod
    async def take(self, unit_of_work: UnitOfWork, number: int, /) -> ParkedEvent:
        """Remove an event in the running transaction, in which it was handled, and lock its key until the end.

        Raises:
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
        """

    @abstractmethod
    async def release(self, number: int, /) -> ParkedEvent:
        """Put an event of direction `out` back into the outbox, at its old place.

        Raises:
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
            ParkedEventConflictError: An event with its id, or at its old place, is in the outbox. The event stays
                parked.
        """

    @abstractmethod
    async def note_failure(self, number: int, error: BaseException, /) -> None:
        """Record why a replay failed, and count the failure; do nothing when the event is no longer parked."""

    @abstractmethod
    async def discard(self, number: int, /) -> ParkedEvent:
        """Remove an event for good, and return it. The caller logs this, with a reason.

        Raises:
            ParkedEventNotFoundError: The event is not parked, or no longer parked.
        """
