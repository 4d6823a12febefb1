"""Inbox: the port that records which events took effect, and how often the handlers of events were started."""

import enum
from abc import ABC, abstractmethod
from datetime import datetime

from mediator.distributed.starts import Start
from mediator.distributed.unit_of_work import UnitOfWork

_DAY = 86_400.0
CLOCK_MARGIN = 60.0
"""Seconds by which the clocks of broker and database may differ."""


class Admission(enum.Enum):
    """The inbox's answer when an event is recorded."""

    NEW = "new"
    """The event is recorded now; its handlers have to run in the same transaction."""
    DUPLICATE = "duplicate"
    """The event has taken effect already, or is parked."""
    KEY_PARKED = "key parked"
    """The event is recorded now. An earlier event of its key is parked, so this event has to be parked too."""


class Inbox(ABC):
    """Records each event in the same transaction in which the event takes effect.

    Attributes:
        keep_seconds: How long the inbox remembers an event, in seconds.
    """

    keep_seconds: float

    @property
    def application(self) -> str | None:
        """The name of the application, as set in the outbox of the same database; `None` when it is not known."""
        return None

    @abstractmethod
    async def insert(
        self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /, *, key: str | None = None
    ) -> Admission:
        """Record an event in the running transaction, as the first statement of the transaction.

        While another transaction is recording the same event, wait until that transaction ends. With `key`, also check
        whether an event of this consumer and key is parked. If so, lock the key until the transaction ends.
        """

    @abstractmethod
    async def contains(self, consumer: str, source: str, event_id: str, /, *, since: datetime | None = None) -> bool:
        """Return whether an event has taken effect or is parked. Only committed transactions count.

        Args:
            consumer: The name of the consumer.
            source: The application that the event comes from.
            event_id: The id of the event in that application.
            since: Count only an event that was recorded at this time or later. Clocks may differ by a minute.
        """

    @abstractmethod
    async def start(self, consumer: str, source: str, event_id: str, limit: int, /, *, alone: bool = False) -> Start:
        """Count a start of the handlers of a redelivered event, in a separate transaction.

        The first start of an event is not counted, to save a transaction. So an event without a count is treated as
        started once, with `LastStart.BESIDE`. After `limit` starts, the event is `exhausted` if its last start was
        `LastStart.ALONE`.

        Args:
            consumer: The name of the consumer.
            source: The application that the event comes from.
            event_id: The id of the event in that application.
            limit: How often the handlers of the event may be started.
            alone: `True` if no other event is being handled in this process. If `False`, and the event may only start
                alone, the start is not counted, and the answer has `suspect=True`.
        """

    @abstractmethod
    async def end(self, consumer: str, source: str, event_id: str, attempt: int, /) -> None:
        """Record that the last start failed, in a separate transaction.

        `attempt` is the number of that start. If the event has no count yet, `attempt` becomes the count.
        """

    @abstractmethod
    async def take_back(self, consumer: str, source: str, event_id: str, /) -> None:
        """Remove the last start from the count, in a separate transaction. An uncounted event gets the count 0."""

    @abstractmethod
    async def forget_starts(self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /) -> None:
        """Remove the count of an event that takes effect in the running transaction."""

    @abstractmethod
    async def clean(self, limit: int, /) -> int:
        """Delete at most `limit` events and counts that are older than `keep_seconds`, and return their number."""

    @abstractmethod
    async def answers(self) -> bool:
        """Return whether the database can be reached now."""

    async def takes_writes(self) -> bool:
        """Return whether the database can store data now, with some space left. The default returns `answers()`."""
        return await self.answers()


def needed_retention(*, stream: float, archive: float = 0.0) -> float:
    """Return how long an inbox must remember events, in seconds, so that no event takes effect twice.

    Args:
        stream: How long the broker keeps events, in seconds.
        archive: How long publishers keep published events, in seconds. If the broker loses events, publishers can
            publish these events again.
    """
    return max(stream, archive) + _DAY
