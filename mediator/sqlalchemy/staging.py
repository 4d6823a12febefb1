"""Staging: one INSERT that numbers the events of a transaction, in the order of commits for each ordered key.

A row's sequence is drawn when it is inserted, but seen when its transaction commits. Two transactions that insert for one
key must therefore not overlap from there on. SQLite has one writer. On PostgreSQL the statement first takes an advisory
lock for each ordered key, which ends with the transaction; since it is the last statement before COMMIT, the lock is held
for one round trip.
"""

import zlib
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Insert, Integer, String, Text, bindparam, column, func, insert, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from mediator.distributed.staging import StagedEvent, check_ids
from mediator.errors import EventIdConflictError
from mediator.sqlalchemy.envelope import ENVELOPE, columns_of
from mediator.sqlalchemy.schema import outbox

LOCKS = 0x6D656469
"""The first of the two numbers of our advisory locks on PostgreSQL; the second stands for the key."""

_KEY_OF_IDS = "(id)="
"""How PostgreSQL begins to say which id it has, in any language."""
_COLUMNS = (*ENVELOPE, "deliver_at")
_SQLITE_ROWS = 1000
"""Of one statement: an SQLite of any build takes 32,766 parameters (https://www.sqlite.org/limits.html)."""


async def stage_events(connection: AsyncConnection, events: Sequence[StagedEvent]) -> None:
    """Insert events into the outbox, numbered in the order given.

    One statement and one round trip whatever their number on PostgreSQL; one for 1,000 events on SQLite.

    Raises:
        EventIdConflictError: One has the id of another, or of an event that is in the outbox.
    """
    try:
        await _insert(connection, events)
    except IntegrityError as error:
        cause = error.orig  # without the statement, and what an engine shows of the values in it
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
    """The numbers of the locks of all ordered keys.

    Each once, and sorted, so that two transactions never wait for each other at the same time. Two keys that share a number
    wait for each other without need, and do no harm.
    """
    keys = {event.ordered_key for event in events} - {None}
    return sorted({zlib.crc32(str(key).encode()) - 2**31 for key in keys})


def _row(staged: StagedEvent) -> dict[str, Any]:
    at = staged.deliver_at
    return {**columns_of(staged.event), "deliver_at": None if at is None else at.timestamp()}


@cache
def _from_arrays() -> Insert:
    """`INSERT ... SELECT` from one array a column, behind the locks.

    PostgreSQL draws the numbers after sorting. The locks come before: their CTE is materialized, hence run to its end, and
    read by the condition on which each row depends; one that nothing reads would not be run at all.
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
    """Without a length: a cast to `VARCHAR(64)` would cut a text that is too long, where INSERT refuses it."""
    kind = outbox.c[name].type
    return Text() if isinstance(kind, String) else kind


@lru_cache(maxsize=64)
def _values(rows: int) -> str:
    row = f"({', '.join('?' * len(_COLUMNS))})"
    return f"INSERT INTO {outbox.name} ({', '.join(_COLUMNS)}) VALUES {', '.join([row] * rows)}"  # noqa: S608  (no data)


def _is_about_ids(error: BaseException | None) -> bool:
    """Whether the outbox has an id already: neither a place in it, nor anything in a table of the application."""
    cause = getattr(error, "__cause__", None)  # that of asyncpg
    if getattr(cause, "table_name", None) == outbox.name:
        names_ids = f"{_KEY_OF_IDS}(" in str(getattr(cause, "detail", None))
        return names_ids or getattr(cause, "constraint_name", None) == f"{outbox.name}_id_key"
    return str(error) == f"UNIQUE constraint failed: {outbox.name}.id"


def _named_in(error: BaseException | None, ids: Sequence[str]) -> tuple[str, ...]:
    """The id that PostgreSQL names; it does not to a role that may only insert, and SQLite never does."""
    detail: str | None = getattr(getattr(error, "__cause__", None), "detail", None)
    value = (detail or "").partition(f"{_KEY_OF_IDS}(")[2]
    named = sorted((event_id for event_id in ids if value.startswith(f"{event_id})")), key=len)
    return tuple(named[-1:])
