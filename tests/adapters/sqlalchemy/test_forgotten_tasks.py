"""A task that outlives its transaction or scope holds no connection, and loses no write silently."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from mediator.errors import NoUnitOfWorkError, ScopeError
from mediator.sqlalchemy import open_engine
from mediator.sqlalchemy.session import when_idle
from mediator.testing.failpoints import Pause, failpoint
from tests.adapters.sqlalchemy.ledger import (
    Do,
    EntryWritten,
    Ledger,
    Write,
    create_tables,
    pool_of,
    postgresql_only,
    sqlite_only,
)
from tests.unit.virtual_time import in_virtual_time, now


class Forgotten:
    """An action that starts a task and does not await it."""

    def __init__(self, work: Callable[[Ledger], Awaitable[Any]], *, fails: bool = False) -> None:
        self._work = work
        self._fails = fails

    async def __call__(self, ledger: Ledger) -> None:
        self.task = asyncio.ensure_future(self._work(ledger))
        await asyncio.sleep(0)
        if self._fails:
            raise LookupError("on purpose")


@sqlite_only
@pytest.mark.parametrize("fails", [False, True])
async def test_a_forgotten_task_that_waits_for_the_writers_lock_does_not_keep_it(ledger: Ledger, fails: bool) -> None:
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(_ledger: Ledger) -> None:
        held.set()
        await release.wait()

    forgotten = Forgotten(lambda ledger: ledger.write("late"), fails=fails)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(ledger.send(Write("held", then=hold)))
        await held.wait()
        first = await asyncio.gather(ledger.send(Do(forgotten)), return_exceptions=True)
        assert [type(error) for error in first] == [LookupError if fails else type(None)]
        release.set()
        with pytest.raises(NoUnitOfWorkError):
            await forgotten.task
        await ledger.send(Write("after"))
    assert await ledger.entries() == await ledger.staged() == ["held", "after"]


async def test_a_session_used_after_its_scope_opens_no_connection(ledger: Ledger) -> None:
    ended = asyncio.Event()
    session: Any = None

    async def read_later(ledger: Ledger) -> None:
        nonlocal session
        session = ledger.unit_of_work.session
        await ended.wait()
        await session.execute(text("SELECT 1"))

    forgotten = Forgotten(read_later)
    await ledger.send(Write("a", then=forgotten))
    ended.set()
    with pytest.raises(ScopeError, match="its scope is closed"):
        await forgotten.task
    assert await ledger.entries() == ["a"]


async def test_two_first_statements_at_once_do_not_wait_for_each_other(ledger: Ledger) -> None:
    async def at_once(ledger: Ledger) -> None:
        await asyncio.gather(ledger.write("b"), ledger.write("c"), return_exceptions=True)

    async with asyncio.timeout(10):
        await asyncio.gather(ledger.send(Do(at_once)), return_exceptions=True)
        await ledger.send(Write("after"))
    assert (await ledger.entries())[-1] == "after"


@pytest.mark.parametrize("name", ["unit_of_work.before_commit", "unit_of_work.during_commit"])
async def test_a_dispatch_that_joins_during_the_commit_is_refused(ledger: Ledger, name: str) -> None:
    committing = Pause()

    async def add(ledger: Ledger) -> None:
        ledger.events.add(EntryWritten("late"))

    async def send_late(ledger: Ledger) -> None:
        await committing.reached.wait()
        with pytest.raises(NoUnitOfWorkError):
            ledger.events.add(EntryWritten("late"))
        await ledger.send(Do(add))

    forgotten = Forgotten(send_late)
    with failpoint(name, committing):
        sending = asyncio.create_task(ledger.send(Write("a", then=forgotten)))
        await committing.reached.wait()
        with pytest.raises(ScopeError, match="at the same time"):
            await forgotten.task
        committing.release()
        assert await sending == "A"
    assert await ledger.entries() == await ledger.staged() == ["a"]
    async with ledger.mediator.scope():
        await ledger.send(Write("b"))
        await ledger.send(Write("c"))
    assert await ledger.entries() == await ledger.staged() == ["a", "b", "c"]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_forgotten_task_that_is_connecting_leaves_no_connection(ledger: Ledger, fails: bool) -> None:
    forgotten = Forgotten(lambda ledger: ledger.write("late"), fails=fails)
    await ledger.engine.dispose()  # forces a new connection
    async with asyncio.timeout(10):
        await asyncio.gather(ledger.send(Do(forgotten)), return_exceptions=True)
        await asyncio.gather(forgotten.task, return_exceptions=True)
        assert pool_of(ledger.engine).checkedout() == 0
        await ledger.send(Write("after"))
    assert (await ledger.entries())[-1] == (await ledger.staged())[-1] == "after"


@postgresql_only
@pytest.mark.parametrize("fails", [False, True])
async def test_a_connection_in_use_by_a_forgotten_task_is_not_returned_to_the_pool(url: str, fails: bool) -> None:
    async def sleep(ledger: Ledger) -> None:
        await ledger.unit_of_work.session.execute(text("SELECT pg_sleep(1)"))

    async def wait_for_it(ledger: Ledger) -> None:
        await ledger.write("a")
        forgotten.task = asyncio.ensure_future(sleep(ledger))
        asleep = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        async with ledger.engine.connect() as other:
            while not (await other.execute(asleep)).scalar_one():
                await other.rollback()
        if fails:
            raise LookupError("on purpose")

    forgotten = Forgotten(sleep)
    async with asyncio.timeout(10), open_engine(url, pool_size=2, max_overflow=0) as engine:
        await create_tables(engine)
        ledger = Ledger(engine)
        with pytest.raises((LookupError, DBAPIError)):
            await ledger.send(Do(wait_for_it))
        await ledger.send(Write("b"))
        await ledger.send(Write("c"))
        await asyncio.gather(forgotten.task, return_exceptions=True)
        assert pool_of(engine).checkedout() == 0
        assert await ledger.entries() == await ledger.staged() == ["b", "c"]


@in_virtual_time
async def test_a_busy_session_is_abandoned_after_ten_seconds_and_a_failing_one_at_once() -> None:
    busy = 3

    async def end() -> None:
        nonlocal busy
        if busy:
            busy -= 1
            raise InvalidRequestError("busy", code="isce")

    async def fail() -> None:
        raise InvalidRequestError("another reason")

    await when_idle(end)
    for _ in range(2):
        began, busy = now(), 2000
        with pytest.raises(InvalidRequestError, match="busy"):
            await when_idle(end)
        assert now() - began == pytest.approx(10.0, abs=0.1)
        began = now()
        with pytest.raises(InvalidRequestError, match="another reason"):
            await when_idle(fail)
        assert now() == began
