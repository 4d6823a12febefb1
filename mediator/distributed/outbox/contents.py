"""OutboxContents: reads the events in an outbox and its archive, to inspect them or to publish them again."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mediator.distributed.cloudevents import CloudEvent

Place = Literal["waiting", "delayed", "archived"]
"""Where an event is: waiting to be published, delayed and not due yet, or archived after it was published."""


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """An event in an outbox or its archive, without its payload.

    Attributes:
        place: Where the event is.
        sequence: Its sequence in that place; events of one key are in the order of their sequences.
        id: Its id.
        type: Its wire type.
        time: When it was raised.
        partition_key: Its key.
        size: The size of its payload, in bytes.
        moved_at: When it was archived, or when a delayed event is due, in seconds since the epoch; `None` for a waiting
            event.
        source: The name of the application that raised it; empty for a waiting event whose source is not set yet.
    """

    place: Place
    sequence: int
    id: str
    type: str
    time: datetime
    partition_key: str | None
    size: int
    moved_at: float | None
    source: str = ""

    @property
    def domain(self) -> str:
        """The domain of its type. Each domain has its own stream."""
        return self.type.partition(".")[0]


@dataclass(frozen=True, slots=True)
class OutboxFilter:
    """Selects events. An event has to match all fields that are not `None`.

    Attributes:
        place: Where the events are.
        ids: Only events with these ids; an empty sequence selects no event.
        type: Only events of this wire type.
        key: Only events of this partition key.
        domain: Only events of this domain.
        since: Only events that were archived at this time or later, in seconds since the epoch. For events that are not
            archived, the time at which they were raised counts.
    """

    place: Place
    ids: Sequence[str] | None = None
    type: str | None = None
    key: str | None = None
    domain: str | None = None
    since: float | None = None

    def __contains__(self, record: OutboxRecord) -> bool:
        """Return whether a record matches."""
        wanted = (self.place, self.type, self.key, self.domain)
        found = (record.place, record.type, record.partition_key, record.domain)
        fits = all(want in (None, have) for want, have in zip(wanted, found, strict=True))
        at = record.moved_at if record.place == "archived" and record.moved_at is not None else record.time.timestamp()
        return fits and (self.ids is None or record.id in self.ids) and (self.since is None or at >= self.since)


@dataclass(frozen=True, slots=True)
class OutboxCount:
    """The number and the age of the events that match a filter.

    Attributes:
        events: The number of events.
        oldest: When the oldest event was archived (or raised, if not archived), in seconds since the epoch.
    """

    events: int
    oldest: float | None


class OutboxContents(ABC):
    """Reads an outbox and its archive, without changing them. Relays may run at the same time."""

    @abstractmethod
    async def find(self, which: OutboxFilter, /, *, after: int = 0, limit: int = 100) -> Sequence[OutboxRecord]:
        """Return at most `limit` matching events with sequences above `after`, in the order of their sequences."""

    @abstractmethod
    async def count(self, which: OutboxFilter, /) -> OutboxCount:
        """Return the number and the age of the matching events."""

    @abstractmethod
    async def get(self, event_id: str, /) -> tuple[OutboxRecord, CloudEvent]:
        """Return one event with its payload, from the outbox or its archive.

        Raises:
            NotFoundError: The event is neither in the outbox nor in its archive.
        """

    @abstractmethod
    async def archived(self, sequences: Sequence[int], /) -> Sequence[CloudEvent]:
        """Return archived events with their payloads, in the order of their sequences. Deleted events are left out."""
