"""One process with two databases: during an outage of one database, the workers of the other one keep working."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.dependency_injector import lifespan
from mediator.errors import DatabaseConnectionError, DatabaseUnavailableError
from mediator.nats import NatsServer
from mediator.sqlalchemy import create_schema, open_engine
from tests.end_to_end.office.application import Bill, Note, Office
from tests.postgres import PostgresServer

_BOUND = 5.0
"""Seconds from a command to the effect of its event, on a busy machine."""


@pytest.fixture
async def own_postgres() -> AsyncIterator[PostgresServer]:
    async with PostgresServer() as server:
        yield server


async def effects(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(text("SELECT count(*) FROM mediator_inbox"))).scalar_one()


async def check_that_notes_go_on(office: Any, count: int) -> None:
    for _ in range(count):
        began, before = time.monotonic(), await effects(office.notes())
        await office.mediator().send(Note("x"))
        async with asyncio.timeout(30):
            while await effects(office.notes()) == before:
                await asyncio.sleep(0.01)
        assert time.monotonic() - began < _BOUND


async def until_billed(office: Any) -> None:
    """Wait until the other database works and its group has handled all published events.

    The first connection to a recovered server may take longer than its limit of one second.
    """
    async with asyncio.timeout(60):
        await _until_it_answers(office.mediator().send, Bill("x"))
        while await _until_it_answers(effects, office.bills()) < await effects(office.notes()):
            await asyncio.sleep(0.05)


async def _until_it_answers(ask: Callable[[Any], Awaitable[Any]], what: Any) -> Any:
    while True:
        with contextlib.suppress(DatabaseUnavailableError, DatabaseConnectionError):
            return await ask(what)
        await asyncio.sleep(0.1)


@pytest.mark.thorough("stops and restarts servers")
async def test_the_workers_of_one_database_keep_working_during_an_outage_of_another_even_from_the_start(
    server: NatsServer, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    notes = f"sqlite:///{tmp_path / 'notes.db'}"
    async with own_postgres.database() as bills:
        for url in (notes, bills):
            async with open_engine(url) as engine:
                await create_schema(engine)
        given = {"nats": server.url, "notes": notes, "bills": bills}
        await own_postgres.stop("immediate")
        with pytest.raises(DatabaseUnavailableError):
            async with open_engine(bills, connect_timeout=1.0):
                pass
        async with lifespan(Office(config=given), workers=True) as office:
            await check_that_notes_go_on(office, 3)
            with pytest.raises(DatabaseUnavailableError):
                await office.mediator().send(Bill("x"))
            await own_postgres.start()
            await until_billed(office)
            await own_postgres.stop("immediate")
            await check_that_notes_go_on(office, 3)
            await own_postgres.start()
            await until_billed(office)
