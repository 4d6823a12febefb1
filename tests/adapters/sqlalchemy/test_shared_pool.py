"""Calls after the commit need no second connection, and writers that wait for their turn hold no connection."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import Mediator
from mediator.registry import Registry
from mediator.sqlalchemy import SqlAlchemyUnitOfWork, open_engine
from tests.adapters.sqlalchemy.ledger import Do, Ledger, Noted

_BOUND = 3.0


@pytest.fixture
async def small(file: Path) -> AsyncIterator[AsyncEngine]:
    async with open_engine(f"sqlite:///{file}", pool_size=2, max_overflow=0, pool_timeout=1.0) as engine:
        yield engine


async def test_writers_that_wait_for_the_file_lock_hold_no_connection(small: AsyncEngine) -> None:
    mediator = Mediator(Registry())
    go, inside = asyncio.Event(), asyncio.Event()

    async def write(*, first: bool) -> None:
        async with mediator.scope():
            unit_of_work = SqlAlchemyUnitOfWork(small)
            async with unit_of_work:
                await unit_of_work.session.execute(text("SELECT 1"))
                if first:
                    inside.set()
                    await go.wait()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(write(first=True))
        await inside.wait()
        for _ in range(10):
            group.create_task(write(first=False))
        await asyncio.sleep(0)
        for _ in range(5):
            began = time.monotonic()
            async with mediator.scope():
                reading = SqlAlchemyUnitOfWork(small)
                assert (await reading.session.execute(text("SELECT 1"))).scalar_one() == 1
                await reading.aclose()
            assert time.monotonic() - began < _BOUND
        go.set()


async def test_work_after_the_commit_can_use_the_connection_of_the_command(ledger: Ledger, url: str) -> None:
    async with open_engine(url, pool_size=1, max_overflow=0, pool_timeout=1.0) as engine:
        single = Ledger(engine)

        async def act(ledger: Ledger) -> None:
            await ledger.write("command")
            for text_ in ("a", "b"):
                ledger.mediator.publish_after_commit(Noted(text_))

        async with asyncio.timeout(30):
            await single.send(Do(act))
            assert await single.entries() == ["command", "a", "b"]
