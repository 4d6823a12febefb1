"""AggregateTracker: the part of a unit of work that takes what aggregates record, and publishes it before the commit."""

from mediator.aggregates import AggregateRoot, EventCollector, RecordedEvent, journal_of
from mediator.distributed.reading import lack_of_unit_of_work
from mediator.distributed.transaction import RunningTransaction


class AggregateTracker(EventCollector):
    """Takes the events of aggregates for the running transaction.

    From then on they belong to the transaction and not to the aggregate: they outlive an object that the session lets go,
    and vanish when the transaction, or the savepoint since which they were recorded, is rolled back.
    """

    def __init__(self) -> None:
        self._running: RunningTransaction | None = None
        self._restless: list[AggregateRoot] = []

    def track(self, aggregate: AggregateRoot, /) -> None:
        """Publish what an aggregate has recorded, and what it records until the transaction ends.

        This is for aggregates that are not in the session of the unit of work: a repository tracks what it saves.

        Raises:
            NoUnitOfWorkError: No transaction runs.
        """
        if self._running is None:
            raise lack_of_unit_of_work(aggregate)
        self.adopt(aggregate)
        self._running.tracked.append(aggregate)

    def adopt(self, aggregate: AggregateRoot, /) -> None:
        """Track an aggregate until it is released. For adapters, whose sessions know what is in them."""
        journal = journal_of(aggregate)
        journal.collector = self
        if self._running is None:
            self._restless += [aggregate] if journal.waiting else []
        else:
            self._running.recorded.add(journal.hand_over())

    def release(self, aggregate: AggregateRoot, /) -> None:
        """Track an aggregate no longer; what it has recorded so far stays with the transaction."""
        journal = journal_of(aggregate)
        if journal.collector is self:
            journal.collector = None

    def take(self, aggregate: AggregateRoot, recorded: RecordedEvent, /) -> bool:
        """See `EventCollector.take`. What is recorded between two transactions is for the next one."""
        if self._running is None or self._running.sealed:
            self._restless.append(aggregate)
            return False
        self._running.recorded.add([recorded])
        return True

    def take_over(self, running: RunningTransaction) -> None:
        """Take what the aggregates in the session recorded before the transaction began."""
        restless, self._restless = self._restless, []
        for aggregate in restless:
            if journal_of(aggregate).collector is self:
                running.recorded.add(journal_of(aggregate).hand_over())

    def let_go(self, running: RunningTransaction) -> None:
        """Release what was tracked for one transaction only."""
        for aggregate in running.tracked:
            self.release(aggregate)
