"""Outbox: the port to the events that are committed and not yet with the broker."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager

from mediator.distributed.cloudevents import CloudEvent


class OutboxBatch(ABC):
    """Events that one relay, and no other, is publishing.

    Attributes:
        events: In the order in which they are to be published.
    """

    events: Sequence[CloudEvent]

    @abstractmethod
    async def settle(self, ids: Collection[str], /) -> None:
        """Move the events with these ids, which the broker has stored, to the archive."""


class Outbox(ABC):
    """Committed events wait here until a relay has published them. Staging is the unit of work's part."""

    @abstractmethod
    def wake(self) -> None:
        """Tell the relays of this process that there is something to do. Never blocks."""

    @abstractmethod
    async def wait(self, seconds: float, /) -> None:
        """Return when woken (also when that happened since the last `wait`), at the latest after `seconds`."""

    @abstractmethod
    def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AbstractAsyncContextManager[OutboxBatch]:
        """Claim the oldest events, at most `limit`, leaving out those whose id or partition key is in `without`.

        While a relay holds a claim no other relay gets events of the same partition keys. The claim of a process that
        died is free at once. The batch is empty when there is nothing to do or another relay is at it.
        """

    @abstractmethod
    async def clean(self, limit: int, /) -> int:
        """Delete at most `limit` archived events older than the archive keeps, and return how many."""
