"""Assumptions of `PostgresqlDatabase` about asyncpg."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.postgres import PostgresServer

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")


@pytest.fixture
def postgres_url(database: str) -> str:
    return database


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_url, timeout=30)
    yield connection
    connection.terminate()


async def test_a_cancelled_statement_leaves_the_connection_usable_or_closed(connection: asyncpg.Connection):
    """A dispatch that is cancelled in a statement rolls back on the same connection."""
    async with connection.transaction():
        await connection.execute("CREATE TABLE cancelled (n int)")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.execute("SELECT pg_sleep(60)")
        assert not connection.is_closed()
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await connection.execute("SELECT 1")
        await connection.execute("ROLLBACK")
        await connection.execute("BEGIN")
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename = 'cancelled'") == 0


async def test_a_statement_that_times_out_raises_timeout_error(postgres_url: str):
    """`connect_arguments` sets `command_timeout`; `_translated_statement` treats the error as a lost connection."""
    connection = await asyncpg.connect(postgres_url, timeout=30, command_timeout=0.05)
    with pytest.raises(TimeoutError) as caught:
        await connection.execute("SELECT pg_sleep(60)")
    assert not isinstance(caught.value, asyncpg.PostgresError)
    connection.terminate()


async def test_a_second_concurrent_statement_is_refused(connection: asyncpg.Connection):
    """`_leave` discards a connection in which a forgotten task still runs a statement."""
    first = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    with pytest.raises(asyncpg.InterfaceError):
        await connection.execute("COMMIT")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_is_in_transaction_reflects_the_state_of_the_server(connection: asyncpg.Connection):
    """`_check_running` and `_leave` detect a transaction that the application's own SQL has begun or ended."""
    assert not connection.is_in_transaction()
    await connection.execute("BEGIN")
    assert connection.is_in_transaction()
    with pytest.raises(asyncpg.PostgresError):
        await connection.execute("SELECT 1 / 0")
    assert connection.is_in_transaction()
    await connection.execute("ROLLBACK")
    assert not connection.is_in_transaction()


async def test_terminating_closes_at_once_and_does_not_wait_for_the_server(connection: asyncpg.Connection):
    """`_hang_up` is a synchronous function, and the connection must be closed when it returns."""
    assert connection.terminate() is None
    assert connection.is_closed()


async def test_a_statement_on_a_terminated_connection_raises_interface_error(connection: asyncpg.Connection):
    """SQLAlchemy treats the error as a disconnect; `_check` replaces such a connection before it is used."""
    connection.terminate()
    with pytest.raises(asyncpg.InterfaceError):
        await connection.execute("SELECT 1")


async def test_fetching_an_empty_statement_makes_a_round_trip_to_the_server(connection: asyncpg.Connection):
    """`_check` probes an idle connection by fetching `;`. Executing `;` fails with `AttributeError`."""
    assert await connection.fetchrow(";", timeout=5) is None
    assert not connection.is_closed()


async def test_a_connection_closed_by_the_server_during_a_statement_raises_08003(
    postgres: PostgresServer, connection: asyncpg.Connection
):
    """The server's code 57P01 is only in the error text, so the library detects the loss by `is_closed`."""
    pid = connection.get_server_pid()
    sleeping = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
    async with asyncio.timeout(10):
        while not await postgres.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'"):
            await asyncio.sleep(0.01)
        await postgres.execute(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(asyncpg.PostgresError) as caught:
            await sleeping
    assert caught.value.sqlstate == "08003"
    assert connection.is_closed()


async def test_errors_of_the_server_have_a_sqlstate_and_those_of_the_client_have_none(
    connection: asyncpg.Connection, postgres_url: str
):
    """`sqlstate_of` reads this attribute of every error."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await connection.execute("SELECT 1 / 0")
    assert caught.value.sqlstate == "22012"
    connection.terminate()
    with pytest.raises(asyncpg.InterfaceError) as refused:
        await connection.execute("SELECT 1")
    assert getattr(refused.value, "sqlstate", None) is None


async def test_connecting_to_an_absent_server_raises_os_error():
    """The library translates this error to `DatabaseUnavailableError`, so that no error of asyncpg reaches a user."""
    with pytest.raises(OSError):
        await asyncpg.connect("postgresql://postgres@127.0.0.1:1/postgres", timeout=10)


async def test_settings_of_a_session_are_sent_when_it_connects(postgres_url: str):
    """`connect_arguments` passes `idle_in_transaction_session_timeout`, which must apply from the first statement."""
    settings = {"idle_in_transaction_session_timeout": "60000", "application_name": "mediator"}
    connection = await asyncpg.connect(postgres_url, timeout=30, server_settings=settings)
    assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "1min"
    assert await connection.fetchval("SHOW application_name") == "mediator"
    await connection.close()
