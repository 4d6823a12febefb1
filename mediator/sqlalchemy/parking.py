"""SqlAlchemyParking: the events that are set aside, in a table of the application's database."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mediator.distributed.parking import ParkedEvent, ParkedFilter, Parking, error_text, released_event, to_json
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import (
    ParkedEventBlockedError,
    ParkedEventConflictError,
    ParkedEventNotFoundError,
    SettingError,
    UnitOfWorkMismatchError,
)
from mediator.sqlalchemy.conditions import is_number, is_one_of_numbers, is_text
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.envelope import columns_of
from mediator.sqlalchemy.parked_row import parked_of, row_of
from mediator.sqlalchemy.schema import attempts, inbox, outbox, parked
from mediator.sqlalchemy.unit_of_work import SqlAlchemyUnitOfWork


class SqlAlchemyParking(Parking):
    """`parking = providers.Singleton(SqlAlchemyParking, engine)`, on the engine of the inbox and the unit of work.

    Each method raises `SchemaMissingError` when the tables are not there.

    Args:
        engine: From `open_engine`.
        clock: The time in seconds since the epoch.
    """

    def __init__(self, engine: AsyncEngine, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database_of(engine)
        self._clock = clock

    async def park(self, event: ParkedEvent, /) -> bool:
        """See `Parking.park`."""
        identity = {"consumer": event.consumer, "source": event.source, "event_id": event.event_id}
        row: Any = self._database.insert(inbox).values(**identity, received_at=self._clock())
        async with self._database.writing() as connection:
            if (await connection.execute(row.on_conflict_do_nothing())).rowcount != 1:
                return False
            if event.partition_key is not None:
                await lock_key(connection, event.consumer, event.partition_key)
            await connection.execute(insert(parked).values(row_of(event)))
            counted = [attempts.c[name] == value for name, value in identity.items()]
            await connection.execute(delete(attempts).where(*counted))
        return True

    async def append(self, unit_of_work: UnitOfWork, event: ParkedEvent, /) -> None:
        """See `Parking.append`.

        Raises:
            UnitOfWorkMismatchError: The unit of work is not SQLAlchemy's, or on another engine.
        """
        connection = await own_connection(self, self._database, unit_of_work)
        await connection.execute(insert(parked).values(row_of(event)))

    async def find(self, which: ParkedFilter, /, *, after: int = 0, limit: int = 100) -> Sequence[ParkedEvent]:
        """See `Parking.find`."""
        chosen = select(parked).where(_fits(which), parked.c.number > after).order_by(parked.c.number).limit(limit)
        async with self._database.reader.connect() as connection:
            return [parked_of(row) for row in await connection.execute(chosen)]

    async def count(self, which: ParkedFilter, /) -> int:
        """See `Parking.count`."""
        async with self._database.reader.connect() as connection:
            counted = await connection.execute(select(func.count()).select_from(parked).where(_fits(which)))
            return int(counted.scalar_one())

    async def get(self, number: int, /) -> ParkedEvent:
        """See `Parking.get`."""
        async with self._database.reader.connect() as connection:
            return await _get(connection, number)

    async def head(self, event: ParkedEvent, /) -> ParkedEvent | None:
        """See `Parking.head`."""
        first = select(parked).where(_lane(event)).order_by(parked.c.number).limit(1)
        async with self._database.reader.connect() as connection:
            found = (await connection.execute(first)).first()
        return None if found is None else parked_of(found)

    async def edit(
        self, number: int, /, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> ParkedEvent:
        """See `Parking.edit`."""
        async with self._database.writing() as connection:
            event = await _get(connection, number, locked=True)
            if headers is not None and event.direction == "out":
                raise SettingError("headers", sorted(headers), "an event that goes out gets its headers when it does")
            values = {
                "data": event.data if data is None else data,
                "headers": to_json(event.headers if headers is None else headers),
            }
            await connection.execute(update(parked).where(parked.c.number == number).values(values))
            return await _get(connection, number)

    async def take(self, unit_of_work: UnitOfWork, number: int, /) -> ParkedEvent:
        """See `Parking.take`.

        Raises:
            UnitOfWorkMismatchError: The unit of work is not SQLAlchemy's.
        """
        return await _take(await own_connection(self, self._database, unit_of_work), number)

    async def release(self, number: int, /) -> ParkedEvent:
        """See `Parking.release`."""
        async with self._database.writing() as connection:
            if (await _get(connection, number)).direction != "out":
                raise ParkedEventNotFoundError(number)
            event = await _take(connection, number)
            row = self._database.insert(outbox).values(sequence=event.sequence, **columns_of(released_event(event)))
            while (await connection.execute(row.on_conflict_do_nothing())).rowcount != 1:
                await _check_absent(connection, event)  # what was in the way may have been sent meanwhile
        self._database.wake()
        return event

    async def note_failure(self, number: int, error: BaseException, /) -> None:
        """See `Parking.note_failure`."""
        values = {"error": error_text(error), "attempts": parked.c.attempts + 1}
        async with self._database.writing() as connection:
            await connection.execute(update(parked).where(parked.c.number == number).values(values))

    async def discard(self, number: int, /) -> ParkedEvent:
        """See `Parking.discard`."""
        async with self._database.writing() as connection:
            event = await _get(connection, number)
            if event.partition_key is not None:
                await lock_key(connection, event.consumer, event.partition_key)
            await _remove(connection, number)
        if event.direction == "out":
            self._database.wake()
        return event


async def own_connection(part: object, database: Database, unit_of_work: UnitOfWork) -> AsyncConnection:
    """The connection of a unit of work's running transaction, on the database of an adapter.

    Raises:
        UnitOfWorkMismatchError: The unit of work is not SQLAlchemy's, or on another engine.
    """
    if not isinstance(unit_of_work, SqlAlchemyUnitOfWork):
        raise UnitOfWorkMismatchError(part, unit_of_work)
    connection = await unit_of_work.connection()
    if connection.engine.pool is not database.engine.pool:
        raise UnitOfWorkMismatchError(part, unit_of_work)
    return connection


def is_key_parked(consumer: str, key: str) -> ColumnElement[bool]:
    """Whether an event that came in for a consumer, with a key, is parked."""
    return exists(
        select(literal(1)).where(
            parked.c.consumer == consumer, parked.c.partition_key == key, parked.c.direction == "in"
        )
    )


async def lock_key(connection: AsyncConnection, consumer: str, key: str) -> None:
    """Hold the lock of a consumer's key until the transaction ends; on SQLite the writer's turn is that lock."""
    if connection.dialect.name == "postgresql":
        digest = hashlib.sha256(f"mediator.parked\0{consumer}\0{key}".encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        await connection.execute(select(func.pg_advisory_xact_lock(number)))


async def _get(connection: AsyncConnection, number: int, *, locked: bool = False) -> ParkedEvent:
    if not is_number(number):
        raise ParkedEventNotFoundError(number)
    chosen = select(parked).where(parked.c.number == number)
    found = (await connection.execute(chosen.with_for_update() if locked else chosen)).first()
    if found is None:
        raise ParkedEventNotFoundError(number)
    return parked_of(found)


async def _take(connection: AsyncConnection, number: int) -> ParkedEvent:
    event = await _get(connection, number)
    if event.partition_key is not None:
        await lock_key(connection, event.consumer, event.partition_key)
        first = select(func.min(parked.c.number)).where(_lane(event))
        head = (await connection.execute(first)).scalar()
        if head is not None and head < number:
            raise ParkedEventBlockedError(number, head)
    event = await _get(connection, number, locked=True)
    await _remove(connection, number)
    return event


async def _check_absent(connection: AsyncConnection, event: ParkedEvent) -> None:
    """Name the event in the outbox that has the id or the place of a parked one; of two, that with the id."""
    same_id, same_place = outbox.c.id == event.event_id, outbox.c.sequence == event.sequence
    chosen = select(outbox.c.id, outbox.c.partition_key)
    for condition in same_id, same_place:
        found = (await connection.execute(chosen.where(condition))).first()
        if found is not None:
            has_same_key = found.partition_key is not None and found.partition_key == event.partition_key
            raise ParkedEventConflictError(event.number, event.event_id, event.sequence, found.id, has_same_key)


async def _remove(connection: AsyncConnection, number: int) -> None:
    if (await connection.execute(delete(parked).where(parked.c.number == number))).rowcount != 1:
        raise ParkedEventNotFoundError(number)


def _lane(event: ParkedEvent) -> ColumnElement[bool]:
    if event.partition_key is None:
        return parked.c.number == event.number
    return and_(
        parked.c.direction == event.direction,
        parked.c.consumer == event.consumer,
        parked.c.partition_key == event.partition_key,
    )


def _fits(which: ParkedFilter) -> ColumnElement[bool]:
    wanted = {
        "direction": which.direction,
        "consumer": which.consumer,
        "type": which.type,
        "partition_key": which.key,
        "reason": which.reason,
    }
    conditions = [is_text(parked.c[name], value) for name, value in wanted.items() if value is not None]
    if which.numbers:
        conditions.append(is_one_of_numbers(parked.c.number, which.numbers))
    if which.since is not None:
        conditions.append(parked.c.parked_at >= which.since)
    return and_(literal(value=True), *conditions)
