"""Inbox: the port to what this application's database has already taken in."""

from abc import ABC, abstractmethod

from mediator.distributed.unit_of_work import UnitOfWork


class Inbox(ABC):
    """Remembers, in the transaction of the effect itself, that an event took effect."""

    @abstractmethod
    async def insert(self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /) -> bool:
        """Record an event in the running transaction; False when it was there already.

        When another transaction is recording the same event at this moment, waits for how that ends.
        """

    @abstractmethod
    async def contains(self, consumer: str, source: str, event_id: str, /) -> bool:
        """Whether an event has taken effect and is committed."""

    @abstractmethod
    async def clean(self, limit: int, /) -> int:
        """Forget at most `limit` events older than the inbox keeps, and return how many."""
