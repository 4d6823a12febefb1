"""SqlAlchemyInbox: the inbox, and the counts of starts, in tables of the application's database."""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, case, delete, exists, select, text, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mediator.distributed.bounds import check_positive
from mediator.distributed.identity import fitting, is_storable
from mediator.distributed.inbox import Admission, Inbox, LastStart, Start, refusal
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import MediatorError, SettingError
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.parking import is_key_parked, lock_key, own_connection
from mediator.sqlalchemy.schema import attempts, inbox, parked

_IDENTITY = ("consumer", "source", "event_id")
_LONGEST_CONSUMER = 64


class SqlAlchemyInbox(Inbox):
    """`inbox = providers.Singleton(SqlAlchemyInbox, engine)`, on the engine of the unit of work.

    A source or an id that no column takes (longer than 255 characters, or with such as cannot be printed) is known by its
    hash. Each method raises `SchemaMissingError` when the tables are not there, but for `answers`.

    Args:
        engine: From `open_engine`.
        keep_seconds: How long events are remembered: a day longer than the stream keeps them; 8 days.
        clock: The time in seconds since the epoch.

    Raises:
        SettingError: A number cannot work.
    """

    def __init__(
        self, engine: AsyncEngine, *, keep_seconds: float = 8 * 86400, clock: Callable[[], float] = time.time
    ) -> None:
        check_positive(keep_seconds=keep_seconds)
        self._database = database_of(engine)
        self.keep_seconds: float = keep_seconds
        self._clock = clock

    async def insert(
        self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /, *, key: str | None = None
    ) -> Admission:
        """See `Inbox.insert`.

        Raises:
            UnitOfWorkMismatchError: The unit of work is not SQLAlchemy's.
            SettingError: The consumer's name is longer than 64 characters, or has a NUL character.
        """
        connection = await own_connection(self, self._database, unit_of_work)
        values = dict(zip(_IDENTITY, _fitting(consumer, source, event_id), strict=True))
        row: Any = self._database.insert(inbox).values(**values, received_at=self._clock())
        statement, key = row.on_conflict_do_nothing(), None if key is None else fitting(key)
        if key is None:
            inserted = (await connection.execute(statement)).rowcount == 1
            return Admission.NEW if inserted else Admission.DUPLICATE
        found = (await connection.execute(statement.returning(is_key_parked(consumer, key)))).first()
        if found is None:
            return Admission.DUPLICATE
        return await self._behind(connection, consumer, key) if found[0] else Admission.NEW

    async def _behind(self, connection: AsyncConnection, consumer: str, key: str) -> Admission:
        """Look again under the key's lock: the last event before this one may just be being replayed."""
        await lock_key(connection, consumer, key)
        parked = (await connection.execute(select(is_key_parked(consumer, key)))).scalar_one()
        return Admission.KEY_PARKED if parked else Admission.NEW

    async def contains(self, consumer: str, source: str, event_id: str, /) -> bool:
        """See `Inbox.contains`."""
        async with self._database.reader.connect() as connection:
            return await _is_in(connection, _fitting(consumer, source, event_id))

    async def start(self, consumer: str, source: str, event_id: str, limit: int, /, *, alone: bool = False) -> Start:
        """See `Inbox.start`."""
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
        """See `Inbox.end`."""
        async with self._database.writing() as connection:
            row = _fitting(consumer, source, event_id)
            await connection.execute(self._count(row, attempt, attempts.c.attempts, LastStart.ENDED))

    async def take_back(self, consumer: str, source: str, event_id: str, /) -> None:
        """See `Inbox.take_back`."""
        lowered = case((attempts.c.attempts > 0, attempts.c.attempts - 1), else_=0)
        async with self._database.writing() as connection:
            row = _fitting(consumer, source, event_id)
            await connection.execute(self._count(row, 0, lowered, LastStart.ENDED))

    def _count(self, row: tuple[str, str, str], first: int, then: ColumnElement[int], last: LastStart) -> Any:
        written = {"started_at": self._clock(), "last_start": last.value}
        identity = dict(zip(_IDENTITY, row, strict=True))
        statement: Any = self._database.insert(attempts).values(**identity, attempts=first, **written)
        return statement.on_conflict_do_update(index_elements=_IDENTITY, set_={"attempts": then, **written}).returning(
            attempts.c.attempts
        )

    async def forget_starts(self, unit_of_work: UnitOfWork, consumer: str, source: str, event_id: str, /) -> None:
        """See `Inbox.forget_starts`."""
        connection = await own_connection(self, self._database, unit_of_work)
        await connection.execute(delete(attempts).where(_is(attempts, _fitting(consumer, source, event_id))))

    async def clean(self, limit: int, /) -> int:
        """See `Inbox.clean`."""
        async with self._database.writing() as connection:
            old = and_(inbox.c.received_at < self._clock() - self.keep_seconds, ~_is_parked())
            cleaned = await self._clean(connection, inbox, old, limit)
            old = attempts.c.started_at < self._clock() - self.keep_seconds
            return cleaned + await self._clean(connection, attempts, old, limit - cleaned)

    async def _clean(
        self, connection: AsyncConnection, table: Table, condition: ColumnElement[bool], limit: int
    ) -> int:
        identity = [table.c[name] for name in _IDENTITY]
        old = select(*identity).where(condition).limit(limit)
        return (await connection.execute(delete(table).where(tuple_(*identity).in_(old)))).rowcount

    async def answers(self) -> bool:
        """See `Inbox.answers`."""
        try:
            async with self._database.reader.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (DBAPIError, MediatorError, OSError):
            return False
        return True


def _is_parked() -> ColumnElement[bool]:
    """Whether the event of an inbox row is parked: it would take effect a second time if it came again meanwhile."""
    same = and_(*(parked.c[name] == inbox.c[name] for name in _IDENTITY))
    return exists(select(1).select_from(parked).where(same, parked.c.direction == "in").correlate(inbox))


def _fitting(consumer: str, source: str, event_id: str) -> tuple[str, str, str]:
    """The key of a row, whatever a foreign producer calls its events."""
    if not is_storable(consumer, _LONGEST_CONSUMER):
        raise SettingError("consumer", consumer, f"use at most {_LONGEST_CONSUMER} characters, and no NUL")
    return consumer, fitting(source), fitting(event_id)


def _is(table: Table, row: tuple[str, str, str]) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in zip(_IDENTITY, row, strict=True)))


async def _last_start(connection: AsyncConnection, row: tuple[str, str, str]) -> tuple[int, LastStart]:
    found = (
        await connection.execute(select(attempts.c.attempts, attempts.c.last_start).where(_is(attempts, row)))
    ).first()
    return (1, LastStart.BESIDE) if found is None else (found[0], LastStart(found[1]))


async def _is_in(connection: AsyncConnection, row: tuple[str, str, str]) -> bool:
    return (await connection.execute(select(inbox.c.received_at).where(_is(inbox, row)))).first() is not None
