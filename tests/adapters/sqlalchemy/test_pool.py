"""The pool never lets a dispatch hang, and gets every connection back."""

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from mediator import TransactionMode
from mediator.errors import MisuseError, PoolExhaustedError
from mediator.sqlalchemy import SqlAlchemyInbox, open_engine
from tests.adapters.sqlalchemy.ledger import Count, Do, Ledger, Write, create_tables, pool_of, postgresql_only


@pytest.fixture
async def patient(url: str) -> AsyncIterator[Ledger]:
    """Open a ledger on a pool of the same size; dispatches wait up to a minute for its connections."""
    async with open_engine(url, pool_size=2, max_overflow=1, pool_timeout=60) as opened:
        await create_tables(opened)
        yield Ledger(opened)
        assert pool_of(opened).checkedout() == 0


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(url, pool_size=2, max_overflow=1, pool_timeout=0.3) as opened:
        await create_tables(opened)
        yield opened
        assert pool_of(opened).checkedout() == 0


def nested(depth: int, mode: TransactionMode = TransactionMode.NEW) -> Callable[[Ledger], Awaitable[Any]]:
    async def action(ledger: Ledger) -> None:
        if depth > 1:
            await ledger.send(Write(str(depth), then=nested(depth - 1, mode)), mode=mode)

    return action


@postgresql_only
async def test_dispatches_may_be_nested_as_deep_as_the_pool_size(ledger: Ledger) -> None:
    await ledger.send(Write("outer", then=nested(3)))
    assert sorted(await ledger.entries()) == ["2", "3", "outer"]


@postgresql_only
async def test_dispatches_nested_deeper_than_the_pool_fail_at_once(url: str) -> None:
    async with open_engine(url, pool_size=2, max_overflow=1, pool_timeout=60) as patient:
        await create_tables(patient)
        ledger = Ledger(patient)
        async with asyncio.timeout(10):
            with pytest.raises(MisuseError, match="3 connections"):
                await ledger.send(Write("outer", then=nested(4)))
            assert await ledger.entries() == []
            await ledger.send(Write("after"))
        assert pool_of(patient).checkedout() == 0


@postgresql_only
async def test_queries_nested_in_commands_count_towards_the_depth(ledger: Ledger) -> None:
    async def innermost(ledger: Ledger) -> None:
        await ledger.send(Count(), mode=TransactionMode.NEW)

    async def two(ledger: Ledger) -> None:
        await ledger.send(Write("2", then=three), mode=TransactionMode.NEW)

    async def three(ledger: Ledger) -> None:
        await ledger.send(Write("3", then=innermost), mode=TransactionMode.NEW)

    with pytest.raises(MisuseError, match="are held by the dispatches around"):
        await ledger.send(Write("1", then=two))


@pytest.mark.thorough("waits in real time, or does much work")
async def test_an_inbox_without_a_free_connection_reports_an_unavailable_database(ledger: Ledger) -> None:
    inbox = SqlAlchemyInbox(ledger.engine)
    for _ in range(2):
        connections = [await ledger.engine.connect() for _ in range(3)]
        for connection in connections:
            await connection.execute(text("SELECT 1"))
        assert not await inbox.answers()
        assert not await inbox.takes_writes()
        for connection in connections:
            await connection.close()
        assert await inbox.answers()
        assert await inbox.takes_writes()


async def test_a_dispatch_that_finds_the_pool_empty_waits_no_longer_than_allowed(ledger: Ledger) -> None:
    connections = [await ledger.engine.connect() for _ in range(3)]
    for connection in connections:
        await connection.execute(text("SELECT 1"))
    with pytest.raises(PoolExhaustedError, match=r"3 connections .* 0\.3 s"):
        await ledger.send(Write("a"))
    waiting = asyncio.create_task(ledger.send(Write("b")))
    await asyncio.sleep(0)
    await connections.pop().close()
    assert await waiting == "B"
    for connection in connections:
        await connection.close()


@postgresql_only
async def test_nested_dispatches_wait_for_connections_that_other_dispatches_hold(patient: Ledger) -> None:
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(_ledger: Ledger) -> None:
        held.set()
        await release.wait()

    async def outer(ledger: Ledger) -> None:
        asyncio.get_running_loop().call_later(0.02, release.set)
        await ledger.send(Write("inner", then=nested(2)), mode=TransactionMode.NEW)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(patient.send(Write("other", then=hold)))
        await held.wait()
        group.create_task(patient.send(Write("outer", then=outer)))
    assert sorted(await patient.entries()) == ["2", "inner", "other", "outer"]


@postgresql_only
async def test_many_commands_at_once_share_a_small_pool(patient: Ledger) -> None:
    await asyncio.gather(*(patient.send(Write(str(number))) for number in range(20)))
    assert len(await patient.entries()) == 20


async def test_another_pool_can_be_chosen(url: str) -> None:
    async with open_engine(url, poolclass=NullPool) as engine:
        await create_tables(engine)
        ledger = Ledger(engine)
        await ledger.send(Do(nested(3) if "postgresql" in url else nested(1)))


async def test_returned_connections_are_forgotten(ledger: Ledger) -> None:
    for number in range(30):
        await ledger.send(Write(str(number)))
    gc.collect()
    assert len(pool_of(ledger.engine)._held) <= 3


async def test_a_returned_connection_does_not_count_as_held_by_an_enclosing_dispatch(url: str) -> None:
    """This holds even with remaining references to it: the dispatch waits for connections that others hold."""
    async with open_engine(url, pool_size=1, max_overflow=0, pool_timeout=60) as engine:
        await create_tables(engine)
        ledger, references = Ledger(engine), list[Any]()

        async def outer(_ledger: Ledger) -> int:
            async with engine.connect() as connection:
                raw = await connection.get_raw_connection()
                references.append(raw._connection if hasattr(raw, "_connection") else raw)
            elsewhere = await contextvars.Context().run(asyncio.create_task, hold())
            asyncio.get_running_loop().call_later(0.05, elsewhere.set)
            async with asyncio.timeout(10), ledger.mediator.scope(TransactionMode.NEW), engine.connect() as connection:
                return int((await connection.execute(text("SELECT 7"))).scalar_one())

        async def hold() -> asyncio.Event:
            connection, release = await engine.connect(), asyncio.Event()
            await connection.execute(text("SELECT 1"))
            task = asyncio.create_task(_close(connection, release))
            references.append(task)
            return release

        assert await ledger.send(Do(outer)) == 7
        await references[-1]


async def _close(connection: Any, release: asyncio.Event) -> None:
    await release.wait()
    await connection.close()
