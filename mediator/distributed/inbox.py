"""Inbox: the port to what this application's database has already taken in, and how often it has tried."""

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass

from mediator.distributed.unit_of_work import UnitOfWork

_DAY = 86_400.0


class Admission(enum.Enum):
    """What an inbox says of an event when it is recorded."""

    NEW = "new"
    """It is recorded now; its handlers are to run in the same transaction."""
    DUPLICATE = "duplicate"
    """It has taken effect already, or is parked."""
    KEY_PARKED = "key parked"
    """It is recorded now, but an earlier event of its key is parked: it is to be parked behind that one."""


class LastStart(enum.StrEnum):
    """What is known of the last start of an event's handlers."""

    ENDED = "ended"
    """It failed, or was taken back."""
    BESIDE = "beside"
    """It began beside others, and how it ended is not known: while it does not run, its process died."""
    ALONE = "alone"
    """The same, but nothing else was handled in its process."""


@dataclass(frozen=True, slots=True)
class Start:
    """Whether the handlers of an event may be started.

    Attributes:
        attempt: Which start this is, from 1; when `exhausted` or `suspect`, how many there were.
        taken: They may not, because the event has taken effect or is parked.
        exhausted: They may not, because they were started as often as is allowed, and the process died of it.
        suspect: They may only alone: how the last start ended is not known. It was not counted.
    """

    attempt: int
    taken: bool = False
    exhausted: bool = False
    suspect: bool = False


def refusal(starts: int, last: LastStart, limit: int, *, alone: bool) -> Start | None:
    """Why the handlers of an event may not be started now, or `None`: the rule of `Inbox.start`."""
    if last is LastStart.ALONE and starts >= limit:
        return Start(starts, exhausted=True)
    if last is not LastStart.ENDED and not alone:
        return Start(starts, suspect=True)
    return None


class Inbox(ABC):
    """Remembers, in the transaction of the effect itself, that an event took effect.

    Attributes:
        keep_seconds: How long it remembers, in seconds.
    """

    keep_seconds: float

    @abstractmethod
    async def insert(
        self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /, *, key: str | None = None
    ) -> Admission:
        """Record an event in the running transaction, as its first statement.

        When another transaction is recording the same event at this moment, waits for how that ends. With `key`, says
        whether an event of this consumer and key is parked; if so, the key stays locked until the transaction ends.
        """

    @abstractmethod
    async def contains(self, consumer: str, source: str, event_id: str, /) -> bool:
        """Whether an event has taken effect or is parked, and that is committed."""

    @abstractmethod
    async def start(self, consumer: str, source: str, event_id: str, limit: int, /, *, alone: bool = False) -> Start:
        """Count a start of the handlers of an event that was delivered before, in a transaction of its own.

        Of an event without a count the first start is taken to have happened beside others, since that one is not counted:
        it would cost every event a transaction. An event is `exhausted` only when its last start was alone and is not known
        to have ended, whatever the limit.

        Args:
            consumer: The name of the consumer.
            source: The application that the event comes from.
            event_id: Its id there.
            limit: How often it may be started.
            alone: Nothing else is handled in this process. Otherwise a suspect is not counted, only said to be one.
        """

    @abstractmethod
    async def end(self, consumer: str, source: str, event_id: str, attempt: int, /) -> None:
        """Write down that the last start failed, in a transaction of its own.

        `attempt` is the number of that start, for an event without a count.
        """

    @abstractmethod
    async def take_back(self, consumer: str, source: str, event_id: str, /) -> None:
        """Do not count the last start, in a transaction of its own; also when it was the first, which is not counted."""

    @abstractmethod
    async def forget_starts(self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /) -> None:
        """Remove the count of an event that takes effect in the running transaction."""

    @abstractmethod
    async def clean(self, limit: int, /) -> int:
        """Forget at most `limit` events and counts older than the inbox keeps, and return how many."""

    @abstractmethod
    async def answers(self) -> bool:
        """Whether the database can be reached at this moment."""


def needed_retention(*, stream: float, archive: float = 0.0) -> float:
    """How long an inbox must remember events, in seconds, so that none takes effect twice.

    Args:
        stream: How long the broker keeps events, in seconds.
        archive: How long publishers keep them to fill a broker again that lost them, in seconds.
    """
    return max(stream, archive) + _DAY
