"""Events move between outbox, archive and parking for any stored rows, and a concurrent erasure misses none."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from mediator import DistributedEventBroker
from mediator.distributed.outbox import Erased, OutboxFilter
from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason
from mediator.errors import ParkedEventConflictError
from mediator.sqlalchemy import SqlAlchemyParking
from tests.adapters.sqlalchemy.ledger import Do, Ledger, postgresql_only, sqlite_only
from tests.adapters.sqlalchemy.test_staging import Moved, add, statements

ARCHIVED = OutboxFilter("archived")


async def add_as(ledger: Ledger, event_id: str, moved: Moved) -> None:
    """Add an event with an id that the application has chosen."""

    async def action(ledger: Ledger) -> None:
        DistributedEventBroker(ledger.unit_of_work, ids=lambda: event_id).add(moved)

    await ledger.send(Do(action))


async def send_all(ledger: Ledger) -> list[str]:
    """Publish all waiting events as a relay does, and return their ids."""
    async with ledger.outbox.claim(100) as batch:
        ids = [each.id for each in batch.events]
        await batch.settle(ids)
    return ids


async def refuse_first(ledger: Ledger) -> ParkedEvent:
    async with ledger.outbox.claim(1) as batch:
        await batch.park(batch.events[0], ParkReason.REFUSED, "too large")
    [refused] = await SqlAlchemyParking(ledger.engine).find(ParkedFilter(direction="out"))
    return refused


async def restart_numbering(engine: AsyncEngine) -> None:
    """Reset the sequences, as in a database that was restored without their state."""
    statement = {
        "postgresql": "ALTER TABLE mediator_outbox ALTER COLUMN sequence RESTART WITH 1",
        "sqlite": "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'mediator_outbox'",
    }
    async with engine.begin() as connection:
        await connection.execute(text(statement[engine.dialect.name]))


@contextmanager
def after_first(engine: AsyncEngine, words: str, action: Callable[[], Awaitable[Any]]) -> Iterator[None]:
    """Do something between the first statement that contains some words and the next statement of its transaction."""
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
async def test_an_event_released_during_an_edit_goes_out_as_edited(ledger: Ledger) -> None:
    parking, edited = SqlAlchemyParking(ledger.engine), b'{"edited": true}'
    await add(ledger, Moved("k", 1))
    refused = await refuse_first(ledger)
    releases = list[asyncio.Task[ParkedEvent]]()

    async def release_meanwhile() -> None:
        releases.append(asyncio.create_task(parking.release(refused.number)))
        await until_one_waits_for_a_lock(ledger.engine)

    async with asyncio.timeout(20):
        with after_first(ledger.engine, "UPDATE mediator_parked", release_meanwhile):
            await parking.edit(refused.number, data=edited)
        assert (await releases[0]).data == edited
    async with ledger.outbox.claim(1) as batch:
        assert [each.data for each in batch.events] == [edited]


async def test_an_event_whose_sequence_was_reused_is_put_back_after_the_later_event_is_sent(ledger: Ledger) -> None:
    parking = SqlAlchemyParking(ledger.engine)
    await add(ledger, Moved("k", 1))
    refused = await refuse_first(ledger)
    await restart_numbering(ledger.engine)
    await add_as(ledger, "later", Moved("j", 2))
    with pytest.raises(ParkedEventConflictError, match=r"its place there, 1, is now taken by the event later\. Replay"):
        await parking.release(refused.number)
    assert await send_all(ledger) == ["later"]
    assert await parking.release(refused.number) == refused
    assert await send_all(ledger) == [refused.event_id]


async def test_the_error_for_a_reused_id_recommends_discarding_the_event(ledger: Ledger) -> None:
    parking = SqlAlchemyParking(ledger.engine)
    await add_as(ledger, "same", Moved("k", 1))
    refused = await refuse_first(ledger)
    await add_as(ledger, "same", Moved("k", 2))
    with pytest.raises(ParkedEventConflictError, match=r"its id, same, is there already\. Discard the parked"):
        await parking.release(refused.number)
    assert await send_all(ledger) == []
    await parking.discard(refused.number)
    assert await send_all(ledger) == ["same"]


@postgresql_only
async def test_an_event_sent_while_another_is_put_back_in_its_place_does_not_conflict(ledger: Ledger) -> None:
    await add(ledger, Moved("k", 1))
    refused = await refuse_first(ledger)
    await restart_numbering(ledger.engine)
    await add_as(ledger, "later", Moved("j", 2))

    async def send() -> None:
        assert await send_all(ledger) == ["later"]

    with after_first(ledger.engine, "INSERT INTO mediator_outbox ", send):
        await SqlAlchemyParking(ledger.engine).release(refused.number)
    assert await send_all(ledger) == [refused.event_id]


@postgresql_only
async def test_an_erasure_does_not_wait_for_the_relay_that_is_publishing_the_key(ledger: Ledger) -> None:
    await add(ledger, Moved("k", 1))
    async with ledger.outbox.claim(10) as batch:
        assert len(batch.events) == 1
        async with asyncio.timeout(5):  # less than the ten seconds after which a frozen relay loses its claim
            assert await ledger.outbox.erase("k") == Erased(archived=0, parked=0, pending=1)


async def test_a_delayed_event_that_becomes_due_during_a_search_is_found(ledger: Ledger) -> None:
    async def add_delayed(ledger: Ledger) -> None:
        DistributedEventBroker(ledger.unit_of_work, ids=lambda: "order-1").add(
            Moved("k", 1), deliver_at=datetime(2999, 1, 1, tzinfo=UTC)
        )

    async def become_due() -> None:
        async with ledger.engine.begin() as connection:
            await connection.execute(text("UPDATE mediator_outbox SET deliver_at = NULL"))

    await ledger.send(Do(add_delayed))
    with after_first(ledger.engine, "FROM mediator_outbox", become_due):
        record, event = await ledger.outbox.contents.get("order-1")
    assert (record.place, event.id) == ("delayed", "order-1")
    assert (await ledger.outbox.contents.get("order-1"))[0].place == "waiting"


async def test_the_archive_keeps_the_first_of_two_events_with_one_id_and_the_relay_continues(ledger: Ledger) -> None:
    await add_as(ledger, "order-1", Moved("k", 1))
    assert await send_all(ledger) == ["order-1"]
    await add_as(ledger, "order-1", Moved("j", 2))
    await add_as(ledger, "order-2", Moved("j", 3))
    assert await send_all(ledger) == ["order-1", "order-2"]
    assert await ledger.outbox.pending() == 0
    _, kept = await ledger.outbox.contents.get("order-1")
    assert kept.partitionkey == "k"
    assert [each.id for each in await ledger.outbox.contents.find(ARCHIVED)] == ["order-1", "order-2"]


async def test_restarted_numbering_lets_later_events_replace_earlier_ones_in_the_archive(ledger: Ledger) -> None:
    await add(ledger, *(Moved("k", number) for number in range(3)))
    [_, _, third] = await send_all(ledger)
    await restart_numbering(ledger.engine)
    await add(ledger, Moved("j", 4), Moved("j", 5))
    later = await send_all(ledger)
    assert await ledger.outbox.pending() == 0
    kept = await ledger.outbox.contents.find(ARCHIVED)
    assert [each.id for each in kept] == [*later, third]
    assert [each.partition_key for each in kept] == ["j", "j", "k"]


async def test_a_refused_event_with_the_id_of_a_parked_one_does_not_replace_it_or_stop_the_relay(
    ledger: Ledger,
) -> None:
    await add_as(ledger, "order-1", Moved("k", 1))
    first = await refuse_first(ledger)
    await add_as(ledger, "order-1", Moved("j", 2))
    assert await refuse_first(ledger) == first
    assert await ledger.outbox.pending() == 0


@postgresql_only
async def test_moving_events_is_one_statement_that_does_not_read_the_whole_archive(ledger: Ledger) -> None:
    archived = (
        "INSERT INTO mediator_outbox_archive "
        "(sequence, id, type, time, bucket, content_type, extensions, data, archived_at) "
        "SELECT g + 1000, g::text, 'a.b.v1', '2026-01-01T00:00:00+00:00', 1, 'a/b', '{}', ''::bytea, 1 "
        "FROM generate_series(1, 20000) g"
    )
    async with ledger.engine.begin() as connection:
        await connection.execute(text(archived))
        await connection.execute(text("ANALYZE mediator_outbox_archive"))
    await add(ledger, *(Moved("k", number) for number in range(500)))
    async with ledger.outbox.claim(500) as batch:
        with statements(ledger.engine) as seen:
            await batch.settle([each.id for each in batch.events])
    [(sql, values)] = seen
    async with ledger.engine.connect() as connection:
        plan = [line for (line,) in await connection.exec_driver_sql(f"EXPLAIN {sql}", values)]
    assert not any("Seq Scan on mediator_outbox_archive" in line for line in plan), plan


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_all_sent_events_are_moved_to_the_archive(ledger: Ledger, count: int) -> None:
    await add(ledger, *(Moved("k", number) for number in range(count)))
    assert len(await send_all(ledger)) == count
    assert len(await ledger.outbox.contents.find(ARCHIVED)) == count


@postgresql_only
async def test_the_check_for_due_events_does_not_scan_an_unanalyzed_backlog(ledger: Ledger) -> None:
    """So it is after an outage, before the first autovacuum: each claim would read all waiting events."""
    await add(ledger, Moved("k", 1))
    backlog = (
        "INSERT INTO mediator_outbox (id, type, time, partition_key, bucket, content_type, extensions, data) "
        "SELECT 'b' || number, type, time, partition_key, bucket, content_type, extensions, data "
        "FROM mediator_outbox, generate_series(1, 50000) AS number"
    )
    async with ledger.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE mediator_outbox SET (autovacuum_enabled = false)")
        await connection.exec_driver_sql(backlog)
    with statements(ledger.engine) as seen:
        async with ledger.outbox.claim(1):
            pass
    sql, values = seen[0]
    assert "deliver_at" in sql
    async with ledger.engine.connect() as connection:
        plan = [line for (line,) in await connection.exec_driver_sql(f"EXPLAIN {sql}", values)]
    assert not any("Seq Scan on mediator_outbox" in line for line in plan), plan


@sqlite_only
async def test_the_query_for_the_next_due_event_does_not_scan_the_backlog(ledger: Ledger) -> None:
    """SQLite uses a partial index only if the statement contains the condition of the index."""
    with statements(ledger.engine) as seen:
        async with ledger.outbox.claim(1):
            pass
        await ledger.outbox.due_in()
    asking = [(sql, values) for sql, values in seen if "min(mediator_outbox.deliver_at)" in sql]
    assert len(asking) == 2
    async with ledger.engine.connect() as connection:
        for sql, values in asking:
            plan = [row[3] for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
            first, *others = [line for line in plan if "mediator_outbox" in line]
            assert "INDEX mediator_outbox_by_due" in first, plan
            assert all("INDEX mediator_outbox_unnamed" in each for each in others), plan


async def test_an_event_that_replaces_another_in_the_archive_has_its_own_age(ledger: Ledger) -> None:
    """Otherwise it would be deleted at once, and could not be published again."""
    await add(ledger, Moved("k", 1))
    await send_all(ledger)
    async with ledger.engine.begin() as connection:
        await connection.execute(text("UPDATE mediator_outbox_archive SET archived_at = 1"))
    await restart_numbering(ledger.engine)
    await add(ledger, Moved("k", 2))
    await send_all(ledger)
    async with ledger.engine.connect() as connection:
        [row] = (await connection.execute(text("SELECT sequence, archived_at FROM mediator_outbox_archive"))).all()
    assert row.sequence == 1
    assert row.archived_at > 1_000_000
    assert await ledger.outbox.clean(10) == 0
