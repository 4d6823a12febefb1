"""AggregateRoot: an entity that records domain events, which its unit of work publishes before it commits."""

import itertools
import weakref
from dataclasses import dataclass
from typing import Any, Protocol, cast

from mediator.context import MessageContext
from mediator.errors import MessageKindError
from mediator.messages import Notification
from mediator.scope import current_frame

_JOURNAL = "_mediator_journal"
"""Under which name an aggregate's `__dict__` has its journal: there it is no field of a dataclass, and no mapped column."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A domain event that waits for the end of the unit of work.

    Attributes:
        event: The event.
        number: Its place in the order in which all aggregates recorded.
        context: Of the message in whose handling it was recorded, if there was one.
    """

    event: Notification
    number: int
    context: MessageContext | None


class EventCollector(Protocol):
    """What takes the events of the aggregates that it tracks: a unit of work."""

    def take(self, aggregate: "AggregateRoot", recorded: RecordedEvent, /) -> bool:
        """Keep an event until the end of the running transaction; False when none runs, and it stays where it is."""
        ...


class AggregateRoot:
    """Mix this into an entity that says what happens to it: `self.record(StudentEnrolled(self.id))`.

    It may be any class: a plain one, a dataclass, a class that SQLAlchemy maps. What was recorded is published locally,
    in the transaction and before its commit, in the order in which it was recorded over all aggregates. Aggregates
    that are in the session of a `SqlAlchemyUnitOfWork` are known to it; others are handed to theirs with
    `unit_of_work.track(aggregate)`. What an aggregate records that is never saved is published nowhere.
    """

    # No attributes and no slots: those of mapped classes, dataclasses and other bases stay as they are.

    def record(self, event: Notification, /) -> None:
        """Say what happened, for the handlers of that notification.

        Raises:
            MessageKindError: It is not a notification.
            DomainEventDepthError: Domain events cause each other in a circle.
        """
        if not isinstance(event, Notification):
            raise MessageKindError(event, "record")
        frame = current_frame()
        recorded = RecordedEvent(event, next(_numbers), None if frame is None else frame.context)
        journal = journal_of(self)
        collector = journal.collector
        if collector is None or not collector.take(self, recorded):
            journal.waiting.append(recorded)

    @property
    def recorded_events(self) -> tuple[Notification, ...]:
        """The events that no unit of work has taken over yet, in the order in which they were recorded."""
        return tuple(recorded.event for recorded in journal_of(self).waiting)


class Journal:
    """The events of one aggregate that no unit of work has taken, and who is to take them.

    A copy of an aggregate, pickled ones included, has nothing to tell: its original has.
    """

    __slots__ = ("_collector", "waiting")

    def __init__(self) -> None:
        self._collector: weakref.ref[Any] | None = None
        self.waiting: list[RecordedEvent] = []

    def __reduce__(self) -> tuple[type["Journal"], tuple[()]]:
        return (Journal, ())

    @property
    def collector(self) -> EventCollector | None:
        """The unit of work that tracks the aggregate, while there is one."""
        found: EventCollector | None = self._collector() if self._collector is not None else None
        return found

    @collector.setter
    def collector(self, collector: EventCollector | None) -> None:
        self._collector = None if collector is None else weakref.ref(cast("Any", collector))

    def hand_over(self) -> list[RecordedEvent]:
        """What waits; it waits here no more."""
        handed, self.waiting = self.waiting, []
        return handed


def journal_of(aggregate: AggregateRoot) -> Journal:
    """The journal of an aggregate, made when first asked for: what loads entities may not call their `__init__`."""
    attributes = vars(aggregate)
    journal: Journal | None = attributes.get(_JOURNAL)
    if journal is None:
        journal = attributes[_JOURNAL] = Journal()
    return journal
