"""DistributedEventBroker: collects the events that are sent to other applications after the commit."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from mediator.context import IdFactory, new_id
from mediator.distributed.events import DistributedEvent, wire_type
from mediator.distributed.unit_of_work.port import UnitOfWork
from mediator.distributed.unit_of_work.read_only import lack_of_unit_of_work
from mediator.distributed.unit_of_work.running import CollectedEvent, UnitOfWorkState
from mediator.errors import EventNotSerializableError, misuse
from mediator.scope import current_context


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class DistributedEventBroker:
    """Collects events for the running transaction. The commit stores the events; a rollback drops them.

    Args:
        unit_of_work: The unit of work of this scope.
        ids: Makes event ids.
        clock: Returns the current time, timezone-aware.
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
        """Add an event to send after the commit of the running transaction, and return the id of the event.

        The event is encoded at once. The caller must not change the event after this call. Events of one partition key
        arrive in the order in which they were added and committed. Delayed events are an exception: a delayed event
        neither waits for earlier events nor makes later events wait.

        Args:
            event: The event.
            deliver_at: The earliest time to publish the event, timezone-aware; `None` to publish the event at once. The
                time is compared with the clock of the database. Until that time, `outbox.cancel(event_id)` can cancel
                the event.

        Raises:
            MisuseError: The object is not a distributed event, or the time is not a timezone-aware datetime.
            DeclarationError: The class of the event declares no valid type.
            EventNotSerializableError: The partition key of the event is an empty text, or the event cannot be encoded.
                If the encoding failed, the transaction can only be rolled back.
            NoUnitOfWorkError: No transaction runs.
        """
        check_event(event, deliver_at)
        event_id = self._ids()
        if self.unit_of_work.state is UnitOfWorkState.IDLE:
            raise lack_of_unit_of_work(event)
        self.unit_of_work.collect(CollectedEvent(event, event_id, self._clock(), current_context(), deliver_at))
        return event_id


def check_event(event: object, deliver_at: object) -> None:
    """Refuse an event that cannot be added to a broker.

    Raises:
        MisuseError: The object is not a distributed event, or the time is not a timezone-aware datetime.
        DeclarationError: The class of the event declares no valid type.
        EventNotSerializableError: The partition key of the event is an empty text.
    """
    if not isinstance(event, DistributedEvent):
        raise misuse.no_event(event)
    wire_type(type(event))
    if event.partition_key == "":
        raise EventNotSerializableError(event, "its partition_key is empty; use None for an event without order")
    if deliver_at is None:
        return
    if not isinstance(deliver_at, datetime):
        raise misuse.delivery_time(event, f"its time is of type {type(deliver_at).__name__}")
    if deliver_at.utcoffset() is None:
        raise misuse.delivery_time(event, "its time has no time zone")
