"""InMemoryDatabase: the tables, outbox and inbox of an application under test, with transactions."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from mediator.distributed import failpoints
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import EventCodec
from mediator.distributed.inbox import LastStart
from mediator.distributed.unit_of_work import (
    StagedEvent,
    UnitOfWork,
    UnitOfWorkState,
    check_ids,
    count_waiting,
    lack_of_unit_of_work,
)
from mediator.errors import CommittedError, DatabaseUnavailableError, OutboxFullError, misuse
from mediator.msgspec import MsgspecCodec
from mediator.owner import Owner
from mediator.settings import check_counts

_GONE: Any = object()


class InMemoryDatabase:
    """The committed data of an application. The unit of work, outbox and inbox must use the same database.

    Attributes:
        tables: The rows of each table, by table name and then by key.
        outbox: The events that wait for a relay, in the order of their commits.
        delayed: The delayed events, each with its due time in seconds since the epoch.
        archive: The events that the broker has stored.
        archived: Maps the id of each archived event to its sequence and its archiving time, in seconds since the epoch.
        inbox: The consumer, source and id of each event that took effect or is parked.
        starts: Maps the consumer, source and id of an event to a pair: how often the event's handlers were started, and
            the state of the last start. An event in the inbox has no entry.
        places: Maps event ids to the numbers that order the outbox. An event that leaves the outbox keeps its number.
        available: Whether the database works. With False, no transaction can commit, as during an outage.
        application: The application's name, which becomes the source of the events. `InMemoryOutbox` sets this name.

    Args:
        clock_offset: Returns the seconds by which the clock of this database is ahead of the clock of this machine.
    """

    def __init__(self, *, clock_offset: Callable[[], float] | None = None) -> None:
        self.application: str | None = None
        self._clock_offset = clock_offset
        self.tables: dict[str, dict[Any, Any]] = {}
        self.outbox: list[CloudEvent] = []
        self.delayed: list[tuple[float, CloudEvent]] = []
        self.archive: list[CloudEvent] = []
        self.archived: dict[str, tuple[int, float]] = {}
        self.inbox: set[tuple[str, str, str]] = set()
        self.starts: dict[tuple[str, str, str], tuple[int, LastStart]] = {}
        self.available: bool = True
        self.recording: dict[tuple[str, str, str], tuple[object, asyncio.Event]] = {}
        self.locks: dict[tuple[str, str], tuple[object, asyncio.Event]] = {}
        self.numbers: Iterator[int] = itertools.count(1)
        self.places: dict[str, int] = {}
        self.woken: asyncio.Event = asyncio.Event()
        self.owner: Owner = Owner("The in-memory database")

    def now(self) -> float:
        """Return the time of this database, in seconds since the epoch."""
        return time.time() + (0.0 if self._clock_offset is None else self._clock_offset())

    def named(self, event: CloudEvent) -> CloudEvent:
        """Return the event. If the event has no source, the application's name (if known) becomes the source."""
        return event if event.source or self.application is None else replace(event, source=self.application)

    @property
    def waiting(self) -> Sequence[CloudEvent]:
        """The events that wait to be published, including delayed events that are not due."""
        return [*self.outbox, *(event for _, event in self.delayed)]

    def put(self, event: CloudEvent) -> None:
        """Append an event to the outbox."""
        self.places[event.id] = next(self.numbers)
        self.outbox.append(event)

    def put_back(self, event: CloudEvent, place: int) -> None:
        """Insert an event into the outbox at `place`, which is the number that the event had in `places`."""
        later = [index for index, each in enumerate(self.outbox) if self.places.get(each.id, math.inf) > place]
        self.outbox.insert(later[0] if later else len(self.outbox), event)
        self.places[event.id] = place

    def check_owner(self) -> None:
        """Check that the running event loop owns this database.

        Raises:
            MisuseError: Another event loop or another process owns this database.
        """
        if self.owner.check():
            self.woken = asyncio.Event()  # the old `asyncio.Event` belongs to another event loop

    def check_available(self) -> None:
        """Raise an error while the database simulates an outage.

        Raises:
            DatabaseUnavailableError: `available` is False.
        """
        if not self.available:
            raise DatabaseUnavailableError("InMemoryDatabase", "it simulates an outage")


class InMemoryTable(MutableMapping[Any, Any]):
    """One table as a transaction sees it: the committed rows with the changes of the transaction."""

    def __init__(self, committed: dict[Any, Any], changes: Callable[[], dict[Any, Any]]) -> None:
        self._committed = committed
        self._changes = changes

    def __getitem__(self, key: Any) -> Any:
        value = self._changes().get(key, self._committed.get(key, _GONE))
        if value is _GONE:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._changes()[key] = value

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self._changes()[key] = _GONE

    def __iter__(self) -> Iterator[Any]:
        changes = self._changes()
        return (key for key in {**self._committed, **changes} if changes.get(key) is not _GONE)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _ReadOnlyTable(InMemoryTable):
    """A table as the transaction of a query sees it. Writing to it raises an error."""

    def __init__(self, name: str, rows: dict[Any, Any]) -> None:
        super().__init__(rows, dict)
        self._name = name

    def __setitem__(self, _key: Any, _value: Any) -> NoReturn:
        raise lack_of_unit_of_work(f"Writing to the table {self._name}")

    def __delitem__(self, key: Any) -> None:
        self[key] = _GONE


class InMemoryUnitOfWork(UnitOfWork):
    """A unit of work on an `InMemoryDatabase`: `unit_of_work = Scoped(InMemoryUnitOfWork, database)`.

    Commits, rollbacks and savepoints run the same library code as with a real database. If two transactions change the
    same row, the later commit wins.

    Args:
        database: The database that transactions commit to.
        codec: The codec of the payloads; `MsgspecCodec` by default.
        max_pending: The largest number of waiting events, not counting delayed events; `None` for no limit.
        options: The options of `UnitOfWork`.

    Raises:
        SettingError: A limit is not a whole number of at least 1.
    """

    def __init__(
        self,
        database: InMemoryDatabase,
        *,
        codec: EventCodec | None = None,
        max_pending: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(codec=codec or MsgspecCodec(), **options)
        check_counts(max_pending=max_pending)
        self.database = database
        self._max_pending = max_pending
        self._changes: dict[str, dict[Any, Any]] = {}
        self._snapshot: dict[str, dict[Any, Any]] | None = None
        self._inbox: set[tuple[str, str, str]] = set()
        self._locks: list[tuple[str, str]] = []
        self._forgotten: set[tuple[str, str, str]] = set()
        self._staged: list[StagedEvent] = []
        self._cancelled: list[tuple[float, CloudEvent]] = []

    def table(self, name: str) -> InMemoryTable:
        """Return a table as the running transaction sees it. The tables of a query's transaction are read-only.

        Raises:
            NoUnitOfWorkError: No transaction runs.
        """
        if self._snapshot is not None:
            return _ReadOnlyTable(name, self._snapshot.get(name, {}))
        self._changes_of(name)
        return InMemoryTable(self.database.tables.setdefault(name, {}), partial(self._changes_of, name))

    def _changes_of(self, name: str) -> dict[Any, Any]:
        if self.state is UnitOfWorkState.IDLE:
            raise misuse.no_unit_of_work(f"The table {name}")
        return self._changes.setdefault(name, {})

    async def record(self, entry: tuple[str, str, str]) -> bool:
        """Record an event in the inbox and return True, or return False if the event is already recorded.

        Wait while another transaction is recording the same event.
        """
        database = self.database
        while entry in database.recording and database.recording[entry][0] is not self:
            await database.recording[entry][1].wait()
        if entry in database.inbox or entry in self._inbox:
            return False
        database.recording[entry] = (self, asyncio.Event())
        self._inbox.add(entry)
        return True

    def cancel(self, event_id: str) -> bool:
        """Cancel a delayed event when this transaction commits. Return whether the event exists and is still delayed.

        Raises:
            NoUnitOfWorkError: No transaction runs.
        """
        if self.state is UnitOfWorkState.IDLE:
            raise misuse.no_unit_of_work(f"Cancelling event {event_id}")
        found = [delayed for delayed in self.database.delayed if delayed[1].id == event_id]
        for delayed in found:
            self.database.delayed.remove(delayed)  # so that the event does not become due before the transaction ends
        self._cancelled += found
        return bool(found)

    async def lock(self, name: tuple[str, str]) -> None:
        """Wait while another transaction holds a lock, and then hold the lock until this transaction ends."""
        locks = self.database.locks
        while name in locks and locks[name][0] is not self:
            await locks[name][1].wait()
        if name not in locks:
            locks[name] = (self, asyncio.Event())
            self._locks.append(name)

    def forget_starts(self, entry: tuple[str, str, str]) -> None:
        """Remove the start count of an event when the transaction commits."""
        self._forgotten.add(entry)

    # The methods of the port `DatabaseTransaction` follow.

    @property
    def application(self) -> str | None:
        return self.database.application

    async def prepare(self, isolation: str | None) -> None:
        self.database.check_owner()
        if isolation is not None:
            raise misuse.isolation_not_supported("InMemoryDatabase", isolation)

    async def begin_reading(self, isolation: str | None) -> None:
        await self.prepare(isolation)
        self._snapshot = {name: dict(table) for name, table in self.database.tables.items()}

    async def end_reading(self, error: BaseException | None) -> None:  # noqa: ARG002  # the port passes the error
        self._snapshot = None

    async def flush(self) -> None: ...

    async def stage(self, events: Sequence[StagedEvent]) -> None:
        pending, limit = len(self.database.outbox), self._max_pending
        adding = 0 if limit is None else count_waiting(events, limit)
        if limit is not None and adding and pending + adding > limit:
            raise OutboxFullError("InMemoryDatabase", pending, limit)
        check_ids(events, self.database.waiting)
        self._staged = list(events)

    async def commit_transaction(self, transaction_id: str) -> None:
        database = self.database
        database.check_available()
        check_ids(self._staged, database.waiting)  # another transaction may have committed since `stage`
        for name, changes in self._changes.items():
            table = database.tables.setdefault(name, {})
            table.update(changes)
            for key in [key for key, value in table.items() if value is _GONE]:
                del table[key]
        database.inbox |= self._inbox
        for entry in self._forgotten:
            database.starts.pop(entry, None)
        for staged in self._staged:
            if staged.deliver_at is None:
                database.put(staged.event)
            else:
                database.delayed.append((staged.deliver_at.timestamp(), staged.event))
        wakes, self._cancelled = bool(self._staged), []
        self._forget()
        try:
            await failpoints.reach("unit_of_work.before_wake")
        except Exception as error:
            raise CommittedError(transaction_id, None) from error
        finally:
            if wakes:
                database.woken.set()

    async def roll_back_transaction(self) -> None:
        self._forget()

    async def set_savepoint(self) -> Any:
        changes = {name: dict(changes) for name, changes in self._changes.items()}
        return changes, set(self._inbox), len(self._cancelled)

    async def release_savepoint(self, savepoint: Any) -> None: ...

    async def roll_back_to_savepoint(self, savepoint: Any) -> None:
        self._release(self._inbox - savepoint[1])
        self._changes, self._inbox, cancelled = savepoint
        self._restore(cancelled)

    def _restore(self, first: int) -> None:
        self.database.delayed += self._cancelled[first:]
        del self._cancelled[first:]

    def _forget(self) -> None:
        self._restore(0)
        self._release(self._inbox)
        self._changes, self._inbox, self._staged, self._forgotten = {}, set(), [], set()
        while self._locks:
            self.database.locks.pop(self._locks.pop())[1].set()

    def _release(self, entries: set[tuple[str, str, str]]) -> None:
        for entry in entries:
            self.database.recording.pop(entry)[1].set()


def in_database(database: InMemoryDatabase, unit_of_work: UnitOfWork, part: object) -> InMemoryUnitOfWork:
    """Return the unit of work if it is on this database. If not, raise an error that names `part`, such as an inbox.

    Raises:
        MisuseError: The unit of work is on another database.
    """
    if not isinstance(unit_of_work, InMemoryUnitOfWork) or unit_of_work.database is not database:
        raise misuse.other_unit_of_work(part, unit_of_work)
    return unit_of_work
