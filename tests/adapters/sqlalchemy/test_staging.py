"""Staging is one statement, the last before COMMIT, and numbers the events of a key in the order of commits."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import DistributedEvent, DistributedEventBroker, current_unit_of_work
from mediator.distributed.events import KeyLocking
from mediator.errors import DeclarationError
from mediator.sqlalchemy import create_schema, open_engine
from mediator.sqlalchemy.staging import Backlog
from mediator.testing.failpoints import Pause, failpoint
from tests.adapters.sqlalchemy.ledger import Do, Ledger


@dataclass(frozen=True, slots=True)
class Moved(DistributedEvent):
    event_type: ClassVar[str] = "stock.moved"
    partition_key: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Counted(DistributedEvent):
    event_type: ClassVar[str] = "stock.counted"
    key_locking: ClassVar[KeyLocking] = "row"
    partition_key: str


@pytest.fixture
async def postgres_engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(postgres_url, pool_size=40) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE entries (text TEXT)"))
        yield engine


@pytest.fixture
def shared(postgres_engine: AsyncEngine) -> Ledger:
    return Ledger(postgres_engine)


async def add(ledger: Ledger, *events: DistributedEvent) -> None:
    async def action(ledger: Ledger) -> None:
        for each in events:
            DistributedEventBroker(current_unit_of_work()).add(each)

    await ledger.send(Do(action))


@contextmanager
def statements(engine: AsyncEngine) -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements that are executed in the block; the last one is "COMMIT" when a transaction commits."""
    seen: list[tuple[str, Any]] = []

    def executed(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        seen.append((f"{'MANY ' if many else ''}{statement}", parameters))

    def committed(_connection: Any) -> None:
        seen.append(("COMMIT", None))

    event.listen(engine.sync_engine, "before_cursor_execute", executed)
    event.listen(engine.sync_engine, "commit", committed)
    try:
        yield seen
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", executed)
        event.remove(engine.sync_engine, "commit", committed)


@pytest.mark.parametrize("count", [1, 2, 1000])
async def test_events_are_inserted_by_one_statement_just_before_the_commit(ledger: Ledger, count: int) -> None:
    with statements(ledger.engine) as seen:
        await add(ledger, *(Moved(f"key {number % 7}", number) for number in range(count)))
    inserts = [statement for statement, _ in seen if "INSERT INTO mediator_outbox" in statement]
    assert len(inserts) == 1
    assert not inserts[0].startswith("MANY")
    assert [statement for statement, _ in seen][-2:] == [inserts[0], "COMMIT"]


async def test_many_events_are_a_few_statements_on_sqlite(ledger: Ledger) -> None:
    with statements(ledger.engine) as seen:
        await add(ledger, *(Moved("k", number) for number in range(4001)))
    assert sum("INSERT INTO mediator_outbox" in statement for statement, _ in seen) == (
        5 if ledger.engine.dialect.name == "sqlite" else 1
    )
    assert await ledger.outbox.pending() == 4001


@pytest.mark.thorough("waits in real time, or does much work")
async def test_very_many_events_are_one_statement_on_postgresql(shared: Ledger) -> None:
    await add(shared, *(Moved("k", number) for number in range(40_000)))
    async with shared.outbox.claim(40_000) as batch:
        assert [each.data for each in batch.events] == [
            b'{"partition_key":"k","number":%d}' % number for number in range(40_000)
        ]


@pytest.mark.parametrize("locking", ["stern", None, 1, ""])
def test_an_unknown_key_locking_is_refused_when_the_event_is_declared(locking: Any) -> None:
    wrong = type("Wrong", (DistributedEvent,), {"event_type": "stock.wrong", "key_locking": locking})
    with pytest.raises(DeclarationError, match="has the key_locking"):
        DistributedEventBroker(None).add(wrong())  # type: ignore[arg-type]


async def test_postgresql_takes_the_key_locks_before_it_draws_sequence_numbers(shared: Ledger) -> None:
    """The query plan shows it: numbers are drawn for rows that pass a condition, and the condition reads all locks."""
    captured: list[tuple[str, Any]] = []
    with statements(shared.engine) as seen:
        await add(shared, Moved("b", 1), Moved("a", 2), Moved("b", 3))
        captured = [(sql, values) for sql, values in seen if "pg_advisory_xact_lock" in sql]
    [(sql, values)] = captured
    async with shared.engine.connect() as connection:
        await connection.execute(text("DELETE FROM mediator_outbox"))
        rows = await connection.exec_driver_sql(f"EXPLAIN (VERBOSE, ANALYZE, COSTS OFF, TIMING OFF) {sql}", values)
        plan = [str(line) for (line,) in rows]
    numbers, condition, locks = (
        next(index for index, line in enumerate(plan) if all(part in line for part in parts))
        for parts in (["Output: nextval"], ["Filter", ">= 0"], ["CTE Scan on locks"])
    )
    assert numbers < condition < locks, plan
    assert any("Function Scan" in line and "rows=2 " in line for line in plan), plan  # each key once


async def test_a_strict_event_waits_for_the_commit_of_its_predecessor(shared: Ledger) -> None:
    await _overtaking(shared, Moved("k", 1), Moved("k", 2), overtakes=False)


async def test_an_event_with_another_key_does_not_wait(shared: Ledger) -> None:
    await _overtaking(shared, Moved("k", 1), Moved("other", 2), overtakes=True)


async def test_an_event_with_row_ordering_takes_no_key_lock(shared: Ledger) -> None:
    await _overtaking(shared, Counted("k"), Counted("k"), overtakes=True)


async def _overtaking(ledger: Ledger, first: DistributedEvent, second: DistributedEvent, *, overtakes: bool) -> None:
    """Return whether a transaction can commit while another one has stored its events but not committed."""
    before_commit = Pause()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        with failpoint("unit_of_work.before_commit", before_commit):
            slow = group.create_task(add(ledger, first))
            await before_commit.reached.wait()
        fast = group.create_task(add(ledger, second))
        if overtakes:
            await fast
            assert not slow.done()
        else:
            await _until_somebody_waits_for_a_lock(ledger.engine)
            assert not fast.done()
        before_commit.release()
    assert await ledger.outbox.pending() == 2


async def _until_somebody_waits_for_a_lock(engine: AsyncEngine) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")
    while True:
        async with engine.connect() as connection:
            if (await connection.execute(waiting)).scalar_one():
                return
        await asyncio.sleep(0.01)


@pytest.mark.thorough("waits in real time, or does much work")
async def test_thirty_two_writers_never_let_an_earlier_number_of_a_key_appear_later(shared: Ledger) -> None:
    """The commands only insert, so only the library orders the transactions, and each waits before its commit."""
    rng = random.Random(1)
    keys = [f"key {number}" for number in range(4)]
    inversions, seen, highest, done = [], set[int](), dict[str, int](), asyncio.Event()

    async def dawdle() -> None:
        await asyncio.sleep(rng.uniform(0, 0.004))

    async def write() -> None:
        for number in range(10):
            await add(shared, *(Moved(key, number) for key in rng.sample(keys, rng.randint(1, 3))))

    async def look() -> None:
        rows = text("SELECT sequence, partition_key FROM mediator_outbox ORDER BY sequence")
        while True:
            last = done.is_set()
            async with shared.engine.connect() as connection:
                new = [row for row in await connection.execute(rows) if row.sequence not in seen]
            inversions.extend(row for row in new if row.sequence < highest.get(row.partition_key, 0))
            seen.update(row.sequence for row in new)
            highest.update({row.partition_key: row.sequence for row in new})
            if last:
                return

    with failpoint("unit_of_work.before_commit", dawdle):
        async with asyncio.TaskGroup() as observers:
            observers.create_task(look())
            async with asyncio.TaskGroup() as writers:
                for _ in range(32):
                    writers.create_task(write())
            done.set()
    assert len(seen) >= 320
    assert inversions == []


async def test_transactions_with_the_same_keys_in_different_order_do_not_deadlock(shared: Ledger) -> None:
    keys = [f"key {number}" for number in range(6)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(40):
            chosen = random.Random(number).sample(keys, 6)
            group.create_task(add(shared, *(Moved(key) for key in chosen)))
    assert await shared.outbox.pending() == 240


# The size of the outbox.


async def test_counting_takes_little_time_for_any_number_of_commands(shared: Ledger) -> None:
    now = 0.0
    backlog = Backlog("test", clock=lambda: now)
    async with shared.engine.connect() as connection:
        with statements(shared.engine) as seen:
            for _ in range(100):
                now += 0.1
                await backlog.admit(connection, 1, 1_000_000)
    assert len(seen) == 10


async def test_events_of_other_processes_are_counted_after_a_second(shared: Ledger) -> None:
    now = 0.0
    backlog = Backlog("test", clock=lambda: now)
    async with shared.engine.connect() as connection:
        await backlog.admit(connection, 1, 2)
        await add(shared, Moved("k"), Moved("k"))
        await backlog.admit(connection, 1, 2)
        now = 1.0
        with pytest.raises(Exception, match="3 events|2 events"):
            await backlog.admit(connection, 1, 2)
