"""Held events in a database: what probes and holders cost, and calls of several processes at the same time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason
from mediator.errors import ClaimLostError, ParkedEventNotFoundError
from mediator.sqlalchemy import SqlAlchemyParking, open_engine, schema
from mediator.sqlalchemy.parking import lock_key
from mediator.testing.conformance.storage import GROUP, parked_event
from tests.adapters.sqlalchemy.ledger import Do, Ledger, postgresql_only, sqlite_only

HANDLER, OTHER = "app.handlers.Charge", "app.handlers.Notify"
_FEW, _MANY = 100, 100_000
_FEW_PAGES = 60
"""More pages than a call reads through the index, and far fewer than the pages of 100,000 rows."""

Act = Callable[[SqlAlchemyParking], Awaitable[Any]]


@pytest.fixture
def parking(engine: AsyncEngine) -> SqlAlchemyParking:
    return SqlAlchemyParking(engine)


def held_event(event_id: str, key: str | None = None, *, held_by: str = HANDLER) -> ParkedEvent:
    return parked_event(event_id, key, reason=ParkReason.CIRCUIT_OPEN, held_by=held_by)


async def fill(engine: AsyncEngine, events: int) -> None:
    """Let the table have that many held events, half of them held by each of two handlers, and one event that is due."""
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM mediator_parked"))
        await connection.execute(insert(schema.parked).values(schema.row_of(held_event("held"))))
        other = {column.name: column.name for column in schema.parked.c if column.name != "number"}
        other["event_id"] = "'held-' || n"
        other["held_by"] = f"CASE n % 2 WHEN 0 THEN '{HANDLER}' ELSE '{OTHER}' END"
        await connection.execute(
            text(
                f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {events - 1}) "
                f"INSERT INTO mediator_parked ({', '.join(other)}) "
                f"SELECT {', '.join(other.values())} FROM mediator_parked, numbers"
            )
        )
        await connection.execute(insert(schema.parked).values(schema.row_of(parked_event("due", due_at=1000.0))))


async def analyze(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("ANALYZE mediator_parked"))


async def plan_of(act: Act, engine: AsyncEngine, explain: str) -> str:
    """Act, and return the plan with which the database executes the statement about parked events again."""
    executed: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "mediator_parked" in statement:
            executed.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        assert await act(SqlAlchemyParking(engine))
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)
    ((statement, parameters),) = executed
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in rows)


async def probe(parking: SqlAlchemyParking) -> ParkedEvent | None:
    return await parking.claim(GROUP, held_by=HANDLER)


async def claim_due(parking: SqlAlchemyParking) -> ParkedEvent | None:
    return await parking.claim(GROUP)


async def holders(parking: SqlAlchemyParking) -> bool:
    return await parking.holders(GROUP) == [HANDLER, OTHER]


ACTS = pytest.mark.parametrize(
    ("act", "index"),
    [(probe, "mediator_parked_held"), (holders, "mediator_parked_held"), (claim_due, "mediator_parked_by_due")],
    ids=["probe", "holders", "claim-of-a-due-event"],
)


@sqlite_only
@ACTS
async def test_on_sqlite_a_call_reads_the_index_however_many_events_are_held(
    engine: AsyncEngine, act: Act, index: str
) -> None:
    plans: list[str] = []
    for events in _FEW, _MANY:
        await fill(engine, events)
        plans.append(await plan_of(act, engine, "EXPLAIN QUERY PLAN"))
    few, many = plans
    assert few == many
    assert f"SEARCH mediator_parked USING COVERING INDEX {index} (consumer=? AND " in many
    assert "SCAN mediator_parked" not in many
    assert "B-TREE" not in many


@postgresql_only
@ACTS
@pytest.mark.parametrize("analyzed", [False, True], ids=["without-statistics", "with-statistics"])
async def test_on_postgresql_a_call_reads_few_pages_however_many_events_are_held(
    engine: AsyncEngine, act: Act, index: str, analyzed: bool
) -> None:
    for events in _FEW, _MANY:
        await fill(engine, events)
        if analyzed:
            await analyze(engine)
        plan = await plan_of(act, engine, "EXPLAIN (ANALYZE, BUFFERS)")
        assert int(plan.partition("shared hit=")[2].split()[0]) < _FEW_PAGES, plan
    assert f"using {index} on mediator_parked" in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan


@pytest.mark.parametrize("analyzed", [False, True], ids=["without-statistics", "with-statistics"])
async def test_exactly_the_limit_of_events_is_let_go(
    engine: AsyncEngine, parking: SqlAlchemyParking, analyzed: bool
) -> None:
    await fill(engine, 20)
    if analyzed:
        await analyze(engine)
    assert await parking.let_go(GROUP, OTHER, limit=3) == 3
    assert await parking.count(ParkedFilter(held_by=OTHER)) == 7
    assert await parking.count(ParkedFilter(held_by=HANDLER)) == 10


@postgresql_only
async def test_events_are_let_go_and_probed_while_a_transaction_has_their_key(
    engine: AsyncEngine, parking: SqlAlchemyParking
) -> None:
    """Neither call locks a key, so that it never waits for a transaction that waits for a row."""
    await parking.park(held_event("1", "k"))
    await parking.park(held_event("2", "other"))
    async with asyncio.timeout(20), engine.begin() as connection:
        for key in "k", "other":
            await lock_key(connection, GROUP, key)
        assert await probe(parking) is not None
        assert await parking.let_go(GROUP, HANDLER) == 1


async def test_probes_batches_replays_and_discards_of_several_processes_do_not_block_each_other(
    url: str, engine: AsyncEngine
) -> None:
    """Each event is handled once at most, and no transaction is the victim of a deadlock."""
    order, handled, discarded = random.Random(7), list[str](), list[str]()  # the same calls in each run
    parking = SqlAlchemyParking(engine)
    for number in range(12):
        await parking.park(held_event(f"{number}", f"key-{number}"))
        await parking.park(held_event(f"{number}-behind", f"key-{number}"))

    async def waits() -> bool:
        return await parking.count(ParkedFilter(waiting=True)) > 0

    async def handle(ledger: Ledger, claimed: ParkedEvent) -> None:
        parking = SqlAlchemyParking(ledger.engine)

        async def take(ledger: Ledger) -> None:
            await parking.reserve(ledger.unit_of_work, claimed.number, claim=claimed.claim)
            await parking.take(ledger.unit_of_work, claimed.number, release_next=True)

        try:
            await ledger.send(Do(take))
            handled.append(claimed.event_id)
        except (ClaimLostError, ParkedEventNotFoundError):
            assert claimed.event_id in discarded

    async def consume(ledger: Ledger) -> None:
        parking = SqlAlchemyParking(ledger.engine)
        while await waits():
            for claimed in (await parking.claim(GROUP, held_by=HANDLER), await parking.claim(GROUP)):
                if claimed is not None and order.random() < 0.3:
                    await hold(parking, claimed)
                elif claimed is not None:
                    await handle(ledger, claimed)
            await parking.let_go(GROUP, HANDLER, limit=2)

    async def hold(parking: SqlAlchemyParking, claimed: ParkedEvent) -> None:
        try:
            await parking.postpone(claimed, due_in=None, started=False, failed=False, held_by=HANDLER)
        except ClaimLostError:
            assert claimed.event_id in discarded

    async def discard(numbers: list[int]) -> None:
        for number in numbers:
            with suppress(ParkedEventNotFoundError):
                discarded.append((await parking.get(number)).event_id)
                await parking.discard(number)

    behind = [each.number for each in await parking.find(ParkedFilter(waiting=False))]
    async with asyncio.timeout(120), open_engine(url) as other, asyncio.TaskGroup() as group:
        for each in engine, other:
            group.create_task(consume(Ledger(each)))
            group.create_task(consume(Ledger(each)))
        group.create_task(discard(behind[::3]))
    assert len(handled) == len(set(handled))
    assert await parking.count(ParkedFilter()) == 0
    assert set(handled) | set(discarded) == {f"{number}{end}" for number in range(12) for end in ("", "-behind")}
