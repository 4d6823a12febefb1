from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.sqlalchemy import create_schema, open_engine
from tests.adapters.sqlalchemy.ledger import Ledger


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def engine(file: Path) -> AsyncIterator[AsyncEngine]:
    async with open_engine(f"sqlite:///{file}") as opened:
        await create_schema(opened)
        async with opened.begin() as connection:
            await connection.execute(text("CREATE TABLE entries (text TEXT NOT NULL)"))
            await connection.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
            await connection.execute(
                text("CREATE TABLE children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)")
            )
        yield opened


@pytest.fixture
def ledger(engine: AsyncEngine) -> Ledger:
    return Ledger(engine)
