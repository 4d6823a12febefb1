"""SqlAlchemyParking: stores parked events (dead letters) in a table of the application's database."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Float, Select, and_, delete, exists, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mediator.distributed.parking import (
    CLAIM_SECONDS,
    ParkedEvent,
    ParkedFilter,
    Parking,
    ParkReason,
    behind_its_key,
    error_text,
    released_event,
    to_json,
)
from mediator.distributed.starts import LastStart, Start, refusal
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import (
    ClaimLostError,
    ParkedEventBlockedError,
    ParkedEventConflictError,
    SettingError,
    misuse,
    not_found,
)
from mediator.sqlalchemy.database import Database, DatabaseClock
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.schema import attempts, columns_of, inbox, outbox, parked, parked_of, row_of
from mediator.sqlalchemy.statements import is_number, is_one_of_numbers, is_text
from mediator.sqlalchemy.unit_of_work import SqlAlchemyUnitOfWork


class SqlAlchemyParking(Parking):
    """Stores parked events (dead letters) in the database of the inbox and the unit of work.

    Declare it with the engine of the unit of work: `parking = providers.Singleton(SqlAlchemyParking, engine)`. Each
    method raises `SchemaError` when the tables do not exist. A method raises `MisuseError` for a unit of work that is
    not a `SqlAlchemyUnitOfWork` on the same engine.

    Args:
        engine: From `open_engine`.
        clock_offset: Returns seconds to add to the time of the database, for tests. The clock of this process is not
            used.
    """

    def __init__(self, engine: AsyncEngine, *, clock_offset: Callable[[], float] | None = None) -> None:
        self._database = database_of(engine)
        self._clock = DatabaseClock(self._database.dialect, clock_offset)

    async def park(self, event: ParkedEvent, /, *, due_in: float | None = None, asked: bool = False) -> bool:
        identity = {"consumer": event.consumer, "source": event.source, "event_id": event.event_id}
        row: Any = self._database.insert(inbox).values(**identity, received_at=self._clock.now())
        async with self._database.writing() as connection:
            if (await connection.execute(row.on_conflict_do_nothing())).rowcount != 1:
                return False
            await _lock_key_of(connection, event)
            if event.held_by is not None and await _is_key_parked(connection, event):
                event = behind_its_key(event)
            times = {} if due_in is None else {"due_at": self._in(due_in)}
            times |= {"asked_at": self._clock.now()} if asked else {}
            await connection.execute(insert(parked).values({**self._row(event), **times}))
            counted = [attempts.c[name] == value for name, value in identity.items()]
            await connection.execute(delete(attempts).where(*counted))
        return True

    async def append(self, unit_of_work: UnitOfWork, event: ParkedEvent, /) -> None:
        connection = await own_connection(self, self._database, unit_of_work)
        await connection.execute(insert(parked).values(self._row(event)))

    def _row(self, event: ParkedEvent) -> dict[str, Any]:
        row = row_of(event)
        return row if event.parked_at is not None else {**row, "parked_at": self._clock.now()}

    def _in(self, seconds: float) -> ColumnElement[float]:
        return self._clock.now() + literal(seconds, Float)

    async def find(
        self, which: ParkedFilter, /, *, after: int = 0, limit: int = 100, bodies: bool = True
    ) -> Sequence[ParkedEvent]:
        columns = parked.c if bodies else (each for each in parked.c if each is not parked.c.data)
        chosen = select(*columns).where(_matches(which), parked.c.number > after).order_by(parked.c.number).limit(limit)
        async with self._database.reader.connect() as connection:
            return [parked_of(row) for row in await connection.execute(chosen)]

    async def count(self, which: ParkedFilter, /) -> int:
        async with self._database.reader.connect() as connection:
            counted = await connection.execute(select(func.count()).select_from(parked).where(_matches(which)))
            return int(counted.scalar_one())

    async def get(self, number: int, /) -> ParkedEvent:
        async with self._database.reader.connect() as connection:
            return await _get(connection, number)

    async def head(self, event: ParkedEvent, /) -> ParkedEvent | None:
        first = select(parked).where(_same_ordering_key(event)).order_by(parked.c.number).limit(1)
        async with self._database.reader.connect() as connection:
            found = (await connection.execute(first)).first()
        return None if found is None else parked_of(found)

    async def edit(
        self, number: int, /, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> ParkedEvent:
        async with self._database.writing() as connection:
            event = await _get(connection, number, locked=True)
            if headers is not None and event.direction == "out":
                problem = "an outgoing event gets its headers when it is published, so they cannot be edited"
                raise SettingError("headers", sorted(headers), problem)
            values = {
                "data": event.data if data is None else data,
                "headers": to_json(event.headers if headers is None else headers),
            }
            await connection.execute(update(parked).where(parked.c.number == number).values(values))
            return await _get(connection, number)

    async def claim(self, consumer: str, /, *, held_by: str | None = None) -> ParkedEvent | None:
        choice = self._due(consumer) if held_by is None else _held(consumer, held_by)
        first = choice.limit(1).with_for_update(skip_locked=True)
        claiming = update(parked).where(parked.c.number == first.scalar_subquery()).returning(*parked.c)
        claiming = claiming.values(claim=parked.c.claim + 1, due_at=self._in(CLAIM_SECONDS), held_by=None)
        async with self._database.writing() as connection:
            found = (await connection.execute(claiming)).first()
        return None if found is None else parked_of(found)

    def _due(self, consumer: str) -> Select[int]:
        """Select the numbers of the events that are due, in the order in which they are claimed."""
        due = select(parked.c.number).where(_waits(consumer), parked.c.due_at <= self._clock.now())
        return due.order_by(parked.c.due_at, parked.c.number)

    async def holders(self, consumer: str, /) -> Sequence[str]:
        async with self._database.reader.connect() as connection:
            return sorted((await connection.execute(_holders(consumer))).scalars())

    async def let_go(self, consumer: str, held_by: str, /, *, limit: int = 1000) -> int:
        # A CTE is executed once. PostgreSQL may execute a subquery in IN several times, and then locks more rows.
        first = _held(consumer, held_by).limit(limit).with_for_update(skip_locked=True).cte("first")
        freeing = update(parked).where(parked.c.number.in_(select(first.c.number))).returning(parked.c.number)
        async with self._database.writing() as connection:
            freed = await connection.execute(freeing.values(due_at=self._clock.now(), held_by=None))
            return len(freed.all())  # SQLite's driver knows no count of a statement that begins with WITH

    async def due_in(self, consumer: str, /) -> float | None:
        seconds = select(func.min(parked.c.due_at) - self._clock.now()).where(_waits(consumer))
        async with self._database.reader.connect() as connection:
            found = (await connection.execute(seconds)).scalar_one()
        return None if found is None else max(0.0, found)

    async def start(self, event: ParkedEvent, limit: int, /, *, alone: bool = False, lasting: float = 0.0) -> Start:
        starts = select(parked.c.attempts, parked.c.last_start).where(_is_claimed(event)).with_for_update()
        async with self._database.writing() as connection:
            found = (await connection.execute(starts)).first()
            if found is None:
                raise _claim_lost(event.number)
            refused = refusal(found.attempts, LastStart(found.last_start), limit, alone=alone)
            if refused is None:
                last = LastStart.ALONE if alone else LastStart.BESIDE
                counted: dict[str, Any] = {"attempts": found.attempts + 1, "last_start": last.value}
                if self._database.dialect == "sqlite":  # SQLite has no row lock that shows that the handlers run
                    counted["due_at"] = self._in(lasting + CLAIM_SECONDS)
                await connection.execute(update(parked).where(parked.c.number == event.number).values(counted))
        return refused or Start(found.attempts + 1)

    async def postpone(
        self,
        event: ParkedEvent,
        /,
        *,
        due_in: float | None,
        reason: ParkReason = ParkReason.WAITING,
        error: str | None = None,
        started: bool = True,
        failed: bool = True,
        ended: bool = True,
        held_by: str | None = None,
        asked: bool = False,
    ) -> None:
        values = {
            "due_at": None if due_in is None else self._in(due_in),
            "reason": reason.value,
            "error": parked.c.error if error is None else error_text(error),
            "last_start": LastStart.ENDED.value if ended else parked.c.last_start,
            "attempts": parked.c.attempts - int(not started),
            "tries": parked.c.tries + int(failed),
            "held_by": held_by,
            "asked_at": func.coalesce(parked.c.asked_at, self._clock.now()) if asked else parked.c.asked_at,
        }
        async with self._database.writing() as connection:
            if (await connection.execute(update(parked).where(_is_claimed(event)).values(values))).rowcount != 1:
                raise _claim_lost(event.number)

    async def reserve(self, unit_of_work: UnitOfWork, number: int, /, *, claim: int | None = None) -> ParkedEvent:
        connection = await own_connection(self, self._database, unit_of_work)
        event = await _get(connection, number, locked=True)
        if claim is not None and event.claim != claim:
            raise _claim_lost(number)
        await _check_head(connection, event)
        return event

    async def take(self, unit_of_work: UnitOfWork, number: int, /, *, release_next: bool = False) -> ParkedEvent:
        connection = await own_connection(self, self._database, unit_of_work)
        event = await _take(connection, number, locks_next=release_next)
        if release_next:
            first = select(func.min(parked.c.number)).where(_same_ordering_key(event)).scalar_subquery()
            was_held_back = and_(parked.c.reason == ParkReason.KEY_PARKED.value, parked.c.due_at.is_(None))
            released = update(parked).where(parked.c.number == first, was_held_back).values(due_at=self._clock.now())
            await connection.execute(released)
        return event

    async def release(self, number: int, /) -> ParkedEvent:
        async with self._database.writing() as connection:
            if (await _get(connection, number)).direction != "out":
                raise not_found.not_parked(number)
            event = await _take(connection, number)
            row = self._database.insert(outbox).values(sequence=event.sequence, **columns_of(released_event(event)))
            while (await connection.execute(row.on_conflict_do_nothing())).rowcount != 1:
                await _check_absent(connection, event)  # no error if the conflicting event has left the outbox
        self._database.wake()
        return event

    async def note_failure(self, number: int, error: BaseException, /) -> None:
        values = {"error": error_text(error), "attempts": parked.c.attempts + 1}
        async with self._database.writing() as connection:
            await connection.execute(update(parked).where(parked.c.number == number).values(values))

    async def discard(self, number: int, /) -> ParkedEvent:
        async with self._database.writing() as connection:
            event = await _take(connection, number, in_order=False)
        if event.direction == "out":
            self._database.wake()
        return event


async def own_connection(part: object, database: Database, unit_of_work: UnitOfWork) -> AsyncConnection:
    """Return the connection on which `unit_of_work` runs its transaction.

    If `unit_of_work` is no `SqlAlchemyUnitOfWork` on `database`, a `MisuseError` that names the adapter `part` is raised.
    """
    if not isinstance(unit_of_work, SqlAlchemyUnitOfWork):
        raise misuse.other_unit_of_work(part, unit_of_work)
    connection = await unit_of_work.connection()
    if connection.engine.pool is not database.engine.pool:
        raise misuse.other_unit_of_work(part, unit_of_work)
    return connection


def is_key_parked(consumer: str, key: str) -> ColumnElement[bool]:
    """Return a condition that is true when an ordered incoming event of the given consumer and key is parked."""
    same_key = and_(parked.c.consumer == consumer, parked.c.partition_key == key, parked.c.direction == "in")
    return exists(select(literal(1)).where(same_key, parked.c.ordered == 1))


async def lock_key(connection: AsyncConnection, consumer: str, key: str) -> None:
    """Lock a consumer's key until the transaction ends. Do nothing on SQLite, where the writer lock is enough."""
    if connection.dialect.name == "postgresql":
        digest = hashlib.sha256(f"mediator.parked\0{consumer}\0{key}".encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        await connection.execute(select(func.pg_advisory_xact_lock(number)))


async def _lock_key_of(connection: AsyncConnection, event: ParkedEvent) -> None:
    if event.partition_key is not None and event.ordered:
        await lock_key(connection, event.consumer, event.partition_key)


async def _is_key_parked(connection: AsyncConnection, event: ParkedEvent) -> bool:
    """Return whether a parked event has the same ordering key as `event`, which is not stored yet."""
    found = await connection.execute(select(literal(1)).where(_same_ordering_key(event)).limit(1))
    return found.first() is not None


async def _get(connection: AsyncConnection, number: int, *, locked: bool = False) -> ParkedEvent:
    if not is_number(number):
        raise not_found.not_parked(number)
    chosen = select(parked).where(parked.c.number == number)
    found = (await connection.execute(chosen.with_for_update() if locked else chosen)).first()
    if found is None:
        raise not_found.not_parked(number)
    return parked_of(found)


async def _take(
    connection: AsyncConnection, number: int, *, in_order: bool = True, locks_next: bool = False
) -> ParkedEvent:
    """Remove and return a parked event. With `in_order`, the event must be the first parked event of its key.

    Every method locks the row before the key. A replay locks the row, runs the handlers, and then locks the key. If a
    transaction locked the key first and then waited for the row, the transaction and the replay would block each other.
    With `locks_next`, this function also locks the row of the key's next event before the key. The caller changes this row.
    """
    event = await _get(connection, number, locked=True)
    if locks_next:
        following = select(parked.c.number).where(_same_ordering_key(event), parked.c.number > number)
        await connection.execute(following.order_by(parked.c.number).limit(1).with_for_update())
    await _lock_key_of(connection, event)
    if in_order:
        await _check_head(connection, event)
    await connection.execute(delete(parked).where(parked.c.number == number))
    return event


async def _check_head(connection: AsyncConnection, event: ParkedEvent) -> None:
    first = select(func.min(parked.c.number)).where(_same_ordering_key(event))
    head = (await connection.execute(first)).scalar()
    if head is not None and head < event.number:
        raise ParkedEventBlockedError(event.number, head)


async def _check_absent(connection: AsyncConnection, event: ParkedEvent) -> None:
    """Raise a `ParkedEventConflictError` if the outbox has an event with the id or the sequence of the parked event."""
    same_id, same_place = outbox.c.id == event.event_id, outbox.c.sequence == event.sequence
    chosen = select(outbox.c.id, outbox.c.partition_key)
    for condition in same_id, same_place:
        found = (await connection.execute(chosen.where(condition))).first()
        if found is not None:
            has_same_key = found.partition_key is not None and found.partition_key == event.partition_key
            raise ParkedEventConflictError(event.number, event.event_id, event.sequence, found.id, has_same_key)


def _same_ordering_key(event: ParkedEvent) -> ColumnElement[bool]:
    if event.partition_key is None or not event.ordered:
        return parked.c.number == event.number
    return and_(
        parked.c.ordered == 1,
        parked.c.direction == event.direction,
        parked.c.consumer == event.consumer,
        parked.c.partition_key == event.partition_key,
    )


def _waits(consumer: str) -> ColumnElement[bool]:
    """Match the events that a consumer tries again by itself.

    SQLite uses the index `mediator_parked_by_due` only when the statement repeats the condition of the index. The
    direction is not compared, since outgoing events have no consumer. If the direction were compared, PostgreSQL would
    read all events of the consumer while the table has no statistics.
    """
    return and_(parked.c.consumer == consumer, parked.c.due_at.is_not(None))


def _is_held(consumer: str, held_by: str) -> ColumnElement[bool]:
    """Match the events that the circuit of a handler holds. As in `_waits`, the direction is not compared."""
    return and_(parked.c.consumer == consumer, parked.c.held_by == held_by)


def _held(consumer: str, held_by: str) -> Select[int]:
    """Select the numbers of the events that the circuit of a handler holds, in the order in which they are claimed."""
    return select(parked.c.number).where(_is_held(consumer, held_by)).order_by(parked.c.claim, parked.c.number)


def _holders(consumer: str) -> Select[str]:
    """Select the handlers whose circuits hold events, with one look into the index for each handler.

    Each step of the recursion looks up the first name after the name of the step before. `SELECT DISTINCT` would read
    the index entries of all held events.
    """
    names = select(func.min(parked.c.held_by).label("name")).where(parked.c.consumer == consumer)
    holders = names.where(parked.c.held_by.is_not(None)).cte("holders", recursive=True)
    following = names.where(parked.c.held_by > holders.c.name).correlate(holders).scalar_subquery()
    holders = holders.union_all(select(following).where(holders.c.name.is_not(None)))
    return select(holders.c.name).where(holders.c.name.is_not(None))


def _is_claimed(event: ParkedEvent) -> ColumnElement[bool]:
    return and_(parked.c.number == event.number, parked.c.claim == event.claim)


def _claim_lost(number: int) -> ClaimLostError:
    return ClaimLostError(f"parked event {number} was claimed again, or is no longer parked")


def _matches(which: ParkedFilter) -> ColumnElement[bool]:
    wanted = {
        "direction": which.direction,
        "consumer": which.consumer,
        "type": which.type,
        "partition_key": which.key,
        "reason": which.reason,
    }
    conditions = [is_text(parked.c[name], value) for name, value in wanted.items() if value is not None]
    if which.numbers is not None:
        conditions.append(is_one_of_numbers(parked.c.number, which.numbers))
    if which.since is not None:
        conditions.append(parked.c.parked_at >= which.since)
    if which.waiting is not None:
        waits = parked.c.due_at.is_not(None) | parked.c.held_by.is_not(None)
        conditions.append(waits if which.waiting else ~waits)
    if which.held_by is not None:
        conditions.append(is_text(parked.c.held_by, which.held_by, longest=len(which.held_by)))
    return and_(literal(value=True), *conditions)
