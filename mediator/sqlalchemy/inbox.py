"""SqlAlchemyInbox: stores the inbox and the number of handler starts in tables of the application's database."""

import os
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, case, delete, exists, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mediator.distributed.inbox import CLOCK_MARGIN, Admission, Inbox, LastStart, Start, refusal
from mediator.distributed.storable import LONGEST_GROUP, is_storable, text_or_hash
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import MediatorError, SettingError
from mediator.settings import check_positive
from mediator.sqlalchemy.database import DatabaseClock
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.parking import is_key_parked, lock_key, own_connection
from mediator.sqlalchemy.schema import attempts, idempotency, inbox, parked
from mediator.sqlalchemy.statements import delete_some

_IDENTITY = ("consumer", "source", "event_id")
_PROBE_BYTES = 262_144
"""The size of the row with which `takes_writes` tests whether the disk has free space."""


class SqlAlchemyInbox(Inbox):
    """Stores the inbox in the database of the unit of work.

    Declare it with the engine of the unit of work: `inbox = providers.Singleton(SqlAlchemyInbox, engine)`. A source or
    an id with more than 255 characters or with unprintable characters is stored as a hash. Each method except `answers`
    and `takes_writes` raises `SchemaError` when the tables do not exist. A method raises `SettingError` for a
    consumer's name with more than 64 characters or a NUL character. A method raises `MisuseError` for a unit of work
    that is not a `SqlAlchemyUnitOfWork` on the same engine.

    Args:
        engine: From `open_engine`.
        keep_seconds: How long events are remembered, in seconds; 8 days by default. Use one day more than the time for
            which the broker keeps events.
        clock_offset: Returns seconds to add to the time of the database, for tests. The clock of this process is not
            used.

    Raises:
        SettingError: `keep_seconds` is not a positive number.
    """

    def __init__(
        self, engine: AsyncEngine, *, keep_seconds: float = 8 * 86400, clock_offset: Callable[[], float] | None = None
    ) -> None:
        check_positive(keep_seconds=keep_seconds)
        self._database = database_of(engine)
        self.keep_seconds: float = keep_seconds
        self._clock = DatabaseClock(self._database.dialect, clock_offset)

    @property
    def application(self) -> str | None:
        return self._database.application

    async def insert(
        self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /, *, key: str | None = None
    ) -> Admission:
        connection = await own_connection(self, self._database, unit_of_work)
        values = dict(zip(_IDENTITY, _fitting(consumer, source, event_id), strict=True))
        row: Any = self._database.insert(inbox).values(**values, received_at=self._clock.now())
        statement, key = row.on_conflict_do_nothing(), None if key is None else text_or_hash(key)
        if key is None:
            inserted = (await connection.execute(statement)).rowcount == 1
            return Admission.NEW if inserted else Admission.DUPLICATE
        found = (await connection.execute(statement.returning(is_key_parked(consumer, key)))).first()
        if found is None:
            return Admission.DUPLICATE
        return await self._admit_parked_key(connection, consumer, key) if found[0] else Admission.NEW

    async def _admit_parked_key(self, connection: AsyncConnection, consumer: str, key: str) -> Admission:
        """Return the admission of a new event. A query has already found parked events with the same key.

        This method locks the key and repeats the query, since a replay may be removing the last of these parked events.
        """
        await lock_key(connection, consumer, key)
        parked = (await connection.execute(select(is_key_parked(consumer, key)))).scalar_one()
        return Admission.KEY_PARKED if parked else Admission.NEW

    async def contains(self, consumer: str, source: str, event_id: str, /, *, since: datetime | None = None) -> bool:
        async with self._database.reader.connect() as connection:
            return await _is_in(connection, _fitting(consumer, source, event_id), since)

    async def start(self, consumer: str, source: str, event_id: str, limit: int, /, *, alone: bool = False) -> Start:
        row = _fitting(consumer, source, event_id)
        async with self._database.writing() as connection:
            if await _is_in(connection, row):
                return Start(0, taken=True)
            refused = refusal(*await _last_start(connection, row), limit, alone=alone)
            if refused is not None:
                return refused
            last = LastStart.ALONE if alone else LastStart.BESIDE
            return Start((await connection.execute(self._count(row, 2, attempts.c.attempts + 1, last))).scalar_one())

    async def end(self, consumer: str, source: str, event_id: str, attempt: int, /) -> None:
        async with self._database.writing() as connection:
            row = _fitting(consumer, source, event_id)
            await connection.execute(self._count(row, attempt, attempts.c.attempts, LastStart.ENDED))

    async def take_back(self, consumer: str, source: str, event_id: str, /) -> None:
        lowered = case((attempts.c.attempts > 0, attempts.c.attempts - 1), else_=0)
        async with self._database.writing() as connection:
            row = _fitting(consumer, source, event_id)
            await connection.execute(self._count(row, 0, lowered, LastStart.ENDED))

    def _count(self, row: tuple[str, str, str], first: int, then: ColumnElement[int], last: LastStart) -> Any:
        """Return a statement that stores the number of starts: `first` in a new row, `then` in an existing row."""
        written = {"started_at": self._clock.now(), "last_start": last.value}
        identity = dict(zip(_IDENTITY, row, strict=True))
        statement: Any = self._database.insert(attempts).values(**identity, attempts=first, **written)
        return statement.on_conflict_do_update(index_elements=_IDENTITY, set_={"attempts": then, **written}).returning(
            attempts.c.attempts
        )

    async def forget_starts(self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /) -> None:
        connection = await own_connection(self, self._database, unit_of_work)
        await connection.execute(delete(attempts).where(_is(attempts, _fitting(consumer, source, event_id))))

    async def clean(self, limit: int, /) -> int:
        async with self._database.writing() as connection:
            old = and_(inbox.c.received_at < self._clock.now() - self.keep_seconds, ~_is_parked())
            cleaned = await delete_some(connection, inbox, old, limit)
            old = attempts.c.started_at < self._clock.now() - self.keep_seconds
            return cleaned + await delete_some(connection, attempts, old, limit - cleaned)

    async def answers(self) -> bool:
        try:
            async with self._database.reader.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (DBAPIError, MediatorError, OSError):
            return False
        return True

    async def takes_writes(self) -> bool:
        """Return whether the database can commit a row of 256 KiB. The committed row is deleted again.

        A small row would prove little, since a file on a full disk often has space for a small row. A rollback in place
        of the commit would prove nothing, since a rollback does not write to the disk.
        """
        key = f"room for {uuid.uuid4()}"
        row = {"key": key, "fingerprint": "", "response": os.urandom(_PROBE_BYTES), "created_at": self._clock.now()}
        try:
            async with self._database.writing() as connection:
                await connection.execute(self._database.insert(idempotency).values(row))
            async with self._database.writing() as connection:
                await connection.execute(delete(idempotency).where(idempotency.c.key == key))
        except (DBAPIError, MediatorError, OSError):
            return False
        return True


def _is_parked() -> ColumnElement[bool]:
    """Return a condition that is true for the inbox row of a parked event.

    The inbox row is kept while the event is parked. Without the row, a second delivery of the event would not be
    recognized, and the event could take effect twice.
    """
    same = and_(*(parked.c[name] == inbox.c[name] for name in _IDENTITY))
    return exists(select(1).select_from(parked).where(same, parked.c.direction == "in").correlate(inbox))


def _fitting(consumer: str, source: str, event_id: str) -> tuple[str, str, str]:
    """Return the primary key of an event's row. A hash replaces a source or an id that does not fit its column."""
    if not is_storable(consumer, LONGEST_GROUP):
        raise SettingError("consumer", consumer, f"use at most {LONGEST_GROUP} characters, and no NUL")
    return consumer, text_or_hash(source), text_or_hash(event_id)


def _is(table: Table, row: tuple[str, str, str]) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in zip(_IDENTITY, row, strict=True)))


async def _last_start(connection: AsyncConnection, row: tuple[str, str, str]) -> tuple[int, LastStart]:
    starts = select(attempts.c.attempts, attempts.c.last_start).where(_is(attempts, row))
    found = (await connection.execute(starts)).first()
    return (1, LastStart.BESIDE) if found is None else (found[0], LastStart(found[1]))


async def _is_in(connection: AsyncConnection, row: tuple[str, str, str], since: datetime | None = None) -> bool:
    found = (await connection.execute(select(inbox.c.received_at).where(_is(inbox, row)))).scalar()
    return found is not None and (since is None or found >= since.timestamp() - CLOCK_MARGIN)
