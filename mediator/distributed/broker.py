"""DistributedEventBroker: where handlers put the events that leave the process after the commit."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from mediator.context import IdFactory, new_id
from mediator.distributed.events import DistributedEvent, wire_type
from mediator.distributed.reading import lack_of_unit_of_work
from mediator.distributed.transaction import CollectedEvent, UnitOfWorkState
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import DeliveryTimeError, EventKindError
from mediator.scope import current_context


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class DistributedEventBroker:
    """Collects events for the running transaction. They are stored with it, and forgotten with it.

    Args:
        unit_of_work: The one of this scope.
        ids: Makes event ids.
        clock: The time, timezone-aware.
    """

    def __init__(
        self, unit_of_work: UnitOfWork, *, ids: IdFactory = new_id, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.unit_of_work = unit_of_work
        self._ids = ids
        self._clock = clock

    @property
    def pending(self) -> Sequence[DistributedEvent]:
        """The events that wait for the commit, in the order in which they were added."""
        return self.unit_of_work.pending_events

    def add(self, event: DistributedEvent, /, *, deliver_at: datetime | None = None) -> str:
        """Send an event once the running transaction has committed, and return its id.

        Events of one partition key arrive in the order in which they were added and committed. A delayed event has no
        place in that order: it waits for none before it, and none behind it waits for it.

        Args:
            event: The event.
            deliver_at: Not to be published before this time, timezone-aware, by the clock of the database. Until then
                `outbox.cancel(event_id)` takes it back. `None` for at once.

        Raises:
            EventKindError: It is not a distributed event.
            EventDeclarationError: Its class declares no valid type.
            DeliveryTimeError: The time is not a timezone-aware datetime.
            NoUnitOfWorkError: No transaction runs.
        """
        check_event(event, deliver_at)
        event_id = self._ids()
        if self.unit_of_work.state is UnitOfWorkState.IDLE:
            raise lack_of_unit_of_work(event)
        self.unit_of_work.collect(CollectedEvent(event, event_id, self._clock(), current_context(), deliver_at))
        return event_id


def check_event(event: object, deliver_at: object) -> None:
    """Refuse what cannot be added to a broker.

    Raises:
        EventKindError: It is not a distributed event.
        EventDeclarationError: Its class declares no valid type.
        DeliveryTimeError: The time is not a timezone-aware datetime.
    """
    if not isinstance(event, DistributedEvent):
        raise EventKindError(event)
    wire_type(type(event))
    if deliver_at is None:
        return
    if not isinstance(deliver_at, datetime):
        raise DeliveryTimeError(event, f"its time is of type {type(deliver_at).__name__}")
    if deliver_at.utcoffset() is None:
        raise DeliveryTimeError(event, "its time has no time zone")
