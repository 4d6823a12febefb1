"""Assumptions of the outbox, the inbox and the relays about PostgreSQL, independent of the driver."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.postgres import PostgresServer

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")

Connection = asyncpg.Connection


@pytest.fixture
async def one(database: str, schema: str) -> AsyncIterator[Connection]:
    async with connected(database, schema) as connection:
        await connection.execute(
            "CREATE TABLE inbox (id text PRIMARY KEY); CREATE TABLE buckets (bucket int PRIMARY KEY)"
        )
        await connection.execute("INSERT INTO buckets SELECT generate_series(0, 3)")
        yield connection


@pytest.fixture
async def other(database: str, schema: str, one: Connection) -> AsyncIterator[Connection]:
    async with connected(database, schema) as connection:
        yield connection


@asynccontextmanager
async def connected(database: str, schema: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database, timeout=30, server_settings={"search_path": schema})
    try:
        yield connection
    finally:
        await connection.close(timeout=10)  # the server releases the locks of the connection


INSERT = "INSERT INTO inbox VALUES ('x') ON CONFLICT DO NOTHING"


async def waits(server: PostgresServer, connection: Connection, work: Awaitable) -> asyncio.Future:
    """Start work that must wait for a lock, and return when the server reports that the work waits."""
    pid = connection.get_server_pid()
    running = asyncio.ensure_future(work)
    async with asyncio.timeout(10):
        while not await server.execute(
            f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
        ):
            assert not running.done()
            await asyncio.sleep(0.01)
    return running


async def sqlstate(statement: Awaitable) -> str | None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await statement
    return caught.value.sqlstate


@pytest.mark.parametrize(("end", "outcome"), [("COMMIT", "INSERT 0 0"), ("ROLLBACK", "INSERT 0 1")])
async def test_on_conflict_do_nothing_waits_for_the_transaction_that_inserted_first(
    postgres: PostgresServer, one: Connection, other: Connection, end: str, outcome: str
):
    """In `SqlAlchemyInbox.insert`, the second consumer of an event waits for the outcome of the first consumer."""
    await one.execute("BEGIN")
    await one.execute(INSERT)
    inserting = await waits(postgres, other, other.execute(INSERT))
    await one.execute(end)
    assert await inserting == outcome


async def test_on_conflict_do_nothing_returns_no_row_for_an_existing_key(one: Connection):
    """`SqlAlchemyInbox.insert` with a key treats no returned row as a duplicate."""
    assert len(await one.fetch(f"{INSERT} RETURNING EXISTS (SELECT 1 FROM inbox WHERE id = 'y')")) == 1
    assert await one.fetch(f"{INSERT} RETURNING EXISTS (SELECT 1 FROM inbox WHERE id = 'y')") == []


async def test_skip_locked_skips_locked_rows_and_locks_the_others(one: Connection, other: Connection):
    """`BucketClaims._lock` uses it, so that several relays share the buckets."""
    await one.execute("BEGIN")
    await other.execute("BEGIN")
    lock = "SELECT bucket FROM buckets ORDER BY bucket LIMIT 2 FOR UPDATE SKIP LOCKED"
    assert [row[0] for row in await one.fetch(lock)] == [0, 1]
    assert [row[0] for row in await other.fetch(lock)] == [2, 3]


@pytest.mark.parametrize("lock", ["SELECT bucket FROM buckets FOR UPDATE", "SELECT pg_advisory_xact_lock(7)"])
async def test_locks_end_when_the_connection_of_their_holder_breaks(
    postgres: PostgresServer, one: Connection, other: Connection, lock: str
):
    """The buckets of a relay and the keys of a commit are released as soon as their process dies."""
    await one.execute("BEGIN")
    await one.execute(lock)
    await other.execute("BEGIN")
    locking = await waits(postgres, other, other.execute(lock))
    one.terminate()  # closes the socket, like the death of the process
    async with asyncio.timeout(10):
        await locking


async def test_uncommitted_rows_are_gone_with_their_connection(one: Connection, other: Connection):
    """A process that dies before COMMIT leaves no row behind."""
    await one.execute("BEGIN")
    await one.execute(INSERT)
    one.terminate()
    async with asyncio.timeout(10):
        assert await other.execute(INSERT) == "INSERT 0 1"


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_advisory_locks_of_a_transaction_end_with_the_transaction(one: Connection, other: Connection, end: str):
    """`stage_events` and `lock_key` rely on it and never unlock."""
    await one.execute("BEGIN")
    await one.execute("SELECT pg_advisory_xact_lock(7)")
    assert not await other.fetchval("SELECT pg_try_advisory_xact_lock(7)")
    await one.execute(end)
    assert await other.fetchval("SELECT pg_try_advisory_xact_lock(7)")


async def test_an_advisory_lock_can_be_taken_again_by_its_holder(one: Connection):
    """A handler may add several events of one key, also while it handles a replayed event of this key."""
    await one.execute("BEGIN")
    await one.execute("SELECT pg_advisory_xact_lock(7), pg_advisory_xact_lock(7)")


async def test_a_materialized_cte_runs_before_sequence_numbers_are_drawn(
    postgres: PostgresServer, one: Connection, other: Connection
):
    """`stage_events` must lock the key before it draws sequences, so that sequences follow the order of commits."""
    await one.execute("CREATE TABLE outbox (sequence bigint GENERATED BY DEFAULT AS IDENTITY (CACHE 1), n int)")
    staged = """WITH locks AS MATERIALIZED (SELECT count(pg_advisory_xact_lock(7)) AS held) INSERT INTO outbox (n)
        SELECT n FROM unnest(ARRAY[3, 1, 2]) WITH ORDINALITY AS events (n, place)
        WHERE (SELECT held FROM locks) >= 0 ORDER BY place"""
    await one.execute("BEGIN")
    await one.execute("SELECT pg_advisory_xact_lock(7)")
    staging = await waits(postgres, other, other.execute(staged))
    await one.execute("INSERT INTO outbox (n) VALUES (0)")
    await one.execute("COMMIT")
    await staging
    rows = await one.fetch("SELECT n FROM outbox ORDER BY sequence")
    assert [row[0] for row in rows] == [0, 3, 1, 2]


async def test_a_sequence_number_is_not_reused_after_a_rollback(one: Connection):
    """Sequences of outbox and parking may have gaps but never repeat, so that an old number never names a new row."""
    await one.execute("CREATE TABLE outbox (sequence bigint GENERATED BY DEFAULT AS IDENTITY, n int)")
    await one.execute("BEGIN")
    await one.execute("INSERT INTO outbox (n) VALUES (1)")
    await one.execute("ROLLBACK")
    assert await one.fetchval("INSERT INTO outbox (n) VALUES (2) RETURNING sequence") == 2


async def test_sequence_numbers_follow_the_order_of_drawing_and_not_of_commits(one: Connection, other: Connection):
    """Therefore a relay cannot store its position as a sequence, and `stage_events` locks the keys."""
    await one.execute("CREATE TABLE outbox (sequence bigint GENERATED BY DEFAULT AS IDENTITY, n int)")
    await one.execute("BEGIN")
    await one.execute("INSERT INTO outbox (n) VALUES (1)")
    await other.execute("INSERT INTO outbox (n) VALUES (2)")
    assert [row[0] for row in await other.fetch("SELECT sequence FROM outbox")] == [2]
    await one.execute("COMMIT")
    assert [row[0] for row in await other.fetch("SELECT sequence FROM outbox ORDER BY 1")] == [1, 2]


async def test_a_lock_timeout_and_nowait_both_raise_55P03(one: Connection, other: Connection):  # noqa: N802
    """The library checks for `LOCK_NOT_AVAILABLE` in waiting relays and in inner transactions."""
    await one.execute("BEGIN")
    await one.execute("SELECT 1 FROM buckets FOR UPDATE")
    await other.execute("BEGIN")
    await other.execute("SELECT set_config('lock_timeout', '20ms', true)")
    assert await sqlstate(other.execute("SELECT 1 FROM buckets FOR UPDATE")) == "55P03"
    await other.execute("ROLLBACK")
    assert await sqlstate(other.execute("SELECT 1 FROM buckets FOR UPDATE NOWAIT")) == "55P03"


async def test_a_local_setting_ends_with_its_transaction(one: Connection):
    """`BucketClaims._begin` and inner transactions set such timeouts on pooled connections."""
    await one.execute("BEGIN")
    await one.execute("SELECT set_config('lock_timeout', '20ms', true)")
    assert await one.fetchval("SHOW lock_timeout") == "20ms"
    await one.execute("COMMIT")
    assert await one.fetchval("SHOW lock_timeout") == "0"


async def test_the_idle_transaction_timeout_closes_the_connection_and_releases_its_locks(
    postgres: PostgresServer, one: Connection, other: Connection
):
    """`idle_timeout` and a relay's `frozen_seconds` rely on it: a frozen process loses its buckets."""
    await one.execute("BEGIN")
    await one.execute("SELECT set_config('idle_in_transaction_session_timeout', '2000ms', true)")
    await one.execute("SELECT 1 FROM buckets FOR UPDATE")
    await other.execute("BEGIN")
    locking = await waits(postgres, other, other.execute("SELECT 1 FROM buckets FOR UPDATE"))
    async with asyncio.timeout(10):
        await locking
        while not one.is_closed():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("asked", [True, False])
async def test_a_write_in_a_read_only_transaction_raises_25006(one: Connection, asked: bool):
    """The library raises `NoUnitOfWorkError` in a query, and `DatabaseWriteError` on a read-only server."""
    await one.execute("SELECT 1" if asked else "SET default_transaction_read_only = on")
    await one.execute("BEGIN READ ONLY" if asked else "BEGIN")
    assert await sqlstate(one.execute(INSERT)) == "25006"


async def test_row_locks_count_as_writes_in_a_read_only_transaction(one: Connection):
    """Therefore a query cannot lock rows."""
    await one.execute("BEGIN READ ONLY")
    assert await sqlstate(one.execute("SELECT 1 FROM buckets FOR UPDATE")) == "25006"


async def test_a_missing_table_raises_42P01(one: Connection):  # noqa: N802
    """The library translates it to `SchemaError`."""
    assert await sqlstate(one.execute("SELECT 1 FROM mediator_outbox")) == "42P01"


async def test_a_failed_transaction_refuses_statements_and_its_commit_rolls_back(one: Connection):
    """An error of a statement dooms the unit of work, because COMMIT would roll back without an error."""
    await one.execute("BEGIN")
    await one.execute(INSERT)
    assert await sqlstate(one.execute("SELECT 1 / 0")) == "22012"
    assert await sqlstate(one.execute("SELECT 1")) == "25P02"
    assert await one.execute("COMMIT") == "ROLLBACK"
    assert await one.fetchval("SELECT count(*) FROM inbox") == 0


async def test_a_transaction_is_usable_after_a_rollback_to_a_savepoint(one: Connection):
    """A nested command runs behind a savepoint, so that its error does not doom the outer command."""
    await one.execute("BEGIN; SAVEPOINT s")
    await sqlstate(one.execute("SELECT 1 / 0"))
    await one.execute("ROLLBACK TO SAVEPOINT s")
    await one.execute(INSERT)
    await one.execute("COMMIT")
    assert await one.fetchval("SELECT count(*) FROM inbox") == 1


async def test_a_rollback_to_a_savepoint_releases_advisory_locks_taken_after_the_savepoint(
    one: Connection, other: Connection
):
    """Therefore `stage_events` locks keys in the last statement of a transaction, outside every savepoint."""
    await one.execute("BEGIN; SAVEPOINT s")
    await one.execute("SELECT pg_advisory_xact_lock(7)")
    await one.execute("ROLLBACK TO SAVEPOINT s")
    assert await other.fetchval("SELECT pg_try_advisory_xact_lock(7)")


async def test_statement_timestamp_advances_within_a_transaction_and_now_does_not(one: Connection):
    """`DatabaseClock` uses it, so that a relay with a long transaction notices that delayed events become due."""
    await one.execute("BEGIN")
    began, first = await one.fetchrow("SELECT now(), statement_timestamp()")
    same, second = await one.fetchrow("SELECT now(), statement_timestamp()")
    assert began == same
    assert first < second


async def test_read_committed_sees_rows_committed_meanwhile_and_repeatable_read_does_not(
    one: Connection, other: Connection
):
    """Queries need one snapshot. The inbox reads again under a key's lock and must see the committed replay."""
    await one.execute("BEGIN")
    assert await one.fetchval("SELECT count(*) FROM inbox") == 0
    await other.execute(INSERT)
    assert await one.fetchval("SELECT count(*) FROM inbox") == 1
    await one.execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert await one.fetchval("SELECT count(*) FROM inbox") == 1
    await other.execute("DELETE FROM inbox")
    assert await one.fetchval("SELECT count(*) FROM inbox") == 1


async def test_commits_are_synchronous_by_default(one: Connection):
    """Therefore an acknowledged commit survives a crash of the server."""
    settings = ("fsync", "synchronous_commit", "full_page_writes")
    assert [await one.fetchval(f"SHOW {name}") for name in settings] == ["on", "on", "on"]
