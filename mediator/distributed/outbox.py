"""Outbox: the port to the events that are committed and not yet with the broker."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox_contents import OutboxContents
from mediator.distributed.unit_of_work import UnitOfWork


class OutboxBatch(ABC):
    """Events that one relay, and no other, is publishing.

    Attributes:
        events: In the order in which they are to be published.
        look_again: In how many seconds another look is worth while although nobody wakes the relay: 0 when more events
            are waiting, a moment when other relays hold some of them, `None` when there is nothing to wait for.
    """

    events: Sequence[CloudEvent]
    look_again: float | None = None

    @abstractmethod
    async def settle(self, ids: Collection[str], /) -> None:
        """Move the events with these ids, which the broker has stored, to the archive.

        An id names one event: when the archive has one with it already, that one stays, and the other is settled all the
        same.

        Raises:
            ClaimLostError: The claim has ended, or the database has ended it. Nothing is changed.
        """

    @abstractmethod
    async def park(self, event: CloudEvent, /, reason: str, error: str) -> None:
        """Set an event aside that the broker will refuse every time.

        What follows it under its key waits in the outbox until it is replayed or discarded (see `Parking`); everything
        else goes on.

        Args:
            event: One of this batch.
            reason: One of `ParkReason`.
            error: The text of the error.

        Raises:
            ClaimLostError: The claim has ended, or the database has ended it. Nothing is changed.
        """


@dataclass(frozen=True, slots=True)
class Erased:
    """What was deleted of a partition key.

    Attributes:
        archived: How many published events.
        parked: How many refused ones.
        pending: How many events of the key still wait to be published, or did when it began. They were left alone.
    """

    archived: int
    parked: int
    pending: int


class Outbox(ABC):
    """Committed events wait here until a relay has published them. Staging is the unit of work's part."""

    # What the relay needs.

    @abstractmethod
    def wake(self) -> None:
        """Tell the relays of this process that there is something to do. Never blocks."""

    @abstractmethod
    async def wait(self, seconds: float, /) -> None:
        """Return when woken (also when that happened since the last `wait`), at the latest after `seconds`."""

    @abstractmethod
    def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AbstractAsyncContextManager[OutboxBatch]:
        """Claim the oldest events, at most `limit`, leaving out those whose context is in `without`.

        While a relay holds a claim no other relay gets events of the same partition keys. The claim of a process that
        died is free at once. The batch is empty when there is nothing to do or other relays are at it. Left out are
        delayed events that are not due, and those that wait behind a refused event of their key. An error that leaves
        the body may undo what was settled in it.
        """

    @abstractmethod
    async def due_in(self) -> float | None:
        """In how many seconds the next delayed event is due (0 when it is overdue); `None` when there is none."""

    @abstractmethod
    async def clean(self, limit: int, /) -> int:
        """Delete at most `limit` archived events older than the archive keeps, and return how many."""

    # What an application may do.

    @property
    @abstractmethod
    def contents(self) -> OutboxContents:
        """What is in the outbox and its archive, to be looked at."""

    @abstractmethod
    async def cancel(self, event_id: str, /, *, unit_of_work: UnitOfWork | None = None) -> bool:
        """Take a delayed event back. True when it is never sent; False when a relay has it already, or it is not there.

        Args:
            event_id: What `add` returned, in a transaction that has committed.
            unit_of_work: A running one on the same database: the event is taken back if that commits. Without it, it is
                taken back at once.

        Raises:
            UnitOfWorkMismatchError: The unit of work is one on another database.
            NoUnitOfWorkError: It does not run.
        """

    @abstractmethod
    async def erase(self, partition_key: str, /) -> Erased:
        """Delete what the archive keeps of a partition key, and its refused events.

        Events that wait are left alone and counted, because a committed event is sent: erase again once they are. One that
        is moved or released meanwhile counts as waiting: when none is `pending`, nothing of the key is left but what was
        committed since. What went out in clear is elsewhere by now; see `PayloadCipher` for payloads that can be made
        unreadable everywhere.
        """
