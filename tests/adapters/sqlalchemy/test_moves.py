"""Events move between outbox, archive and parking, and an erasure beside that misses none."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from mediator.distributed.outbox import Erased
from mediator.distributed.outbox_contents import OutboxFilter
from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason
from mediator.sqlalchemy import SqlAlchemyParking
from tests.adapters.sqlalchemy.ledger import Ledger, postgresql_only
from tests.adapters.sqlalchemy.test_staging import Moved, add

ARCHIVED = OutboxFilter("archived")


async def send_all(ledger: Ledger) -> list[str]:
    """Do what a relay does with everything that waits; the ids."""
    async with ledger.outbox.claim(100) as batch:
        ids = [each.id for each in batch.events]
        await batch.settle(ids)
    return ids


async def refuse_first(ledger: Ledger) -> ParkedEvent:
    async with ledger.outbox.claim(1) as batch:
        await batch.park(batch.events[0], ParkReason.REFUSED, "too large")
    [refused] = await SqlAlchemyParking(ledger.engine).find(ParkedFilter(direction="out"))
    return refused


@contextmanager
def after_first(engine: AsyncEngine, words: str, action: Callable[[], Awaitable[Any]]) -> Iterator[None]:
    """Do something between the first statement with some words in it and the next one of its transaction."""
    seen: list[str] = []

    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if words in statement and not seen:
            seen.append(statement)
            await_only(action())

    event.listen(engine.sync_engine, "after_cursor_execute", executed)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "after_cursor_execute", executed)
    assert seen


async def until_one_waits_for_a_lock(engine: AsyncEngine) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(20), engine.connect() as connection:
        while not (await connection.execute(waiting)).scalar_one():
            await connection.rollback()


@postgresql_only
async def test_an_event_that_a_relay_archives_during_an_erasure_counts_as_pending(ledger: Ledger) -> None:
    settled, go = asyncio.Event(), asyncio.Event()
    await add(ledger, Moved("k", 1))

    async def publish() -> None:
        async with ledger.outbox.claim(10) as batch:
            await batch.settle([each.id for each in batch.events])
            settled.set()
            await go.wait()

    async def commit() -> None:
        go.set()
        await relay

    async with asyncio.timeout(20):
        relay = asyncio.create_task(publish())
        await settled.wait()
        with after_first(ledger.engine, "DELETE FROM mediator_outbox_archive", commit):
            assert await ledger.outbox.erase("k") == Erased(archived=0, parked=0, pending=1)
    assert await ledger.outbox.erase("k") == Erased(archived=1, parked=0, pending=0)
    assert await ledger.outbox.contents.find(ARCHIVED) == []


@postgresql_only
async def test_a_refused_event_that_is_released_during_an_erasure_counts_as_pending(ledger: Ledger) -> None:
    await add(ledger, Moved("k", 1))
    refused = await refuse_first(ledger)
    erasures: list[asyncio.Task[Erased]] = []

    async def erase_meanwhile() -> None:
        erasures.append(asyncio.create_task(ledger.outbox.erase("k")))
        await until_one_waits_for_a_lock(ledger.engine)

    with after_first(ledger.engine, "DELETE FROM mediator_parked", erase_meanwhile):
        await SqlAlchemyParking(ledger.engine).release(refused.number)
    assert await erasures[0] == Erased(archived=0, parked=0, pending=1)
    assert await send_all(ledger) == [refused.event_id]
    assert await ledger.outbox.erase("k") == Erased(archived=1, parked=0, pending=0)


@postgresql_only
async def test_an_erasure_does_not_wait_for_the_relay_that_is_publishing_the_key(ledger: Ledger) -> None:
    await add(ledger, Moved("k", 1))
    async with ledger.outbox.claim(10) as batch:
        assert len(batch.events) == 1
        async with asyncio.timeout(5):  # and not the ten seconds after which a frozen relay loses them
            assert await ledger.outbox.erase("k") == Erased(archived=0, parked=0, pending=1)
