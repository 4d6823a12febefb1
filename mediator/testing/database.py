"""InMemoryDatabase: tables, outbox and inbox of an application under test, with transactions."""

import asyncio
import copy
import itertools
import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import partial
from typing import Any, NoReturn

from mediator.distributed.bounds import check_counts
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import LastStart
from mediator.distributed.reading import lack_of_unit_of_work
from mediator.distributed.serialization import EventCodec
from mediator.distributed.staging import StagedEvent, check_ids, count_waiting
from mediator.distributed.transaction import UnitOfWorkState
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import DatabaseUnavailableError, IsolationNotSupportedError, NoUnitOfWorkError, OutboxFullError
from mediator.msgspec import MsgspecCodec

_GONE: Any = object()


class InMemoryDatabase:
    """What is committed. Give one to the unit of work, the outbox and the inbox of an application.

    Attributes:
        tables: Rows by key, by the name of their table.
        outbox: The events that wait for a relay, in the order of their commits.
        delayed: Those that are not due yet, with the time at which they are, in seconds since the epoch.
        archive: Those that the broker has stored.
        archived: The place of each of them, and when it came there, in seconds since the epoch, by its id.
        inbox: The consumer, source and id of each event that took effect or is parked.
        starts: How often handlers were started for an event that is not there yet, as far as that is counted, and what
            is known of the last start.
        places: The place in the outbox that each event has or had, by its id.
        available: False while the database plays dead: what needs it fails.
    """

    def __init__(self) -> None:
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

    @property
    def waiting(self) -> Sequence[CloudEvent]:
        """The events that wait, due or not."""
        return [*self.outbox, *(event for _, event in self.delayed)]

    def put(self, event: CloudEvent) -> None:
        """Put an event into the outbox."""
        self.places[event.id] = next(self.numbers)
        self.outbox.append(event)

    def put_back(self, event: CloudEvent, place: int) -> None:
        """Put an event into the outbox where it was before."""
        later = [index for index, each in enumerate(self.outbox) if self.places.get(each.id, math.inf) > place]
        self.outbox.insert(later[0] if later else len(self.outbox), event)
        self.places[event.id] = place

    def check_available(self) -> None:
        """Fail while it plays dead.

        Raises:
            DatabaseUnavailableError: It does.
        """
        if not self.available:
            raise DatabaseUnavailableError("InMemoryDatabase", "it plays dead")


class InMemoryTable(MutableMapping[Any, Any]):
    """One table as a transaction sees it: what is committed, and its own changes."""

    def __init__(self, committed: dict[Any, Any], changes: Callable[[], dict[Any, Any]]) -> None:
        self._committed = committed
        self._changes_of_now = changes

    @property
    def _changes(self) -> dict[Any, Any]:
        return self._changes_of_now()

    def __getitem__(self, key: Any) -> Any:
        value = self._changes.get(key, self._committed.get(key, _GONE))
        if value is _GONE:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._changes[key] = value

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self._changes[key] = _GONE

    def __iter__(self) -> Iterator[Any]:
        return (key for key in {**self._committed, **self._changes} if self._changes.get(key) is not _GONE)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _ReadOnlyTable(InMemoryTable):
    """A table as the transaction of a query sees it."""

    def __init__(self, name: str, rows: dict[Any, Any]) -> None:
        super().__init__(rows, dict)
        self._name = name

    def __setitem__(self, _key: Any, _value: Any) -> NoReturn:
        raise lack_of_unit_of_work(f"Writing to the table {self._name}")

    def __delitem__(self, _key: Any) -> NoReturn:
        raise lack_of_unit_of_work(f"Writing to the table {self._name}")


class InMemoryUnitOfWork(UnitOfWork):
    """A unit of work on an `InMemoryDatabase`: `unit_of_work = Scoped(InMemoryUnitOfWork, database)`.

    It is the same commit path as with a real database: commit, rollback, savepoints and dooming are the library's own.
    Of two transactions that change one row, the later commit wins.

    Args:
        database: What is committed.
        codec: Writes and reads the payloads of events.
        max_pending: How many events may wait in the outbox, delayed ones not counted; `None` for any number.
        options: Of `UnitOfWork`.

    Raises:
        SettingError: A number cannot work.
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
        """A table, to be read and written in the running transaction, or read in that of a query.

        Raises:
            NoUnitOfWorkError: No transaction runs.
        """
        if self._snapshot is not None:
            return _ReadOnlyTable(name, self._snapshot.get(name, {}))
        self._changes_of(name)
        return InMemoryTable(self.database.tables.setdefault(name, {}), partial(self._changes_of, name))

    def _changes_of(self, name: str) -> dict[Any, Any]:
        if self.state is UnitOfWorkState.IDLE:
            raise NoUnitOfWorkError(f"The table {name}")
        return self._changes.setdefault(name, {})

    async def record(self, entry: tuple[str, str, str]) -> bool:
        """Take an event into the inbox; False when it is there. Waits for another transaction that is at it."""
        database = self.database
        while entry in database.recording and database.recording[entry][0] is not self:
            await database.recording[entry][1].wait()
        if entry in database.inbox or entry in self._inbox:
            return False
        database.recording[entry] = (self, asyncio.Event())
        self._inbox.add(entry)
        return True

    def cancel(self, event_id: str) -> bool:
        """Take a delayed event back, if this transaction commits; False when there is none with that id.

        Raises:
            NoUnitOfWorkError: No transaction runs.
        """
        if self.state is UnitOfWorkState.IDLE:
            raise NoUnitOfWorkError(f"Cancelling event {event_id}")
        found = [delayed for delayed in self.database.delayed if delayed[1].id == event_id]
        for delayed in found:
            self.database.delayed.remove(delayed)  # it cannot become due while it is uncertain
        self._cancelled += found
        return bool(found)

    async def lock(self, name: tuple[str, str]) -> None:
        """Hold a lock until the transaction ends. Waits for another transaction that holds it."""
        locks = self.database.locks
        while name in locks and locks[name][0] is not self:
            await locks[name][1].wait()
        if name not in locks:
            locks[name] = (self, asyncio.Event())
            self._locks.append(name)

    def forget_starts(self, entry: tuple[str, str, str]) -> None:
        """Remove the count of an event when the transaction commits."""
        self._forgotten.add(entry)

    # The port: `DatabaseTransaction`.

    async def prepare(self, isolation: str | None) -> None:
        """See `DatabaseTransaction.prepare`."""
        if isolation is not None:
            raise IsolationNotSupportedError("InMemoryDatabase", isolation)

    async def begin_reading(self, isolation: str | None) -> None:
        """See `DatabaseTransaction.begin_reading`."""
        await self.prepare(isolation)
        self._snapshot = {name: dict(table) for name, table in self.database.tables.items()}

    async def end_reading(self, error: BaseException | None) -> None:  # noqa: ARG002  # the port gives it
        """See `DatabaseTransaction.end_reading`."""
        self._snapshot = None

    async def flush(self) -> None:
        """See `DatabaseTransaction.flush`."""

    async def stage(self, events: Sequence[StagedEvent]) -> None:
        """See `DatabaseTransaction.stage`."""
        pending, limit = len(self.database.outbox), self._max_pending
        adding = 0 if limit is None else count_waiting(events, limit)
        if limit is not None and adding and pending + adding > limit:
            raise OutboxFullError("InMemoryDatabase", pending, limit)
        check_ids(events, self.database.waiting)
        self._staged = list(events)

    async def commit_transaction(self, transaction_id: str) -> None:  # noqa: ARG002  # the port gives it
        """See `DatabaseTransaction.commit_transaction`."""
        database = self.database
        database.check_available()
        check_ids(self._staged, database.waiting)  # another transaction may have committed since they were staged
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
        if self._staged:
            database.woken.set()
        self._cancelled = []
        self._forget()

    async def roll_back_transaction(self) -> None:
        """See `DatabaseTransaction.roll_back_transaction`."""
        self._forget()

    async def set_savepoint(self) -> Any:
        """See `DatabaseTransaction.set_savepoint`."""
        changes = {name: copy.copy(changes) for name, changes in self._changes.items()}
        return changes, set(self._inbox), len(self._cancelled)

    async def release_savepoint(self, savepoint: Any) -> None:
        """See `DatabaseTransaction.release_savepoint`."""

    async def roll_back_to_savepoint(self, savepoint: Any) -> None:
        """See `DatabaseTransaction.roll_back_to_savepoint`."""
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
