"""What every test relies on."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings

from tests.postgres import PostgresServer

settings.register_profile("mediator", deadline=None, print_blob=True)
settings.load_profile("mediator")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this session, shared: never stop it, and use one database per test."""
    server = PostgresServer()
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield server
        runner.run(server.close())


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """An empty PostgreSQL database for one test."""
    async with postgres.database() as url:
        yield url
