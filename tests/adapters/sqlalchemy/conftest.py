"""Fixtures: a ledger on SQLite and on PostgreSQL; every test runs on both unless it selects one."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.sqlalchemy import open_engine
from tests.adapters.sqlalchemy.ledger import Ledger, create_tables
from tests.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def url(dialect: str, file: Path, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        if dialect == "sqlite":
            yield f"sqlite:///{file}"
        else:
            server: PostgresServer = request.getfixturevalue("postgres")
            yield await stack.enter_async_context(server.database())


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(url) as opened:
        await create_tables(opened)
        yield opened


@pytest.fixture
def ledger(engine: AsyncEngine) -> Ledger:
    return Ledger(engine)
