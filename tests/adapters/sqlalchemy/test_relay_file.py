"""On SQLite, one relay at a time has the events, and the next one takes over after any end of the first one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mediator.distributed.outbox import Doorbell
from mediator.distributed.parking import ParkReason
from mediator.errors import ClaimLostError
from mediator.sqlalchemy import SqlAlchemyOutbox, create_schema, open_engine
from mediator.sqlalchemy.engine import database_of
from tests.adapters.sqlalchemy.ledger import Do, Ledger
from tests.adapters.sqlalchemy.test_staging import Moved, add
from tests.unit.virtual_time import settle


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with open_engine(f"sqlite:///{tmp_path / 'app.db'}") as engine:
        await create_schema(engine)
        yield engine


class Bell(Doorbell):
    """Rings when a test calls its listener."""

    def ring(self) -> None:
        pass

    def on_ring(self, listener: Callable[[], None], /) -> None:
        self.listener = listener


async def look(outbox: SqlAlchemyOutbox, limit: int = 10) -> tuple[int, float | None]:
    """Return how many events a claim returns, and when to claim again."""
    async with outbox.claim(limit) as batch:
        return len(batch.events), batch.look_again


async def count(engine: AsyncEngine, table: str) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


@pytest.mark.parametrize("ending", ["in order", "with an error", "cancelled"])
async def test_a_relay_looks_again_soon_while_another_one_holds_the_events(engine: AsyncEngine, ending: str) -> None:
    ledger, other = Ledger(engine), SqlAlchemyOutbox(engine)
    await add(ledger, Moved("k", 1), Moved("k", 2))

    async def claim() -> None:
        async with ledger.outbox.claim(10) as batch:
            assert len(batch.events) == 2
            assert await look(other) == (0, 0.05)
            reached.set()
            if ending == "with an error":
                raise LookupError
            if ending == "cancelled":
                await asyncio.Event().wait()

    for _ in range(3):
        reached = asyncio.Event()
        claiming = asyncio.create_task(claim())
        await reached.wait()
        if ending == "cancelled":
            claiming.cancel()
        await asyncio.wait((claiming,))
        assert isinstance(None if claiming.cancelled() else claiming.exception(), LookupError) is (
            ending == "with an error"
        )
        assert await look(other) == (2, None)


async def test_the_next_look_depends_on_the_remaining_events(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    assert await look(ledger.outbox) == (0, None)
    await add(ledger, *(Moved("k", number) for number in range(5)))
    assert [await look(ledger.outbox, limit) for limit in (4, 5, 6)] == [(4, 0.0), (5, 0.0), (5, None)]


async def test_due_delayed_events_become_ready_by_the_thousand_and_oldest_first(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500) "
                "INSERT INTO mediator_outbox (id, type, time, bucket, content_type, extensions, data, deliver_at) "
                "SELECT n, 'stock.moved.v1', '2026-01-01T00:00:00+00:00', 1, 'a/b', '{}', X'', 5000 - n FROM n"
            )
        )
    outbox = SqlAlchemyOutbox(engine)
    async with outbox.claim(2000) as batch:
        assert len(batch.events) == 1000
        assert {int(event.id) for event in batch.events} == set(range(501, 1501))
    assert await look(outbox, 2000) == (1500, None)


async def test_the_rest_of_the_due_delayed_events_is_claimed_at_once(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO mediator_outbox (id, type, time, bucket, content_type, extensions, data, deliver_at) "
                "VALUES ('a', 'stock.moved.v1', '2026-01-01T00:00:00+00:00', 1, 'a/b', '{}', X'', 1), "
                "('b', 'stock.moved.v1', '2026-01-01T00:00:00+00:00', 1, 'a/b', '{}', X'', 2)"
            )
        )
    assert await look(SqlAlchemyOutbox(engine), 1) == (1, 0.0)


async def test_a_batch_that_has_ended_settles_and_parks_no_events(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1))
    async with ledger.outbox.claim(10) as batch:
        [event] = batch.events
    with pytest.raises(ClaimLostError):
        await batch.settle([event.id])
    with pytest.raises(ClaimLostError):
        await batch.park(event, ParkReason.REFUSED, "x")
    assert await ledger.outbox.pending() == 1


async def test_a_batch_with_removed_events_cannot_be_settled(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1), Moved("j", 2))
    async with ledger.outbox.claim(10) as batch:
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM mediator_outbox WHERE sequence = 1"))
        with pytest.raises(ClaimLostError, match="1 of 2 events"):
            await batch.settle([each.id for each in batch.events])
        with pytest.raises(ClaimLostError):
            await batch.park(batch.events[0], ParkReason.REFUSED, "x")
    assert (await ledger.outbox.pending(), await count(engine, "mediator_outbox_archive")) == (1, 0)


@pytest.mark.parametrize(("keep", "kept"), [(0.0, 0), (3600.0, 2)])
async def test_the_archive_contains_sent_events_unless_it_is_off(engine: AsyncEngine, keep: float, kept: int) -> None:
    await add(Ledger(engine), Moved("k", 1), Moved("j", 2))
    async with SqlAlchemyOutbox(engine, archive_seconds=keep).claim(10) as batch:
        await batch.settle([each.id for each in batch.events])
    assert await count(engine, "mediator_outbox_archive") == kept


def test_a_commit_wakes_a_waiting_relay_in_each_event_loop(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    ledger = Ledger(engine)

    async def work() -> None:
        await create_schema(engine)
        async with ledger.outbox.claim(10):
            pass
        waiting = asyncio.create_task(ledger.outbox.wait(60))
        await asyncio.sleep(0)
        await add(ledger, Moved("k", 1))
        async with asyncio.timeout(10):
            await waiting
        await engine.dispose()

    for _ in range(3):
        asyncio.run(work())


def test_a_doorbell_wakes_a_waiting_relay_in_each_event_loop(tmp_path: Path) -> None:
    bell = Bell()
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    outbox = SqlAlchemyOutbox(engine, doorbell=bell)

    async def work() -> None:
        await create_schema(engine)
        async with outbox.claim(10):
            pass
        waiting = asyncio.create_task(outbox.wait(60))
        await asyncio.sleep(0)
        bell.listener()
        async with asyncio.timeout(5):
            await waiting
        await engine.dispose()

    for _ in range(2):
        asyncio.run(work())


async def test_a_commit_right_after_a_claim_wakes_the_relay_each_time(engine: AsyncEngine) -> None:
    outbox, loop = SqlAlchemyOutbox(engine), asyncio.get_running_loop()

    def commit(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "ORDER BY mediator_outbox.sequence" in statement:  # its snapshot does not have later events
            database_of(engine).wake()

    event.listen(engine.sync_engine, "after_cursor_execute", commit)
    for _ in range(3):
        assert await look(outbox) == (0, None)
        began = loop.time()
        await outbox.wait(5)
        assert loop.time() - began < 5


async def test_a_ring_soon_after_a_fruitless_one_wakes_the_relay_after_a_pause(engine: AsyncEngine) -> None:
    bell, loop = Bell(), asyncio.get_running_loop()
    outbox = SqlAlchemyOutbox(engine, doorbell=bell)
    bell.listener()
    await outbox.wait(5)
    for _ in range(3):
        assert await look(outbox) == (0, None)
        bell.listener()
        began = loop.time()
        await outbox.wait(5)
        assert loop.time() - began < 5


async def test_rings_wake_the_relay_at_once_again_after_it_has_found_events(engine: AsyncEngine) -> None:
    bell = Bell()
    outbox = SqlAlchemyOutbox(engine, doorbell=bell)
    for number in range(2):
        bell.listener()
        await outbox.wait(5)
        assert await look(outbox) == (0, None)
        await add(Ledger(engine), Moved("k", number))
        async with outbox.claim(10) as batch:
            await batch.settle([each.id for each in batch.events])
        for _ in range(2):  # the second one while somebody looks
            bell.listener()
            waiting = asyncio.create_task(outbox.wait(5))
            await settle()
            assert waiting.done()
        assert await look(outbox) == (0, None)
        await asyncio.sleep(0.2)


async def test_each_transaction_that_stored_events_wakes_a_relay_and_no_other_does(engine: AsyncEngine) -> None:
    ledger, wake = Ledger(engine), asyncio.Event()
    database_of(engine).listen(wake)

    async def read(ledger: Ledger) -> None:
        await ledger.unit_of_work.session.execute(text("SELECT 1"))

    await ledger.send(Do(read))
    assert not wake.is_set()
    async with ledger.mediator.scope():
        for _ in range(2):
            await add(ledger, Moved("k", 1))
            assert wake.is_set()
            wake.clear()
            await ledger.send(Do(read))
            assert not wake.is_set()


async def test_an_erasure_wakes_the_relay_because_deleted_events_may_have_blocked_others(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1), Moved("k", 2))
    async with ledger.outbox.claim(1) as batch:
        await batch.park(batch.events[0], ParkReason.REFUSED, "x")
    assert await look(ledger.outbox) == (0, None)
    waiting = asyncio.create_task(ledger.outbox.wait(60))
    await asyncio.sleep(0)
    await ledger.outbox.erase("k")
    async with asyncio.timeout(5):
        await waiting
    assert await look(ledger.outbox) == (1, None)


async def test_a_relay_looks_for_events_while_somebody_writes(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1))
    async with database_of(engine).writing(), asyncio.timeout(5):
        assert await look(ledger.outbox) == (1, None)


async def test_a_commit_during_a_claim_wakes_the_relay_once_when_it_waits(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    for _ in range(2):
        async with ledger.outbox.claim(10):
            await add(ledger, Moved("k", 1))
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(10):
            await ledger.outbox.wait(60)
        assert loop.time() - began < 10
        began = loop.time()
        await ledger.outbox.wait(0.1)
        assert loop.time() - began >= 0.09
