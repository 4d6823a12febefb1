"""OutboxContents: the port to what is in an outbox and its archive, for those who look at it or publish it again."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from mediator.distributed.cloudevents import CloudEvent

Place = Literal["waiting", "delayed", "archived"]
"""Where an event is: about to be published, not due yet, or published and kept."""


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """An event in an outbox or its archive, without its payload.

    Attributes:
        place: Where it is.
        sequence: Its place there; events of one key are in the order of their sequences.
        id: Its id.
        type: Its type on the wire.
        time: When it was raised.
        partition_key: Its key.
        size: How large its payload is, in bytes.
        moved_at: When it was archived, or is due; seconds since the epoch. `None` for one that waits.
    """

    place: Place
    sequence: int
    id: str
    type: str
    time: datetime
    partition_key: str | None
    size: int
    moved_at: float | None

    @property
    def context(self) -> str:
        """The context of its type, which has a stream of its own."""
        return self.type.partition(".")[0]


@dataclass(frozen=True, slots=True)
class OutboxFilter:
    """Which events; those that fit everything that is given.

    Attributes:
        place: Where they are.
        ids: These only.
        type: Of this type on the wire.
        key: Of this partition key.
        context: Of this context.
        since: Archived at this time or later, or raised then where they are not archived; seconds since the epoch.
    """

    place: Place
    ids: Sequence[str] = field(default_factory=tuple[str, ...])
    type: str | None = None
    key: str | None = None
    context: str | None = None
    since: float | None = None

    def __contains__(self, record: OutboxRecord) -> bool:
        """Whether a record is one of them."""
        wanted = (self.place, self.type, self.key, self.context)
        found = (record.place, record.type, record.partition_key, record.context)
        fits = all(want in (None, have) for want, have in zip(wanted, found, strict=True))
        at = record.moved_at if record.place == "archived" and record.moved_at is not None else record.time.timestamp()
        return fits and (not self.ids or record.id in self.ids) and (self.since is None or at >= self.since)


@dataclass(frozen=True, slots=True)
class OutboxCount:
    """How many events fit a filter.

    Attributes:
        events: How many.
        oldest: When the oldest one was archived, or raised where they are not archived; seconds since the epoch.
    """

    events: int
    oldest: float | None


class OutboxContents(ABC):
    """Reads an outbox and its archive. Nothing is changed, and relays go on meanwhile."""

    @abstractmethod
    async def find(self, which: OutboxFilter, /, *, after: int = 0, limit: int = 100) -> Sequence[OutboxRecord]:
        """The events that fit, in the order of their sequences, from the first one beyond `after`."""

    @abstractmethod
    async def count(self, which: OutboxFilter, /) -> OutboxCount:
        """How many fit, and how old the oldest is."""

    @abstractmethod
    async def get(self, event_id: str, /) -> tuple[OutboxRecord, CloudEvent]:
        """One event whole, wherever it is.

        Raises:
            OutboxEventNotFoundError: It is neither in the outbox nor in its archive.
        """

    @abstractmethod
    async def archived(self, sequences: Sequence[int], /) -> Sequence[CloudEvent]:
        """Archived events whole, in the order of their sequences, without those that are deleted by now."""
