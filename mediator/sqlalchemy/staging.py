"""Staging: inserts the events of a transaction into the outbox. Each event gets a number, the sequence.

For each ordered key (a partition key whose events keep their order), the sequences follow the order of commits.

INSERT assigns the sequence, but other transactions see the row only after COMMIT. Two transactions that insert events
of one ordered key must therefore not overlap between INSERT and COMMIT. On SQLite, transactions cannot overlap, since
there is only one writer. On PostgreSQL, the INSERT first takes an advisory lock for each ordered key. The end of the
transaction releases these locks. The INSERT is the last statement before COMMIT, so the locks are held only for one
round trip.
"""

import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Insert, Integer, String, Text, bindparam, column, func, insert, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from mediator.distributed.unit_of_work import StagedEvent, check_ids
from mediator.errors import EventIdConflictError, OutboxFullError
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.schema import ENVELOPE, columns_of, outbox

LOCKS = 0x6D656469
"""The first number of this library's advisory locks on PostgreSQL. The second number is a hash of the key."""

_KEY_OF_IDS = "(id)="
"""The text before the id in PostgreSQL's error detail. This text is the same in every language."""
_COLUMNS = (*ENVELOPE, "deliver_at")
_SQLITE_ROWS = 1000
"""The largest number of rows in a statement. SQLite allows 32,766 parameters (https://www.sqlite.org/limits.html)."""


async def stage_events(connection: AsyncConnection, events: Sequence[StagedEvent]) -> None:
    """Insert events into the outbox, numbered in the given order.

    PostgreSQL needs one statement for any number of events. SQLite needs one statement for each 1,000 events. If two of
    the events have the same id, or if an id is already in the outbox, an `EventIdConflictError` is raised.
    """
    try:
        await _insert(connection, events)
    except IntegrityError as error:
        cause = error.orig  # the driver's error, which does not show the statement and its values
        if not _is_about_ids(cause):
            raise
        check_ids(events)
        ids = [each.event.id for each in events]
        raise EventIdConflictError(_named_in(cause, ids) or tuple(ids)) from cause


async def _insert(connection: AsyncConnection, events: Sequence[StagedEvent]) -> None:
    rows = [_row(event) for event in events]
    if connection.dialect.name == "postgresql":
        arrays: dict[str, Any] = {name: [row[name] for row in rows] for name in _COLUMNS}
        await connection.execute(_from_arrays(), arrays | {"locks": lock_numbers(events)})
        return
    for first in range(0, len(rows), _SQLITE_ROWS):
        chunk = rows[first : first + _SQLITE_ROWS]
        await connection.exec_driver_sql(_values(len(chunk)), tuple(row[name] for row in chunk for name in _COLUMNS))


def lock_numbers(events: Iterable[StagedEvent]) -> list[int]:
    """Return the lock numbers of the ordered keys, without duplicates and in ascending order.

    The ascending order prevents deadlocks between two transactions. If two keys have the same number, transactions with
    these keys wait for each other needlessly, but without harm.
    """
    keys = {event.locked_key for event in events} - {None}
    return sorted({zlib.crc32(str(key).encode()) - 2**31 for key in keys})


def _row(staged: StagedEvent) -> dict[str, Any]:
    at = staged.deliver_at
    return {**columns_of(staged.event), "deliver_at": None if at is None else at.timestamp()}


@cache
def _from_arrays() -> Insert:
    """Return an `INSERT ... SELECT` that first takes the locks. The rows come from one array for each column.

    PostgreSQL first executes the materialized CTE `locks` completely, then sorts the rows, and finally assigns the
    sequences. The WHERE condition reads the CTE, since PostgreSQL does not execute a CTE that nothing reads.
    """
    numbers = func.unnest(bindparam("locks", type_=ARRAY(Integer))).table_valued(column("number", Integer), name="keys")
    lock = func.pg_advisory_xact_lock(literal(LOCKS, Integer), numbers.render_derived().c.number)
    locks = select(func.count(lock).label("held")).cte("locks").prefix_with("MATERIALIZED", dialect="postgresql")
    arrays = (bindparam(name, type_=ARRAY(_type_of(name))) for name in _COLUMNS)
    columns = (column(name, _type_of(name)) for name in _COLUMNS)
    values = func.unnest(*arrays).table_valued(*columns, with_ordinality="place", name="events").render_derived()
    chosen = select(*(values.c[name] for name in _COLUMNS))
    chosen = chosen.where(select(locks.c.held).scalar_subquery() >= 0).order_by(values.c.place)
    return insert(outbox).from_select(_COLUMNS, chosen, include_defaults=False)


def _type_of(name: str) -> TypeEngine[Any]:
    """Return the type of a column without its length.

    A cast to `VARCHAR(64)` would truncate a longer text. After a cast to `TEXT`, INSERT raises an error instead.
    """
    kind = outbox.c[name].type
    return Text() if isinstance(kind, String) else kind


@lru_cache(maxsize=64)
def _values(rows: int) -> str:
    row = f"({', '.join('?' * len(_COLUMNS))})"
    return f"INSERT INTO {outbox.name} ({', '.join(_COLUMNS)}) VALUES {', '.join([row] * rows)}"  # noqa: S608  (no data)


def _is_about_ids(error: BaseException | None) -> bool:
    """Return whether an error is about a duplicate id in the outbox.

    Other errors are about a duplicate sequence in the outbox, or about a table of the application.
    """
    cause = getattr(error, "__cause__", None)  # asyncpg's error
    if getattr(cause, "table_name", None) == outbox.name:
        names_ids = f"{_KEY_OF_IDS}(" in str(getattr(cause, "detail", None))
        return names_ids or getattr(cause, "constraint_name", None) == f"{outbox.name}_id_key"
    return str(error) == f"UNIQUE constraint failed: {outbox.name}.id"


def _named_in(error: BaseException | None, ids: Sequence[str]) -> tuple[str, ...]:
    """Return a tuple with the duplicate id; an empty tuple when the error does not contain the id.

    Errors of SQLite never contain the id. PostgreSQL omits the id for a role that may only insert.
    """
    detail: str | None = getattr(getattr(error, "__cause__", None), "detail", None)
    value = (detail or "").partition(f"{_KEY_OF_IDS}(")[2]
    named = sorted((event_id for event_id in ids if value.startswith(f"{event_id})")), key=len)
    return tuple(named[-1:])


_COUNT_SECONDS = 1.0
"""The shortest time in seconds between two counts while the outbox does not seem to be full."""
_COUNTING_SHARE = 0.05
"""The largest share of time that is spent on counting while the outbox does not seem to be full."""
_COUNTING_SHARE_WHEN_FULL = 0.2
"""The largest share of time that is spent on counting while the outbox seems to be full."""


class Backlog:
    """Estimates how many events wait: the last count, plus the events that this process has staged since that count.

    A count reads at most one row more than the limit. While the outbox does not seem to be full, counts are at least a
    second apart, and take at most a twentieth of the time. While the outbox seems to be full, counts take at most a
    fifth of the time. Only a count notices the events of other processes. Between two counts, several processes
    together can therefore exceed the limit.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._known = 0
        self._added = 0
        self._counted = -float("inf")
        self._took = 0.0

    async def admit(self, connection: AsyncConnection, adding: int, limit: int) -> None:
        """Admit `adding` more events to the outbox, or raise an `OutboxFullError` if more than `limit` would wait."""
        age = self._clock() - self._counted
        seems_full = self._known + adding > limit
        pause = max(_COUNT_SECONDS, self._took / _COUNTING_SHARE)
        if age >= pause or (seems_full and age >= self._took / _COUNTING_SHARE_WHEN_FULL):
            await self._count(connection, limit)
        if adding and self._known + adding > limit:
            raise OutboxFullError(self._name, self._known, limit)
        self._known += adding
        self._added += adding

    async def _count(self, connection: AsyncConnection, limit: int) -> None:
        """Count the waiting events.

        The count does not see events of uncommitted transactions. Events that this process admits during the count are
        therefore added to the result.
        """
        started, added = self._clock(), self._added
        if self._counted > -float("inf"):
            self._counted = started  # keeps other tasks from counting at the same time
        waiting = select(literal(1)).select_from(outbox).where(outbox.c.deliver_at.is_(None)).limit(limit + 1)
        result = await connection.execute(select(func.count()).select_from(waiting.subquery()))
        self._known = int(result.scalar_one()) + self._added - added
        self._counted = self._clock()
        self._took = self._counted - started


_backlogs: weakref.WeakKeyDictionary[Database, Backlog] = weakref.WeakKeyDictionary()


def backlog_of(database: Database) -> Backlog:
    """Return the `Backlog` of a database. This process has one `Backlog` for each database."""
    return _backlogs.setdefault(database, Backlog(database.name))
