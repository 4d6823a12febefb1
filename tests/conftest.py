"""What every test relies on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings

from tests.postgres import PostgresServer

settings.register_profile("mediator", deadline=None, print_blob=True)
settings.load_profile("mediator")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this session, shared: never stop it, and use one database per test."""
    server = PostgresServer()
    with ThreadPoolExecutor(1) as aside:  # asked for by an asynchronous fixture, it is inside an event loop already
        aside.submit(asyncio.run, server.start()).result()
        yield server
        aside.submit(asyncio.run, server.close()).result()


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """An empty PostgreSQL database for one test."""
    async with postgres.database() as url:
        yield url
