"""AggregateTracker: the part of a unit of work that collects the events recorded by aggregates."""

from collections.abc import Collection, Sequence

from mediator.aggregates import AggregateRoot, EventCollector, RecordedEvent, journal_of
from mediator.distributed.unit_of_work.read_only import lack_of_unit_of_work
from mediator.distributed.unit_of_work.running import RunningTransaction
from mediator.errors.root import name_of


class AggregateTracker(EventCollector):
    """Collects the events that aggregates record, for the running transaction.

    A collected event belongs to the transaction and no longer to the aggregate. So the event is published even if the
    session drops the aggregate. A rollback of the transaction drops the event. A rollback to a savepoint drops the
    events that were recorded after the savepoint.
    """

    def __init__(self) -> None:
        self._running: RunningTransaction | None = None
        self._waiting: list[AggregateRoot] = []

    def track(self, aggregate: AggregateRoot, /) -> None:
        """Publish all events that an aggregate has recorded, or will record until the transaction ends.

        Use this method for aggregates that are not in the session of the unit of work. For example, a repository
        without a session tracks the aggregates that it saves.

        Raises:
            NoUnitOfWorkError: No transaction runs.
        """
        if self._running is None:
            raise lack_of_unit_of_work(aggregate)
        self.adopt(aggregate)
        self._running.tracked.append(aggregate)

    def adopt(self, aggregate: AggregateRoot, /) -> None:
        """Track an aggregate until `release`. Adapters call this method for aggregates in sessions."""
        journal = journal_of(aggregate)
        journal.collector = self
        if self._running is None:
            self._waiting += [aggregate] if journal.waiting else []
        else:
            self._running.recorded.add(journal.hand_over())

    def release(self, aggregate: AggregateRoot, /) -> None:
        """Stop tracking an aggregate. The events that the aggregate has recorded so far stay with the transaction."""
        journal = journal_of(aggregate)
        if journal.collector is self:
            journal.collector = None

    def take(self, aggregate: AggregateRoot, recorded: RecordedEvent, /) -> bool:
        """Add an event to the running transaction, and return true.

        If no transaction runs, or if the transaction accepts no more events, return false. The aggregate then keeps the
        event for the next transaction.
        """
        if self._running is None or self._running.sealed:
            self._waiting.append(aggregate)
            return False
        self._running.recorded.add([recorded])
        return True

    def take_over(self, running: RunningTransaction) -> None:
        """Give a new transaction the events that were recorded before it."""
        waiting, self._waiting = self._waiting, []
        for aggregate in waiting:
            if journal_of(aggregate).collector is self:
                running.recorded.add(journal_of(aggregate).hand_over())

    @property
    def unpublished(self) -> Sequence[str]:
        """The classes of the events that wait for the next transaction, as texts for errors."""
        return list(dict.fromkeys(f"{name_of(each.event)} (recorded)" for each in self.recorded_since(())))

    def recorded_since(self, before: Collection[RecordedEvent]) -> Sequence[RecordedEvent]:
        """Return the events that wait for the next transaction, without the events in `before`."""
        held = (journal_of(each) for each in self._waiting if journal_of(each).collector is self)
        return [recorded for journal in held for recorded in journal.waiting if recorded not in before]

    def forget_recorded(self, gone: Collection[RecordedEvent]) -> None:
        """Drop the given events, which a failed query recorded."""
        for aggregate in self._waiting:
            journal = journal_of(aggregate)
            journal.waiting = [each for each in journal.waiting if each not in gone]
