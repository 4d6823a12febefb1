"""On PostgreSQL several relays share the events, keep the order of each key, and survive each other's death."""

import asyncio
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import OutboxRelay
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import EventPublisher, PublishResult
from mediator.distributed.parking import ParkedFilter, ParkReason
from mediator.errors import ClaimLostError, SchemaError
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyParking, create_schema, open_engine
from tests.adapters.sqlalchemy.ledger import Do, Ledger
from tests.adapters.sqlalchemy.test_staging import Moved, add, statements


class Keeping(EventPublisher):
    """Stores its events after a while."""

    def __init__(self, kept: list[CloudEvent], seconds: float = 0.01) -> None:
        self.count = 0
        self._kept = kept
        self._seconds = seconds

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        await asyncio.sleep(self._seconds)
        self._kept += events
        self.count += len(events)
        return [PublishResult(event) for event in events]


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(postgres_url, pool_size=20) as engine:
        await create_schema(engine)
        yield engine


@asynccontextmanager
async def claiming(url: str, frozen_seconds: float = 10.0) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run another process that holds a claim on all events."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "tests.adapters.sqlalchemy.claimer", url, str(frozen_seconds),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert int(await process.stdout.readline()) > 0
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def claimed(outbox: SqlAlchemyOutbox) -> float:
    """Claim events and settle them, and return the seconds that it took."""
    started = time.monotonic()
    async with asyncio.timeout(20):
        while True:
            async with outbox.claim(100) as batch:
                if batch.events:
                    await batch.settle([event.id for event in batch.events])
                    return time.monotonic() - started
            await asyncio.sleep(batch.look_again or 0.05)


async def test_another_relay_takes_over_the_events_of_a_killed_relay_within_a_second(
    engine: AsyncEngine, postgres_url: str
) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1))
    async with claiming(postgres_url) as process:
        taking = asyncio.create_task(claimed(ledger.outbox))
        await asyncio.sleep(0.2)
        assert not taking.done()
        killed = time.monotonic()
        process.send_signal(signal.SIGKILL)
        await taking
        assert time.monotonic() - killed < 5  # less than the ten seconds of a frozen relay
    assert await ledger.outbox.pending() == 0


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_frozen_relay_loses_its_events_and_its_late_results_are_ignored(
    engine: AsyncEngine, postgres_url: str
) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1), Moved("k", 2))
    async with claiming(postgres_url, frozen_seconds=0.5) as process:
        process.send_signal(signal.SIGSTOP)
        assert await claimed(ledger.outbox) < 5
        await add(ledger, Moved("k", 3))
        process.send_signal(signal.SIGCONT)
        out, _ = await process.communicate(b"\n")
    assert out == b"lost\n"
    assert await ledger.outbox.pending() == 1


@pytest.mark.thorough("waits in real time, or does much work")
async def test_settling_after_the_lock_was_lost_fails_and_changes_nothing(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    outbox = SqlAlchemyOutbox(engine, frozen_seconds=1.0)
    await add(ledger, Moved("k", 1))
    with pytest.raises(ClaimLostError):
        async with outbox.claim(10) as batch:
            await _until_no_transaction_is_idle(engine)
            await batch.settle([batch.events[0].id])
    assert await outbox.pending() == 1
    assert await claimed(ledger.outbox) < 5


async def _until_no_transaction_is_idle(engine: AsyncEngine) -> None:
    idle = text("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
    async with engine.connect() as connection:
        while (await connection.execute(idle)).scalar_one():
            await connection.rollback()
            await asyncio.sleep(0.02)


async def test_events_that_another_relay_has_taken_over_cannot_be_settled(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1), Moved("k", 2))
    with pytest.raises(ClaimLostError, match="1 of 2 events are no longer in the outbox"):
        async with ledger.outbox.claim(10) as batch:
            async with engine.begin() as connection:
                await connection.execute(text("DELETE FROM mediator_outbox WHERE sequence = 1"))
            await batch.settle([event.id for event in batch.events])
    assert await ledger.outbox.pending() == 1


async def test_an_error_inside_a_claim_undoes_its_settled_events(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1), Moved("j", 2))
    with pytest.raises(LookupError):
        async with ledger.outbox.claim(10) as batch:
            await batch.settle([batch.events[0].id])
            await batch.park(batch.events[1], ParkReason.REFUSED, "")
            raise LookupError
    assert await ledger.outbox.pending() == 2
    assert await SqlAlchemyParking(engine).count(ParkedFilter()) == 0


async def test_sent_events_move_to_the_archive_in_one_statement_of_the_claims_own_transaction(
    engine: AsyncEngine,
) -> None:
    ledger = Ledger(engine)
    await add(ledger, *(Moved("k", number) for number in range(5)))
    async with ledger.outbox.claim(3) as batch:
        await batch.settle([event.id for event in batch.events])
        assert await ledger.outbox.pending() == 5
    assert await ledger.outbox.pending() == 2
    async with engine.connect() as connection:
        kept = await connection.execute(text("SELECT sequence FROM mediator_outbox_archive ORDER BY sequence"))
        assert list(kept.scalars()) == [1, 2, 3]


@pytest.mark.thorough("waits in real time, or does much work")
async def test_two_relays_share_a_backlog_and_keep_the_order_of_each_key(engine: AsyncEngine) -> None:
    ledger, kept = Ledger(engine), list[CloudEvent]()
    publishers = [Keeping(kept), Keeping(kept)]
    relays = [OutboxRelay(SqlAlchemyOutbox(engine), each, batch_size=20) for each in publishers]
    keys = [f"key {number}" for number in range(40)]
    await add(ledger, *(Moved(keys[number % 40], number) for number in range(4000)))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(relay.run()) for relay in relays]
        while await ledger.outbox.pending():
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
    assert len(kept) == 4000
    assert min(each.count for each in publishers) > 800  # of 4,000 events; undisturbed relays would share equally
    numbers: defaultdict[str | None, list[int]] = defaultdict(list)
    for event in kept:
        numbers[event.partitionkey].append(int(event.data.split(b":")[-1].rstrip(b"}")))
    assert all(of_key == sorted(of_key) for of_key in numbers.values())


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_remaining_relay_serves_every_bucket(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    other = SqlAlchemyOutbox(engine)
    await add(ledger, *(Moved(f"key {number}", number) for number in range(100)))
    async with other.claim(10), ledger.outbox.claim(10) as batch:
        assert not batch.events
    async with ledger.outbox.claim(1000) as first:
        assert first.look_again == 0
        assert 0 < len(first.events) < 100
        await first.settle([event.id for event in first.events])
    for _ in range(4):
        await claimed(ledger.outbox)
        if not await ledger.outbox.pending():
            break
    assert await ledger.outbox.pending() == 0


async def test_a_transaction_that_cancels_an_event_does_not_keep_the_relay_waiting(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)

    async def cancel(ledger: Ledger) -> bool:
        found = await ledger.outbox.cancel(event_id, unit_of_work=ledger.unit_of_work)
        async with ledger.outbox.claim(10) as batch:
            assert not batch.events
        return found

    async def delay(ledger: Ledger) -> str:
        return ledger.events.add(Moved("k", 1), deliver_at=_a_moment_ago())

    event_id = await ledger.send(Do(delay))
    assert await ledger.send(Do(cancel)) is True
    assert await ledger.outbox.pending() == 0


async def test_a_transaction_that_cancels_an_event_without_a_source_does_not_keep_the_relay_waiting(
    engine: AsyncEngine,
) -> None:
    ledger = Ledger(engine)

    async def delay(ledger: Ledger) -> str:
        return ledger.events.add(Moved("k", 1), deliver_at=datetime.now(UTC) + timedelta(hours=1))

    async def cancel(ledger: Ledger) -> None:
        assert await ledger.outbox.cancel(event_id, unit_of_work=ledger.unit_of_work)
        async with SqlAlchemyOutbox(engine, application="ledger").claim(10) as batch:
            assert not batch.events

    event_id = await ledger.send(Do(delay))
    await ledger.send(Do(cancel))
    assert await ledger.outbox.pending() == 0


async def test_very_many_events_without_a_source_are_named_in_several_transactions(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediator.sqlalchemy.statements._NAMED", 2)
    await add(Ledger(engine), *(Moved("k", number) for number in range(5)))
    with statements(engine) as seen:
        async with SqlAlchemyOutbox(engine, application="ledger").claim(10) as batch:
            assert len(batch.events) == 5
    steps = ["COMMIT" if sql == "COMMIT" else "name" for sql, _ in seen if sql == "COMMIT" or "SET source" in sql]
    assert steps == [*["name", "COMMIT"] * 3, "COMMIT"]


async def test_the_oldest_of_many_due_delayed_events_become_ready_first(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediator.sqlalchemy.statements._PROMOTED", 2)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO mediator_outbox (id, type, time, bucket, content_type, extensions, data, deliver_at) SELECT "
                "n::text, 'stock.moved.v1', '2026-01-01T00:00:00+00:00', 1, 'a/b', '{}', '', 10 - n "
                "FROM generate_series(1, 6) n"
            )
        )
    outbox = SqlAlchemyOutbox(engine)
    for ready in ("56", "3456", "123456"):
        async with outbox.claim(10) as batch:
            assert "".join(sorted(each.id for each in batch.events)) == ready


@pytest.mark.thorough("waits in real time, or does much work")
@pytest.mark.parametrize("first", ["makes events ready that are due", "names events without a source"])
async def test_a_claim_does_not_wait_for_buckets_of_other_relays_after_any_first_step(
    engine: AsyncEngine, first: str
) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO mediator_outbox (id, type, time, bucket, content_type, extensions, data, deliver_at) "
                "VALUES ('a', 'stock.moved.v1', '2026-01-01T00:00:00+00:00', 1, 'a/b', '{}', '', :deliver_at)"
            ),
            {"deliver_at": 1.0 if "due" in first else None},
        )
    outbox = SqlAlchemyOutbox(engine, application="ledger" if "names" in first else None)
    async with engine.begin() as others:
        await others.execute(text("SELECT bucket FROM mediator_relay_buckets FOR UPDATE"))
        async with asyncio.timeout(20), outbox.claim(10) as batch:
            assert (len(batch.events), batch.look_again) == (0, 0.05)
    async with outbox.claim(10) as batch:
        assert [each.id for each in batch.events] == ["a"]


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


def _a_moment_ago() -> datetime:
    return datetime.now(UTC)


async def test_sent_events_are_deleted_if_the_archive_is_off(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1))
    await claimed(SqlAlchemyOutbox(engine, archive_seconds=0))
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM mediator_outbox_archive"))).scalar_one() == 0
    assert await ledger.outbox.pending() == 0


async def test_an_event_is_archived_with_the_time_of_its_publishing_and_not_of_its_claim(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, Moved("k", 1))
    async with ledger.outbox.claim(10) as batch:
        async with engine.connect() as connection:
            published = await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())::float8"))
        await batch.settle([event.id for event in batch.events])
    async with engine.connect() as connection:
        archived = await connection.execute(text("SELECT archived_at FROM mediator_outbox_archive"))
        assert archived.scalar_one() >= published.scalar_one()


async def test_the_archive_is_cleaned_by_the_clock_of_the_database(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, *(Moved("k", number) for number in range(3)))
    await claimed(ledger.outbox)
    assert await ledger.outbox.clean(10) == 0
    short = SqlAlchemyOutbox(engine, archive_seconds=0.001)
    await asyncio.sleep(0.01)
    assert [await short.clean(2), await short.clean(2)] == [2, 1]


@pytest.mark.parametrize(("missing", "rows"), [("TRUE", 0), ("bucket = 17", 63), ("bucket < 60", 4)])
async def test_the_error_of_a_claim_with_missing_bucket_rows_names_the_remedy(
    engine: AsyncEngine, missing: str, rows: int
) -> None:
    ledger = Ledger(engine)
    await add(ledger, *(Moved(f"key {number}", number) for number in range(100)))
    await _delete_buckets(engine, missing)
    with pytest.raises(SchemaError, match=f"has {rows} of .* 64 rows.* `mediator schema create"):
        await claimed(ledger.outbox)
    assert await ledger.outbox.pending() == 100


async def test_a_claim_concurrent_with_others_reports_missing_bucket_rows(engine: AsyncEngine) -> None:
    await _delete_buckets(engine, "bucket = 0")
    async with engine.begin() as others:
        await others.execute(text("SELECT bucket FROM mediator_relay_buckets FOR UPDATE"))
        with pytest.raises(SchemaError, match="has 63 of"):
            await claimed(SqlAlchemyOutbox(engine))


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_row_without_a_valid_bucket_is_not_locked(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    await add(ledger, *(Moved(f"key {number}", number) for number in range(200)))
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO mediator_relay_buckets VALUES (64)"))
    async with SqlAlchemyOutbox(engine).claim(200) as all_of_them, ledger.outbox.claim(200) as batch:
        assert (len(all_of_them.events), len(batch.events)) == (200, 0)


async def test_events_committed_before_the_bucket_rows_exist_are_sent_in_order_afterwards(engine: AsyncEngine) -> None:
    ledger, kept = Ledger(engine), list[CloudEvent]()
    await add(ledger, Moved("k", 1), Moved("k", 2))
    await _delete_buckets(engine, "TRUE")
    await add(ledger, Moved("k", 3), Moved("k", 4))
    with pytest.raises(SchemaError, match="rows that relays need"):
        await claimed(ledger.outbox)
    await create_schema(engine)
    await add(ledger, Moved("k", 5))
    async with ledger.outbox.claim(10) as batch:
        kept += batch.events
    assert [event.data for event in kept] == [b'{"partition_key":"k","number":%d}' % number for number in range(1, 6)]


async def _delete_buckets(engine: AsyncEngine, which: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(f"DELETE FROM mediator_relay_buckets WHERE {which}"))


async def test_a_claim_that_finds_nothing_is_three_statements(engine: AsyncEngine) -> None:
    ledger = Ledger(engine)
    with statements(engine) as seen:
        async with ledger.outbox.claim(10) as batch:
            assert not batch.events
    assert [sql for sql, _ in seen].index("COMMIT") == 3


async def test_looking_for_events_reads_neither_delayed_ones_nor_the_whole_table(engine: AsyncEngine) -> None:
    delayed = (
        "INSERT INTO mediator_outbox (id, type, time, bucket, content_type, extensions, data, deliver_at) SELECT g::text, "
        "'stock.moved.v1', '2026-01-01T00:00:00+00:00', 1, 'a/b', '{}', ''::bytea, 4e9 FROM generate_series(1, 20000) g"
    )
    async with engine.begin() as connection:
        await connection.execute(text(delayed))
        await connection.execute(text("ANALYZE mediator_outbox"))
    ledger = Ledger(engine)
    await add(ledger, *(Moved("k", number) for number in range(10)))
    with statements(engine) as seen:
        async with ledger.outbox.claim(5) as batch:
            assert len(batch.events) == 5
        assert await ledger.outbox.due_in() is not None
    queries = [(sql, values) for sql, values in seen if "FROM mediator_outbox" in sql]
    assert len(queries) == 3
    async with engine.connect() as connection:
        for sql, values in queries:
            plan = [line for (line,) in await connection.exec_driver_sql(f"EXPLAIN (ANALYZE) {sql}", values)]
            assert not any("Seq Scan on mediator_outbox" in line for line in plan), plan
            assert not any("Rows Removed by Filter" in line for line in plan), plan
