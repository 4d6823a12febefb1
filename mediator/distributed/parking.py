"""Parking: the port to the events that are set aside, in the order in which those of one key are to be replayed."""

import enum
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.identity import fitting, identity_of, shown
from mediator.distributed.subscription import Delivery
from mediator.distributed.unit_of_work import UnitOfWork

Direction = Literal["in", "out"]

_LONGEST_ERROR = 4096


class ParkReason(enum.StrEnum):
    """Why an event was set aside."""

    HANDLER_FAILED = "handler-failed"
    """Its handlers failed as often as they may be tried."""
    FATAL_ERROR = "fatal-error"
    """Its handlers raised an error that no further try would change."""
    PROCESS_DIED = "process-died"
    """The process died in its handlers as often as they may be tried."""
    UNDECODABLE = "undecodable"
    """It is no event, or its payload is not of the class that handles it."""
    UNKNOWN_TYPE = "unknown-type"
    """No handler here handles its type and version."""
    KEY_PARKED = "key-parked"
    """Nothing is wrong with it; an earlier event of its key is parked."""
    REFUSED = "refused"
    """The broker refuses to store it (direction `out`)."""


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that was set aside, whole.

    Attributes:
        direction: `in` for one that could not be handled, `out` for one that could not be published.
        consumer: The group that could not handle it; empty for direction `out`.
        source: Its source, or what identifies it in the inbox.
        event_id: Its id, or what identifies it in the inbox.
        type: Its type on the wire, cut and escaped; empty when that could not be read.
        time: When it was raised, ISO 8601.
        partition_key: Its key, or a hash of one that is too long.
        content_type: The media type of its payload.
        extensions: Further attributes.
        data: The body of the message as it came; for direction `out` the payload. Bytes.
        subject: Where it was published.
        headers: The headers of the message as they came; none for direction `out`.
        sequence: Its place in the stream, or that in the outbox.
        reason: One of `ParkReason`.
        error: The class and the text of what went wrong, at most 4096 characters. It may hold a part of the payload.
        attempts: How often its handlers were started, or how often it was published.
        parked_at: When, in seconds since the epoch.
        number: Its place among the parked events; 0 before it is stored.
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
    parked_at: float
    number: int = 0

    @property
    def lane(self) -> tuple[str, str, str]:
        """What orders it: its direction, its consumer, and its key, or its number when it has none."""
        return self.direction, self.consumer, f"#{self.number}" if self.partition_key is None else self.partition_key

    def log_fields(self) -> dict[str, Any]:
        """What log lines say of it; never the payload."""
        names = ("event_id", "type", "consumer", "reason", "attempts")
        return {name: getattr(self, name) for name in names}


def parked_delivery(
    consumer: str, delivery: Delivery, reason: ParkReason, error: BaseException | str, *, attempts: int, now: float
) -> ParkedEvent:
    """What is to be parked of a delivery."""
    identity, event = identity_of(consumer, delivery), delivery.event
    return ParkedEvent(
        direction="in",
        consumer=consumer,
        source=identity.source,
        event_id=identity.event_id,
        type=shown((event or delivery.remnant).type),
        time=(delivery.stored_at if event is None else event.time).isoformat(),
        partition_key=key_of(delivery),
        content_type="" if event is None else shown(event.datacontenttype, 127),
        extensions={} if event is None else dict(event.extensions),
        data=delivery.data,
        subject=shown(delivery.subject, 1024),
        headers=dict(delivery.headers),
        sequence=delivery.sequence,
        reason=reason,
        error=error_text(error),
        attempts=attempts,
        parked_at=now,
    )


def refused_event(event: CloudEvent, reason: str, error: str, *, sequence: int, now: float) -> ParkedEvent:
    """What is to be parked of an event that the broker refused; `sequence` is its place in the outbox."""
    return ParkedEvent(
        direction="out",
        consumer="",
        source="",
        event_id=event.id,
        type=event.type,
        time=event.time.isoformat(),
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
        parked_at=now,
    )


def released_event(parked: ParkedEvent) -> CloudEvent:
    """The event that goes back into the outbox; the other way round of `refused_event`."""
    return CloudEvent(
        id=parked.event_id,
        type=parked.type,
        time=datetime.fromisoformat(parked.time),
        data=parked.data,
        datacontenttype=parked.content_type,
        partitionkey=parked.partition_key,
        extensions=parked.extensions,
    )


def key_of(delivery: Delivery) -> str | None:
    """The key that orders a delivery, fit for a column."""
    key = (delivery.event or delivery.remnant).partitionkey
    return None if key is None else fitting(key)


def error_text(error: BaseException | str) -> str:
    """What is kept of an error: its class and text, cut, fit for a column."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {_text_of(error)}"
    return text[:_LONGEST_ERROR].replace("\0", "\\x00").encode(errors="backslashreplace").decode()[:_LONGEST_ERROR]


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # an exception of a user's may fail at that, too
        return f"its text cannot be had: {type(failure).__name__}"


def to_json(texts: Mapping[str, str]) -> str:
    """Headers or extensions as JSON in ASCII, which fits into every column."""
    return json.dumps(dict(texts))


def from_json(text: str) -> dict[str, str]:
    """What `to_json` has written."""
    texts: dict[str, str] = json.loads(text or "{}")
    return texts


@dataclass(frozen=True, slots=True)
class ParkedFilter:
    """Which parked events; those that fit everything that is given.

    Attributes:
        numbers: These only.
        direction: `in` or `out`.
        consumer: Of this group.
        type: Of this type on the wire.
        key: Of this partition key.
        reason: Parked for this reason.
        since: Parked at this time or later, in seconds since the epoch.
    """

    numbers: Sequence[int] = field(default_factory=tuple[int, ...])
    direction: Direction | None = None
    consumer: str | None = None
    type: str | None = None
    key: str | None = None
    reason: str | None = None
    since: float | None = None

    def __contains__(self, event: ParkedEvent) -> bool:
        """Whether an event is one of them."""
        wanted = (self.direction, self.consumer, self.type, self.key, self.reason)
        found = (event.direction, event.consumer, event.type, event.partition_key, event.reason)
        fits = all(want in (None, have) for want, have in zip(wanted, found, strict=True))
        chosen = not self.numbers or event.number in self.numbers
        return fits and chosen and (self.since is None or event.parked_at >= self.since)


class Parking(ABC):
    """Keeps events that were set aside until somebody replays or discards them; there is no other way out.

    Events of one consumer and key are kept in order. Whoever adds to a key or replays from it locks it, so that an event
    that arrives while the last parked one is replayed waits for how that ends. So does whoever edits or discards one that a
    replay has taken.
    """

    @abstractmethod
    async def park(self, event: ParkedEvent, /) -> bool:
        """Set an event that came in aside, in a transaction that also records it in the inbox.

        False when it has taken effect or is parked already; then nothing is changed.
        """

    @abstractmethod
    async def append(self, unit_of_work: UnitOfWork, event: ParkedEvent, /) -> None:
        """Set an event aside in the running transaction, in which the inbox has recorded it and locked its key."""

    @abstractmethod
    async def find(self, which: ParkedFilter, /, *, after: int = 0, limit: int = 100) -> Sequence[ParkedEvent]:
        """The events that fit, in the order of their numbers, from the first one beyond `after`."""

    @abstractmethod
    async def count(self, which: ParkedFilter, /) -> int:
        """How many fit."""

    @abstractmethod
    async def get(self, number: int, /) -> ParkedEvent:
        """One event.

        Raises:
            ParkedEventNotFoundError: It is not, or no longer, parked.
        """

    @abstractmethod
    async def head(self, event: ParkedEvent, /) -> ParkedEvent | None:
        """The first event of the same direction, consumer and key; `None` when none is left."""

    @abstractmethod
    async def edit(
        self, number: int, /, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> ParkedEvent:
        """Replace the body or the headers, and return what is parked now.

        Raises:
            SettingError: Headers are given for an event that goes out, which has none yet.
            ParkedEventNotFoundError: It is not, or no longer, parked.
        """

    @abstractmethod
    async def take(self, unit_of_work: UnitOfWork, number: int, /) -> ParkedEvent:
        """Remove an event in the running transaction, in which it is then handled, and lock its key until the end.

        Raises:
            ParkedEventNotFoundError: It is not, or no longer, parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
        """

    @abstractmethod
    async def release(self, number: int, /) -> ParkedEvent:
        """Put an event that was to go out back into the outbox, at its old place.

        Raises:
            ParkedEventNotFoundError: It is not, or no longer, parked.
            ParkedEventBlockedError: An earlier event of its key is parked.
            ParkedEventConflictError: An event with its id, or at its old place, is in the outbox. It is parked as before.
        """

    @abstractmethod
    async def note_failure(self, number: int, error: BaseException, /) -> None:
        """Keep why a replay failed, and count it; nothing when the event is no longer parked."""

    @abstractmethod
    async def discard(self, number: int, /) -> ParkedEvent:
        """Remove an event for good, and return what it was. Whoever calls this logs it, with a reason.

        Raises:
            ParkedEventNotFoundError: It is not, or no longer, parked.
        """
