"""Outbox: the port to the committed events that are not published yet."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox.contents import OutboxContents
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import SettingError

ARCHIVE_SECONDS = 72 * 3600.0
"""The default time for which an outbox keeps published events, in seconds."""


class OutboxBatch(ABC):
    """Events that one relay has claimed. No other relay publishes these events until the claim ends.

    Attributes:
        events: The events, in the order in which they are to be published.
        look_again: The seconds until the next claim, unless something wakes the relay earlier. The value is 0 when more
            events are waiting, a short time when other relays hold some of the waiting events, and `None` when no more
            events are waiting.
    """

    events: Sequence[CloudEvent]
    look_again: float | None = None

    @abstractmethod
    async def settle(self, ids: Collection[str], /) -> None:
        """Move published events, given by their ids, to the archive.

        If the archive already has an event with the same id, the archived event stays, and the published event is only
        removed from the outbox.

        Raises:
            ClaimLostError: The claim has ended, possibly because the database ended it. Nothing is changed.
        """

    @abstractmethod
    async def park(self, event: CloudEvent, /, reason: str, error: str) -> None:
        """Park an event that the broker would refuse again.

        Later events of its key wait in the outbox until the parked event is replayed or discarded (see `Parking`). All
        other events are published as usual.

        Args:
            event: An event of this batch.
            reason: One of `ParkReason`.
            error: The text of the error.

        Raises:
            ClaimLostError: The claim has ended, possibly because the database ended it. Nothing is changed.
        """


@dataclass(frozen=True, slots=True)
class Erased:
    """The result of `Outbox.erase`.

    Attributes:
        archived: The number of published events that were deleted.
        parked: The number of refused events that were deleted.
        pending: The number of events of the key that wait to be published, or waited when `erase` began. These events
            were not deleted.
    """

    archived: int
    parked: int
    pending: int


def check_partition_key(partition_key: str) -> None:
    """Refuse an empty partition key.

    Raises:
        SettingError: The key is empty.
    """
    if not partition_key:
        raise SettingError("partition_key", partition_key, "no event has an empty key, so nothing would be erased")


class Outbox(ABC):
    """Keeps committed events until a relay has published them. A unit of work stores the events here."""

    # The source of the events.

    @property
    def application(self) -> str | None:
        """The name of the application, which is the source of its events; `None` until the name is known.

        The source is stored with each event before the event is first published, and never changed. So an event keeps
        its source, even if the application is renamed and the event is published again.
        """
        return None

    def use_application(self, application: str | None, /) -> None:
        """Check the application name of a publisher. An outbox without a name takes over the publisher's name.

        Raises:
            SettingError: The outbox has another name.
        """
        if application is not None and self.application not in (None, application):
            problem = f"the outbox stores its events under {self.application!r}; give the publisher this name, or none"
            raise SettingError("application", application, problem)

    # The interface for relays.

    @abstractmethod
    def wake(self) -> None:
        """Wake the relays of this process, because events may be waiting. Never blocks."""

    @abstractmethod
    async def wait(self, seconds: float, /) -> None:
        """Wait at most `seconds` for a call of `wake`. Return at once if `wake` was called since the last `wait`."""

    @abstractmethod
    def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AbstractAsyncContextManager[OutboxBatch]:
        """Claim the oldest events, at most `limit`, leaving out events whose domain is in `without`.

        While a relay holds a claim, no other relay can claim events of the same partition keys. The claim of a process
        that died ends at once. The batch is empty when no event is waiting, or when other relays hold all waiting
        events. A delayed event is left out until it is due. An event that waits behind a refused event of its key is
        left out too. If the `async with` body raises an error, events that it settled may be in the outbox again.
        """

    @abstractmethod
    async def due_in(self) -> float | None:
        """Return the seconds until the next delayed event is due, 0 if it is overdue; `None` if no event is delayed."""

    @abstractmethod
    async def clean(self, limit: int, /) -> int:
        """Delete at most `limit` archived events whose retention time is over, and return their number."""

    # The interface for applications.

    @property
    @abstractmethod
    def contents(self) -> OutboxContents:
        """The events in the outbox and its archive, to be inspected."""

    @abstractmethod
    async def cancel(self, event_id: str, /, *, unit_of_work: UnitOfWork | None = None) -> bool:
        """Cancel a delayed event. Return true if the event will never be published.

        Return false if a relay has already claimed the event, or if the event is not in the outbox.

        Args:
            event_id: The id that `DistributedEventBroker.add` returned. The transaction of that call must have committed.
            unit_of_work: A running unit of work on the same database; the event is cancelled when that unit of work
                commits. With `None` the event is cancelled at once.

        Raises:
            MisuseError: The unit of work is on another database.
            NoUnitOfWorkError: The unit of work does not run.
        """

    @abstractmethod
    async def erase(self, partition_key: str, /) -> Erased:
        """Delete the archived events and the refused events of a partition key.

        Waiting events are only counted, because every committed event has to be published. Call `erase` again once the
        waiting events are published. An event that moves during the call, to the archive or back to the outbox, counts
        as waiting. If `Erased.pending` is 0, no event of the key is left that was committed before the call. The broker
        and receivers may still have copies. `PayloadCipher` explains how to make encrypted payloads unreadable everywhere.

        Raises:
            SettingError: The key is empty.
        """


class Doorbell(ABC):
    """Wakes the relays of other processes before their next poll. Relays also poll, because a ring may be lost."""

    @abstractmethod
    def ring(self) -> None:
        """Notify other processes that events were committed. Never blocks; rings in quick succession may be merged."""

    @abstractmethod
    def on_ring(self, listener: Callable[[], None], /) -> None:
        """Call `listener` when another process has rung, and whenever a ring may have been missed."""
