"""Concurrent parking: one transaction while another one has the key, the row or the place in the outbox."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.parking import ParkedFilter, ParkReason
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyParking, schema
from mediator.sqlalchemy.parking import lock_key
from mediator.testing.conformance.storage import GROUP, parked_event
from tests.adapters.sqlalchemy.ledger import Do, Ledger, Write, postgresql_only


@pytest.fixture
def parking(engine: AsyncEngine) -> SqlAlchemyParking:
    return SqlAlchemyParking(engine)


async def ids(parking: SqlAlchemyParking) -> list[str]:
    return [each.event_id for each in await parking.find(ParkedFilter())]


async def waiting(engine: AsyncEngine, transactions: int, until: Callable[[], bool]) -> None:
    """Return when that many transactions wait for a lock, or when the work is done."""
    locks = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(30), engine.connect() as connection:
        while not until() and (await connection.execute(locks)).scalar_one() < transactions:
            await connection.rollback()
            await asyncio.sleep(0.01)


@postgresql_only
async def test_events_of_a_key_are_parked_one_after_the_other(engine: AsyncEngine, parking: SqlAlchemyParking) -> None:
    """Otherwise the later event could be replayed first, because the earlier one is not visible yet."""
    await SqlAlchemyInbox(engine).end(GROUP, "shop", "1", 1)
    async with engine.begin() as connection, asyncio.TaskGroup() as group:
        await connection.execute(select(schema.attempts).with_for_update())  # the first one does not end yet
        first = group.create_task(parking.park(parked_event("1")))
        await waiting(engine, 1, first.done)
        second = group.create_task(parking.park(parked_event("2")))
        await waiting(engine, 2, second.done)
        assert await ids(parking) == []
        await connection.rollback()
    assert await ids(parking) == ["1", "2"]


@postgresql_only
async def test_an_event_that_waits_for_its_key_is_parked_behind_concurrently_parked_ones(
    engine: AsyncEngine, parking: SqlAlchemyParking
) -> None:
    """With an earlier number, the event would become visible before an event that a replay has already taken."""
    async with engine.begin() as connection, asyncio.TaskGroup() as group:
        await lock_key(connection, GROUP, "k")
        waits = group.create_task(parking.park(parked_event("2")))
        await waiting(engine, 1, waits.done)
        await connection.execute(insert(schema.parked).values(schema.row_of(parked_event("1"))))
        await connection.commit()
    assert await ids(parking) == ["1", "2"]


@postgresql_only
async def test_two_concurrent_edits_are_both_kept(engine: AsyncEngine, parking: SqlAlchemyParking) -> None:
    await parking.park(parked_event("1"))
    (found,) = await parking.find(ParkedFilter())
    async with engine.begin() as connection, asyncio.TaskGroup() as group:
        await connection.execute(select(schema.parked).with_for_update())
        first = group.create_task(parking.edit(found.number, data=b"new"))
        await waiting(engine, 1, first.done)
        second = group.create_task(parking.edit(found.number, headers={"a": "b"}))
        await waiting(engine, 2, second.done)
        await connection.rollback()
    edited = await parking.get(found.number)
    assert (edited.data, edited.headers) == (b"new", {"a": "b"})


async def test_an_event_whose_sequence_becomes_free_during_the_check_is_put_back(
    ledger: Ledger, parking: SqlAlchemyParking
) -> None:
    await ledger.send(Write("a"))
    async with ledger.outbox.claim(1) as batch:
        await batch.park(batch.events[0], ParkReason.REFUSED, "too large")
    (refused,) = await parking.find(ParkedFilter())
    await parking.release(refused.number)

    async def append(ledger: Ledger) -> None:
        await parking.append(ledger.unit_of_work, replace(refused, number=0))

    await ledger.send(Do(append))
    (again,) = await parking.find(ParkedFilter())
    looks = list[str]()

    def sent(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT mediator_outbox.id"):
            looks.append(statement)
            if len(looks) == 1:
                connection.exec_driver_sql("DELETE FROM mediator_outbox")

    event.listen(ledger.engine.sync_engine, "before_cursor_execute", sent)
    try:
        assert await parking.release(again.number) == again
    finally:
        event.remove(ledger.engine.sync_engine, "before_cursor_execute", sent)
    assert looks != []
    async with ledger.outbox.claim(10) as batch:
        assert [each.id for each in batch.events] == [refused.event_id]
    assert await ids(parking) == []
