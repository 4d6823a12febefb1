"""AggregateTracker: the part of a unit of work that collects the events recorded by aggregates."""

from collections.abc import Collection, Sequence

from mediator.aggregates import AggregateRoot, EventCollector, RecordedEvent, journal_of
from mediator.distributed.unit_of_work.read_only import lack_of_unit_of_work
from mediator.distributed.unit_of_work.running import RunningTransaction
from mediator.errors.root import name_of


class AggregateTracker(EventCollector):
    """Takes the events of aggregates for the running transaction.

    From then on the events belong to the transaction and not to the aggregate: they outlive an object that the session
    lets go, and vanish when the transaction, or the savepoint since which they were recorded, is rolled back.
    """

    def __init__(self) -> None:
        self._running: RunningTransaction | None = None
        self._restless: list[AggregateRoot] = []

    def track(self, aggregate: AggregateRoot, /) -> None:
        """Publish the events that an aggregate has recorded, and the events that it records until the transaction ends.

        Use this for aggregates that are not in the session of the unit of work: a repository tracks the aggregates it
        saves.

        Raises:
            NoUnitOfWorkError: No transaction runs.
        """
        if self._running is None:
            raise lack_of_unit_of_work(aggregate)
        self.adopt(aggregate)
        self._running.tracked.append(aggregate)

    def adopt(self, aggregate: AggregateRoot, /) -> None:
        """Track an aggregate until it is released. For adapters, whose sessions know the aggregates in them."""
        journal = journal_of(aggregate)
        journal.collector = self
        if self._running is None:
            self._restless += [aggregate] if journal.waiting else []
        else:
            self._running.recorded.add(journal.hand_over())

    def release(self, aggregate: AggregateRoot, /) -> None:
        """Stop tracking an aggregate. The events that it has recorded so far stay with the transaction."""
        journal = journal_of(aggregate)
        if journal.collector is self:
            journal.collector = None

    def take(self, aggregate: AggregateRoot, recorded: RecordedEvent, /) -> bool:
        """Keep an event for the running transaction. An event recorded between two transactions is for the next one."""
        if self._running is None or self._running.sealed:
            self._restless.append(aggregate)
            return False
        self._running.recorded.add([recorded])
        return True

    def take_over(self, running: RunningTransaction) -> None:
        """Take the events that the aggregates in the session recorded before the transaction began."""
        restless, self._restless = self._restless, []
        for aggregate in restless:
            if journal_of(aggregate).collector is self:
                running.recorded.add(journal_of(aggregate).hand_over())

    @property
    def unpublished(self) -> Sequence[str]:
        """The classes of the events that were recorded outside a transaction and wait for one, as texts for errors."""
        return list(dict.fromkeys(f"{name_of(each.event)} (recorded)" for each in self.recorded_since(())))

    def recorded_since(self, before: Collection[RecordedEvent]) -> Sequence[RecordedEvent]:
        """Return the events that wait for the next transaction, without the events in `before`."""
        held = (journal_of(each) for each in self._restless if journal_of(each).collector is self)
        return [recorded for journal in held for recorded in journal.waiting if recorded not in before]

    def forget_recorded(self, gone: Collection[RecordedEvent]) -> None:
        """Do not publish these events, because the query that recorded them failed."""
        for aggregate in self._restless:
            journal = journal_of(aggregate)
            journal.waiting = [each for each in journal.waiting if each not in gone]

    def let_go(self, running: RunningTransaction) -> None:
        """Release the aggregates that were tracked for one transaction only."""
        for aggregate in running.tracked:
            self.release(aggregate)
