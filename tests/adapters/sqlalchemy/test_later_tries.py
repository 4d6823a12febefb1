"""Later tries in a database: concurrent claims, reserved rows, the next event of a key, and what a claim costs."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.parking import CLAIM_SECONDS, ParkedEvent, ParkedFilter, ParkReason
from mediator.sqlalchemy import SqlAlchemyParking, open_engine, schema
from mediator.sqlalchemy.parking import lock_key
from mediator.testing.conformance.storage import GROUP, parked_event
from tests.adapters.sqlalchemy.ledger import Do, Ledger, postgresql_only, sqlite_only

_FEW_PAGES = 60
"""More pages than a claim reads through the index, and far fewer than the pages of 20,000 rows."""


@pytest.fixture
def parking(engine: AsyncEngine) -> SqlAlchemyParking:
    return SqlAlchemyParking(engine)


async def fill(engine: AsyncEngine, first: int, end: int, due_at: Callable[[int], float | None]) -> None:
    numbers = range(first, end)
    rows = [schema.row_of(parked_event(f"{each}", f"key-{each}", due_at=due_at(each))) for each in numbers]
    async with engine.begin() as connection:
        await connection.execute(insert(schema.parked), rows)


async def plan_of_a_claim(parking: SqlAlchemyParking, engine: AsyncEngine, explain: str) -> str:
    """Claim an event, and return the plan with which the database executes the statement of the claim again."""
    executed: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("UPDATE mediator_parked"):
            executed.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        assert await parking.claim(GROUP) is not None
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)
    ((statement, parameters),) = executed
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in rows)


async def blocked(engine: AsyncEngine, transactions: int) -> None:
    """Return when that many transactions wait for a lock."""
    locks = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(30), engine.connect() as connection:
        while (await connection.execute(locks)).scalar_one() < transactions:
            await connection.rollback()
            await asyncio.sleep(0.01)


def taking(parking: SqlAlchemyParking, number: int) -> Do:
    async def take(ledger: Ledger) -> ParkedEvent:
        await parking.reserve(ledger.unit_of_work, number)
        return await parking.take(ledger.unit_of_work, number, release_next=True)

    return Do(take)


async def test_concurrent_processes_never_claim_the_same_event(url: str, engine: AsyncEngine) -> None:
    await fill(engine, 0, 40, lambda number: 1000.0 + number)

    async def claim_all(engine: AsyncEngine) -> Sequence[ParkedEvent]:
        claimed: list[ParkedEvent] = []
        parking = SqlAlchemyParking(engine)
        while (found := await parking.claim(GROUP)) is not None:
            claimed.append(found)
        return claimed

    async with open_engine(url) as other:
        ones, others = await asyncio.gather(claim_all(engine), claim_all(other))
    assert sorted(int(each.event_id) for each in (*ones, *others)) == list(range(40))
    assert {each.claim for each in (*ones, *others)} == {1}


async def test_the_claim_of_a_dead_process_ends_by_the_clock_of_the_database(engine: AsyncEngine) -> None:
    offset = 0.0
    parking = SqlAlchemyParking(engine, clock_offset=lambda: offset)
    await parking.park(parked_event("1"), due_in=0)
    first = await parking.claim(GROUP)
    assert first is not None
    left = await parking.due_in(GROUP)
    assert left is not None
    assert CLAIM_SECONDS - 10 < left <= CLAIM_SECONDS
    assert await parking.claim(GROUP) is None
    offset = CLAIM_SECONDS + 1
    assert await parking.due_in(GROUP) == 0
    second = await parking.claim(GROUP)
    assert (second and second.number, second and second.claim) == (first.number, 2)


@postgresql_only
async def test_a_claim_skips_a_reserved_event_without_waiting(
    ledger: Ledger, engine: AsyncEngine, parking: SqlAlchemyParking
) -> None:
    await fill(engine, 0, 2, lambda number: 1000.0 + number)
    reserved, _ = await parking.find(ParkedFilter())

    async def claim(ledger: Ledger) -> list[ParkedEvent | None]:
        await parking.reserve(ledger.unit_of_work, reserved.number)
        async with asyncio.timeout(10):
            return [await asyncio.create_task(parking.claim(GROUP)) for _ in range(2)]

    found, nothing = await ledger.send(Do(claim))
    assert (found.event_id, nothing) == ("1", None)
    again = await parking.claim(GROUP)
    assert again is not None
    assert again.number == reserved.number


@postgresql_only
async def test_an_event_that_is_parked_while_a_take_waits_for_its_key_becomes_due(
    ledger: Ledger, engine: AsyncEngine, parking: SqlAlchemyParking
) -> None:
    await parking.park(parked_event("1"))
    (first,) = await parking.find(ParkedFilter())
    async with engine.begin() as connection, asyncio.TaskGroup() as group:
        await lock_key(connection, GROUP, "k")
        group.create_task(ledger.send(taking(parking, first.number)))
        await blocked(engine, 1)
        behind = parked_event("2", reason=ParkReason.KEY_PARKED)
        await connection.execute(insert(schema.parked).values(schema.row_of(behind)))
        await connection.commit()
    claimed = await parking.claim(GROUP)
    assert claimed is not None
    assert claimed.event_id == "2"


@postgresql_only
async def test_a_take_and_a_concurrent_discard_of_the_next_event_do_not_block_each_other(
    ledger: Ledger, engine: AsyncEngine, parking: SqlAlchemyParking
) -> None:
    """Both lock the row of the next event before the key."""
    await parking.park(parked_event("1"))
    for number in "2", "3":
        await parking.park(parked_event(number, reason=ParkReason.KEY_PARKED))
    first, second, _ = await parking.find(ParkedFilter())
    async with engine.begin() as connection, asyncio.TaskGroup() as group:
        await lock_key(connection, GROUP, "k")
        group.create_task(ledger.send(taking(parking, first.number)))
        await blocked(engine, 1)
        group.create_task(parking.discard(second.number))
        await blocked(engine, 2)
        await connection.commit()
    assert [each.event_id for each in await parking.find(ParkedFilter())] == ["3"]


@sqlite_only
async def test_sqlite_claims_through_the_index(engine: AsyncEngine, parking: SqlAlchemyParking) -> None:
    plans: list[str] = []
    for first, end in (0, 100), (100, 20_000):
        await fill(engine, first, end, lambda number: 1000.0 + number)
        plans.append(await plan_of_a_claim(parking, engine, "EXPLAIN QUERY PLAN"))
    few, many = plans
    assert few == many
    assert "USING COVERING INDEX mediator_parked_by_due (consumer=? AND due_at" in many
    assert "B-TREE" not in many


@postgresql_only
@pytest.mark.parametrize("analyzed", [False, True], ids=["without-statistics", "with-statistics"])
@pytest.mark.parametrize("due_at", [lambda number: 1000.0 + number, lambda _: 1000.0], ids=["apart", "at-once"])
async def test_postgresql_claims_through_the_index(
    engine: AsyncEngine, parking: SqlAlchemyParking, due_at: Callable[[int], float], analyzed: bool
) -> None:
    for first, end in (0, 100), (100, 20_000):
        await fill(engine, first, end, due_at)
        if analyzed:
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text("ANALYZE mediator_parked"))
        plan = await plan_of_a_claim(parking, engine, "EXPLAIN (ANALYZE, BUFFERS)")
        pages = int(plan.partition("shared hit=")[2].split()[0])
        assert pages < _FEW_PAGES, plan
    assert "Index Scan using mediator_parked_by_due" in plan
    assert "Sort" not in plan


async def test_on_sqlite_a_claim_lasts_as_long_as_the_handlers_may_run(
    dialect: str, engine: AsyncEngine, parking: SqlAlchemyParking
) -> None:
    await fill(engine, 0, 1, lambda _: 1000.0)
    claimed = await parking.claim(GROUP)
    assert claimed is not None
    await parking.start(claimed, 8, lasting=3600.0)
    due_in = await parking.due_in(GROUP)
    assert due_in is not None
    assert (due_in > 3600.0) == (dialect == "sqlite")
