"""PostgreSQL goes away, comes back, freezes or changes a setting: clear errors, one outcome, nothing left open."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.shield import wait_for_late_work
from mediator.errors import (
    CommitOutcomeUnknownError,
    DatabaseConnectionError,
    DatabaseUnavailableError,
    DatabaseWriteError,
    RolledBackError,
)
from mediator.sqlalchemy import open_engine, postgresql
from mediator.testing.failpoints import Pause, failpoint
from mediator.transactions import Outcome
from tests.adapters.sqlalchemy.ledger import Do, Ledger, Write, create_tables, pool_of
from tests.postgres import PostgresServer


@pytest.fixture
async def server() -> AsyncIterator[PostgresServer]:
    """Start a server that the test may stop, kill and freeze."""
    async with PostgresServer() as started:
        yield started


@pytest.fixture
async def url(postgres_url: str) -> str:
    return postgres_url


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Open an engine, and check that all its connections are returned at the end."""
    async with open_engine(url, **options) as engine:
        await create_tables(engine)
        yield engine
        await wait_for_late_work(10)
        assert pool_of(engine).checkedout() == 0


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(url) as each:
        yield each


@pytest.fixture
async def mistreated(server: PostgresServer) -> AsyncIterator[Ledger]:
    async with opened(server.url()) as engine:
        yield Ledger(engine)


async def terminate(ledger: Ledger) -> None:
    """Terminate the session of the running transaction from outside, and wait until it is gone."""
    session = ledger.unit_of_work.session
    backend = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    await end_backend(ledger, backend)


async def end_backend(ledger: Ledger, backend: int) -> None:
    async with ledger.engine.connect() as other:
        ended = await other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": backend})
        assert ended.scalar_one()


async def send(ledger: Ledger, command: Write | Do) -> tuple[Any, Outcome]:
    """Send a command, and return its result or error and the outcome of the scope."""
    async with ledger.mediator.scope() as scope:
        try:
            return await ledger.send(command), scope.outcome
        except Exception as error:
            return error, scope.outcome


@pytest.mark.thorough("stops and freezes database servers")
@pytest.mark.parametrize("way", ["fast", "immediate", "kill"])
async def test_the_first_commands_after_a_restart_of_the_server_succeed(
    server: PostgresServer, mistreated: Ledger, way: Any
) -> None:
    await asyncio.gather(*(mistreated.send(Write(str(number))) for number in range(5)))  # fills the pool
    if way == "kill":
        await server.kill()
        await server.start()
    else:
        await server.restart(way)
    await asyncio.gather(*(mistreated.send(Write(str(number))) for number in range(5, 15)))
    assert len(await mistreated.entries()) == len(await mistreated.staged()) == 15


async def test_an_idle_connection_that_still_works_is_kept(engine: AsyncEngine, monkeypatch) -> None:
    monkeypatch.setattr(postgresql, "_IDLE_SECONDS", 0.0)
    used: set[int] = set()
    for _ in range(3):
        async with engine.connect() as connection:
            used.add((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())
    assert len(used) == 1


async def test_commands_fail_with_a_clear_error_while_the_server_is_down(
    server: PostgresServer, mistreated: Ledger
) -> None:
    await mistreated.send(Write("a"))
    await server.stop()
    error, outcome = await send(mistreated, Write("b"))
    assert isinstance(error, DatabaseUnavailableError)
    assert outcome is Outcome.ROLLED_BACK
    await server.start()
    await mistreated.send(Write("c"))
    assert await mistreated.entries() == await mistreated.staged() == ["a", "c"]


async def test_a_command_during_which_the_server_restarts_is_rolled_back(
    server: PostgresServer, mistreated: Ledger
) -> None:
    async def restart(_ledger: Ledger) -> None:
        await server.restart("immediate")

    error, outcome = await send(mistreated, Write("a", then=restart))
    assert isinstance(error, DatabaseConnectionError)
    assert outcome is Outcome.ROLLED_BACK
    await mistreated.send(Write("b"))
    assert await mistreated.entries() == await mistreated.staged() == ["b"]


async def test_a_connection_lost_in_the_middle_fails_the_next_statement_and_rolls_back(ledger: Ledger) -> None:
    async def lose(ledger: Ledger) -> None:
        await terminate(ledger)
        await ledger.write("b")

    error, outcome = await send(ledger, Write("a", then=lose))
    assert isinstance(error, DatabaseConnectionError)
    assert outcome is Outcome.ROLLED_BACK
    await ledger.send(Write("c"))
    assert await ledger.entries() == await ledger.staged() == ["c"]


async def test_a_statement_during_which_the_connection_is_lost_fails_and_rolls_back(ledger: Ledger) -> None:
    async def lose(ledger: Ledger) -> None:
        session = ledger.unit_of_work.session
        backend = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_and_end(ledger, backend))
            await session.execute(text("SELECT pg_sleep(30)"))

    async def wait_and_end(ledger: Ledger, backend: int) -> None:
        async with ledger.engine.connect() as other:
            sleeping = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'PgSleep'")
            while not (await other.execute(sleeping, {"pid": backend})).scalar_one():
                await other.rollback()
        await end_backend(ledger, backend)

    error, outcome = await send(ledger, Write("a", then=lose))
    cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    assert isinstance(cause, DatabaseConnectionError)
    assert outcome is Outcome.ROLLED_BACK
    await ledger.send(Write("b"))
    assert await ledger.entries() == await ledger.staged() == ["b"]


async def test_a_connection_lost_inside_a_savepoint_dooms_the_command(ledger: Ledger) -> None:
    async def swallow(ledger: Ledger) -> None:
        try:
            async with ledger.unit_of_work.session.begin_nested():
                await terminate(ledger)
                await ledger.write("b")
        except Exception:
            return

    error, outcome = await send(ledger, Write("a", then=swallow))
    assert isinstance(error, RolledBackError)
    assert outcome is Outcome.ROLLED_BACK
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_connection_known_to_be_lost_before_its_commit_counts_as_rolled_back(ledger: Ledger) -> None:
    async def write_and_lose(ledger: Ledger) -> None:
        await ledger.write("a")
        connection: Any = await (await ledger.unit_of_work.connection()).get_raw_connection()
        await terminate(ledger)
        async with asyncio.timeout(10):
            while not connection.driver_connection.is_closed():
                await asyncio.sleep(0.01)

    error, outcome = await send(ledger, Do(write_and_lose))
    assert isinstance(error, DatabaseConnectionError)
    assert outcome is Outcome.ROLLED_BACK
    assert await ledger.entries() == []


async def during_commit(ledger: Ledger, disturb: Callable[[], Awaitable[object]]) -> tuple[Any, Outcome]:
    """Do something just before COMMIT, after all statements were executed."""
    pause = Pause()
    with failpoint("unit_of_work.during_commit", pause):
        sending = asyncio.create_task(send(ledger, Write("a")))
        await pause.reached.wait()
        await disturb()
        pause.release()
        return await sending


SLOW_COMMIT = """
CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION linger()
"""


async def test_a_connection_lost_during_the_commit_has_an_unknown_outcome(ledger: Ledger) -> None:
    async with ledger.engine.begin() as connection:
        for statement in SLOW_COMMIT.strip().split(";\nC"):
            await connection.exec_driver_sql(statement if statement.startswith("C") else f"C{statement}")
    sending = asyncio.create_task(send(ledger, Write("a")))
    committing = text("SELECT pid FROM pg_stat_activity WHERE query LIKE 'COMMIT%' AND wait_event = 'PgSleep'")
    async with asyncio.timeout(20), ledger.engine.connect() as other:
        while (backend := (await other.execute(committing)).scalar_one_or_none()) is None:
            await other.rollback()
    await end_backend(ledger, backend)
    error, outcome = await sending
    assert isinstance(error, CommitOutcomeUnknownError)
    assert outcome is Outcome.UNKNOWN
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_session_terminated_just_before_the_commit_leaves_neither_rows_nor_events(ledger: Ledger) -> None:
    async def end_others() -> None:
        async with ledger.engine.connect() as other:
            await other.execute(
                text(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                    "WHERE state = 'idle in transaction' AND datname = current_database()"
                )
            )

    error, outcome = await during_commit(ledger, end_others)
    assert isinstance(error, DatabaseConnectionError | CommitOutcomeUnknownError)
    assert outcome is (Outcome.ROLLED_BACK if isinstance(error, DatabaseConnectionError) else Outcome.UNKNOWN)
    assert await ledger.entries() == await ledger.staged() == []


@pytest.mark.thorough("stops and freezes database servers")
async def test_a_server_that_crashes_during_the_commit_leaves_rows_and_events_or_neither(
    server: PostgresServer, mistreated: Ledger
) -> None:
    killing: list[asyncio.Task[None]] = []

    async def freeze_and_kill() -> None:
        server.suspend()  # COMMIT is sent, and never read
        asyncio.get_running_loop().call_later(0.2, lambda: killing.append(asyncio.create_task(server.kill())))

    error, outcome = await during_commit(mistreated, freeze_and_kill)
    assert isinstance(error, CommitOutcomeUnknownError)
    assert outcome is Outcome.UNKNOWN
    await killing[0]
    await server.start()
    await mistreated.send(Write("b"))
    assert await mistreated.entries() == await mistreated.staged()
    assert (await mistreated.entries())[-1] == "b"


@pytest.mark.thorough("stops and freezes database servers")
async def test_a_frozen_server_makes_the_outcome_unknown_after_the_commit_timeout_and_costs_no_connection(
    server: PostgresServer,
) -> None:
    async with opened(server.url(), pool_size=1, max_overflow=0) as engine:
        ledger = Ledger(engine, uow_options={"commit_timeout": 0.3})

        async def freeze() -> None:
            server.suspend()

        async with asyncio.timeout(10):
            error, outcome = await during_commit(ledger, freeze)
            assert isinstance(error, CommitOutcomeUnknownError)
            assert "0.3 s" in str(error)
            assert outcome is Outcome.UNKNOWN
            await wait_for_late_work(10)
        assert pool_of(engine).checkedout() == 0
        server.resume()
        patient = Ledger(engine)
        await patient.send(Write("b"))
        assert await patient.entries() == await patient.staged()
        assert (await patient.entries())[-1] == "b"


@pytest.mark.thorough("stops and freezes database servers")
async def test_a_statement_that_is_not_answered_in_time_is_a_clear_error_and_its_connection_is_discarded(
    server: PostgresServer,
) -> None:
    async with opened(server.url(), statement_timeout=2.0, pool_size=1, max_overflow=0) as engine:
        ledger = Ledger(engine, uow_options={"commit_timeout": 0.3})

        async def freeze(ledger: Ledger) -> None:
            server.suspend()
            await ledger.write("b")

        async with asyncio.timeout(20):
            error, outcome = await send(ledger, Write("a", then=freeze))
        assert isinstance(error, DatabaseConnectionError)
        assert "not answered in time" in str(error)
        assert outcome is Outcome.ROLLED_BACK
        server.resume()
        await wait_for_late_work(10)
        patient = Ledger(engine)
        await patient.send(Write("c"))
        assert await patient.entries() == await patient.staged() == ["c"]


async def test_a_read_only_server_is_a_clear_error_until_it_accepts_writes(
    postgres: PostgresServer, url: str, ledger: Ledger
) -> None:
    database = url.rpartition("/")[2]
    await ledger.send(Write("a"))
    await postgres.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    await ledger.engine.dispose()  # the setting counts for new connections
    for _ in range(2):
        error, outcome = await send(ledger, Write("b"))
        assert isinstance(error, DatabaseWriteError)
        assert error.read_only
        assert outcome is Outcome.ROLLED_BACK
    await postgres.execute(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
    await ledger.send(Write("c"))  # on a new connection, without a setting of this library
    assert await ledger.entries() == await ledger.staged() == ["a", "c"]


async def test_an_engine_is_closed_although_the_server_is_frozen(server: PostgresServer) -> None:
    async with asyncio.timeout(20), open_engine(server.url()) as engine:
        connections = [await engine.connect() for _ in range(3)]
        for connection in connections:
            await connection.close()
        server.suspend()
    assert pool_of(engine).checkedin() == 0


async def test_a_connection_with_a_pending_begin_of_a_forgotten_task_is_not_returned_to_the_pool(
    server: PostgresServer,
) -> None:
    async with opened(server.url(), pool_size=1, max_overflow=0) as engine:
        ledger, forgotten = Ledger(engine), list[asyncio.Task[None]]()

        async def forget(ledger: Ledger) -> None:
            server.suspend()
            forgotten.append(asyncio.ensure_future(ledger.write("late")))
            while not pool_of(engine).checkedout():
                await asyncio.sleep(0)
            raise LookupError

        async with asyncio.timeout(20):
            assert isinstance((await send(ledger, Do(forget)))[0], LookupError)
            server.resume()
            for entry in "ab":
                await ledger.send(Write(entry))
            await asyncio.gather(*forgotten, return_exceptions=True)
            assert await ledger.entries() == await ledger.staged() == ["a", "b"]
