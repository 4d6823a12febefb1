"""Outbox: the port to the committed events that the broker does not have yet."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox.contents import OutboxContents
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import SettingError

ARCHIVE_SECONDS = 72 * 3600.0
"""How long an outbox keeps published events by default, in seconds."""


class OutboxBatch(ABC):
    """Events that one relay is publishing, and no other.

    Attributes:
        events: The events, in the order in which they are to be published.
        look_again: In how many seconds to look again although nobody wakes the relay: 0 when more events are waiting, a
            moment when other relays hold some of them, `None` when there is nothing to wait for.
    """

    events: Sequence[CloudEvent]
    look_again: float | None = None

    @abstractmethod
    async def settle(self, ids: Collection[str], /) -> None:
        """Move the events with these ids, which the broker has stored, to the archive.

        An id names one event: when the archive already has an event with that id, the archived event stays, and the
        other one is settled all the same.

        Raises:
            ClaimLostError: The claim has ended, or the database has ended it. Nothing is changed.
        """

    @abstractmethod
    async def park(self, event: CloudEvent, /, reason: str, error: str) -> None:
        """Park an event that the broker will refuse every time.

        Later events of its key wait in the outbox until it is replayed or discarded (see `Parking`); all other events
        go on.

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
        archived: The number of published events that were deleted.
        parked: The number of refused events that were deleted.
        pending: The number of events of the key that still wait to be published, or did when it began. They were left
            alone.
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
    """Keeps committed events until a relay has published them. The unit of work stages them."""

    # Whose events these are.

    @property
    def application(self) -> str | None:
        """The name of the application, which is the source of its events; `None` until it is known.

        The source is stored with each event, at the latest before the event is published for the first time, and never
        changed: an event that is published again after the application was renamed is the same event.
        """
        return None

    def use_application(self, application: str | None, /) -> None:
        """Check that a publisher has the same application name. An outbox without a name takes the publisher's.

        Raises:
            SettingError: The outbox has another name.
        """
        if application is not None and self.application not in (None, application):
            problem = f"the outbox stores its events under {self.application!r}; say the name there and nowhere else"
            raise SettingError("application", application, problem)

    # What the relay needs.

    @abstractmethod
    def wake(self) -> None:
        """Tell the relays of this process that there is something to do. Never blocks."""

    @abstractmethod
    async def wait(self, seconds: float, /) -> None:
        """Wait until woken, at most `seconds`. Return at once when woken since the last `wait`."""

    @abstractmethod
    def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AbstractAsyncContextManager[OutboxBatch]:
        """Claim the oldest events, at most `limit`, leaving out events whose domain is in `without`.

        While a relay holds a claim, no other relay gets events of the same partition keys. The claim of a process that
        died is free at once. The batch is empty when there is nothing to do or other relays are working on it. Delayed
        events that are not due are left out, and so are events that wait behind a refused event of their key. An error
        that leaves the body may undo what was settled in it.
        """

    @abstractmethod
    async def due_in(self) -> float | None:
        """Return in how many seconds the next delayed event is due, 0 when it is overdue; `None` when there is none."""

    @abstractmethod
    async def clean(self, limit: int, /) -> int:
        """Delete at most `limit` archived events that are older than the archive keeps, and return how many."""

    # What an application may do.

    @property
    @abstractmethod
    def contents(self) -> OutboxContents:
        """The events in the outbox and its archive, to be inspected."""

    @abstractmethod
    async def cancel(self, event_id: str, /, *, unit_of_work: UnitOfWork | None = None) -> bool:
        """Take a delayed event back. Return true when it is never sent, else false.

        It is false when a relay has the event already, or the event is not there.

        Args:
            event_id: The id that `add` returned, in a transaction that has committed.
            unit_of_work: A running unit of work on the same database: the event is taken back if it commits. Without
                one, the event is taken back at once.

        Raises:
            MisuseError: The unit of work is on another database.
            NoUnitOfWorkError: The unit of work does not run.
        """

    @abstractmethod
    async def erase(self, partition_key: str, /) -> Erased:
        """Delete the archived events and the refused events of a partition key.

        Waiting events are left alone and counted, because a committed event is sent: erase again once they are sent. An
        event that is moved or released meanwhile counts as waiting: when none is `pending`, nothing of the key is left
        except what was committed since. Payloads that went out unencrypted are elsewhere by now; see `PayloadCipher`
        for payloads that can be made unreadable everywhere.

        Raises:
            SettingError: The key is empty, and no event has such a key.
        """


class Doorbell(ABC):
    """Wakes the relays of other processes before their next poll. A ring may get lost: relays also poll."""

    @abstractmethod
    def ring(self) -> None:
        """Tell other processes that events were committed. Never blocks; rings in quick succession may become one."""

    @abstractmethod
    def on_ring(self, listener: Callable[[], None], /) -> None:
        """Call `listener` when another process has rung, and whenever a ring may have been missed."""
