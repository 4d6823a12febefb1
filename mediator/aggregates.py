"""AggregateRoot: an entity that records domain events. The unit of work publishes the events before the commit."""

import itertools
import weakref
from dataclasses import dataclass
from typing import Any, Protocol, cast

from mediator.context import MessageContext
from mediator.errors import misuse
from mediator.messages import Notification
from mediator.scope import current_frame

_JOURNAL = "_mediator_journal"
"""The key of the `Journal` in an aggregate's `__dict__`. A journal is neither a dataclass field nor a mapped column."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A domain event that waits to be published by a unit of work.

    Attributes:
        number: The position of the event among the events of all aggregates, in the order of recording.
        context: The context of the message that was handled when the event was recorded; `None` if there was none.
    """

    event: Notification
    number: int
    context: MessageContext | None


class EventCollector(Protocol):
    """The interface of a unit of work that takes over the events of tracked aggregates."""

    def take(self, aggregate: "AggregateRoot", recorded: RecordedEvent, /) -> bool:
        """Keep an event for the running transaction, and return True.

        If no transaction runs, return False: the event stays with its aggregate.
        """
        ...


class AggregateRoot:
    """A mixin for an entity that records domain events: `self.record(StudentEnrolled(self.id))`.

    The entity may be a plain class, a dataclass or a class that SQLAlchemy maps. The unit of work publishes the events
    in its transaction, before the commit. The events of all aggregates are published in the order of recording. A
    `SqlAlchemyUnitOfWork` knows the aggregates in its session; hand every other aggregate to the unit of work with
    `unit_of_work.track(aggregate)`. Events of an aggregate that no unit of work knows are not published.
    """

    # No attributes and no slots are declared, because they could conflict with mapped classes, dataclasses and other bases.

    def record(self, event: Notification, /) -> None:
        """Record a domain event for the handlers of its class.

        Raises:
            MisuseError: The event is not a notification.
            DispatchDepthError: Domain events cause each other in a chain longer than `max_depth`, as in a circle.
        """
        if not isinstance(event, Notification):
            raise misuse.wrong_kind(event, "record")
        frame = current_frame()
        recorded = RecordedEvent(event, next(_numbers), None if frame is None else frame.context)
        journal = journal_of(self)
        collector = journal.collector
        if collector is None or not collector.take(self, recorded):
            journal.waiting.append(recorded)

    @property
    def recorded_events(self) -> tuple[Notification, ...]:
        """The events that no unit of work has taken over yet, in the order of recording."""
        return tuple(recorded.event for recorded in journal_of(self).waiting)


class Journal:
    """Holds the events of one aggregate until a unit of work takes the events over, and refers to that unit of work.

    Pickling and `copy.deepcopy` give the new aggregate an empty journal. The old aggregate still holds the events.
    """

    __slots__ = ("_collector", "waiting")

    def __init__(self) -> None:
        self._collector: weakref.ref[Any] | None = None
        self.waiting: list[RecordedEvent] = []

    def __reduce__(self) -> tuple[type["Journal"], tuple[()]]:
        return (Journal, ())

    @property
    def collector(self) -> EventCollector | None:
        """The unit of work that tracks the aggregate; `None` when the aggregate is not tracked."""
        found: EventCollector | None = self._collector() if self._collector is not None else None
        return found

    @collector.setter
    def collector(self, collector: EventCollector | None) -> None:
        self._collector = None if collector is None else weakref.ref(cast("Any", collector))

    def hand_over(self) -> list[RecordedEvent]:
        """Remove and return the waiting events."""
        handed, self.waiting = self.waiting, []
        return handed


def journal_of(aggregate: AggregateRoot) -> Journal:
    """Return the journal of an aggregate.

    The first use creates the journal, because an object-relational mapper may load entities without calling `__init__`.
    """
    attributes = vars(aggregate)
    journal: Journal | None = attributes.get(_JOURNAL)
    if journal is None:
        journal = attributes[_JOURNAL] = Journal()
    return journal
