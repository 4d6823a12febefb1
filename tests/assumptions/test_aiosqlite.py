"""Assumptions of `SqliteDatabase` about aiosqlite and about SQLAlchemy's dialect for aiosqlite."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")


class Own(sqlite3.Connection):
    """A subclass of the connection, like `GuardedConnection`."""


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}", connect_args={"factory": Own})

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _entry: object) -> None:
        connection.isolation_level = None

    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE rows (n INTEGER)"))
    yield engine
    await engine.dispose()


async def test_the_connection_factory_is_passed_to_sqlite(engine: AsyncEngine):
    """`open_engine` passes `GuardedConnection` as the factory."""
    async with engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        assert isinstance(raw._conn, Own)


async def test_without_an_isolation_level_the_driver_begins_no_transaction(engine: AsyncEngine):
    """`_configure` disables the driver's BEGIN, because `begun` begins each transaction with the BEGIN it chooses."""
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO rows VALUES (1)"))
        raw: Any = (await connection.get_raw_connection()).driver_connection
        assert not raw.in_transaction


async def test_a_begin_in_the_event_starts_the_transaction_that_commit_ends(engine: AsyncEngine):
    """`Database.begun` listens to `begin`."""

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO rows VALUES (1)"))
        raw: Any = (await connection.get_raw_connection()).driver_connection
        assert raw.in_transaction
        await connection.rollback()
        assert not raw.in_transaction
        assert (await connection.execute(text("SELECT * FROM rows"))).all() == []


async def test_statements_passed_to_the_driver_run_in_order_without_being_awaited(engine: AsyncEngine):
    """`_roll_back` is queued before the close. The statement of a forgotten task may run after the ROLLBACK."""
    async with engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        inserting = [asyncio.ensure_future(raw.execute("INSERT INTO rows VALUES (?)", (n,))) for n in range(20)]
        await asyncio.sleep(0)
        inserting[3].cancel()
        await asyncio.wait(inserting)
        rows = await raw.execute_fetchall("SELECT n FROM rows ORDER BY rowid")
        assert [row[0] for row in rows] == list(range(20))


async def test_an_error_of_the_file_has_the_error_of_the_driver_as_its_origin(engine: AsyncEngine):
    """`SqliteDatabase.translated` and `is_missing_table` read the text of the driver's error."""
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text("SELECT 1 FROM missing"))
    assert isinstance(caught.value.orig, sqlite3.OperationalError)
    assert str(caught.value.orig) == "no such table: missing"
