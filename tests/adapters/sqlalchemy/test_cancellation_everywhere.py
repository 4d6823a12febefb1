"""A command is cancelled at each of its awaits in turn: it commits or rolls back, and nothing is left open."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import TransactionMode
from mediator.distributed.shield import wait_for_late_work
from mediator.transactions import Outcome
from tests.adapters.sqlalchemy.ledger import Count, Do, Ledger, Write, pool_of


class CancelledAt:
    """Awaits something, and cancels the running task when it waits for the `number`th time."""

    def __init__(self, work: Coroutine[Any, Any, Any], number: int) -> None:
        self._work = work
        self._number = number
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        task = asyncio.current_task()
        assert task is not None
        count, value, error = 0, None, None
        while True:
            try:
                waiting = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            count += 1
            if count == self._number:
                self.reached = True
                task.cancel()
            value, error = None, None
            try:
                value = yield waiting
            except BaseException as raised:
                error = raised


async def plain(ledger: Ledger) -> Any:
    return await ledger.send(Write("a"))


async def with_inner_commands(ledger: Ledger) -> Any:
    async def inner(ledger: Ledger) -> None:
        await ledger.send(Write("nested"), mode=TransactionMode.NESTED)
        async with ledger.unit_of_work.session.begin_nested():
            await ledger.write("savepoint")

    return await ledger.send(Write("a", then=inner))


async def after_a_query(ledger: Ledger) -> Any:
    async with ledger.mediator.scope():
        await ledger.send(Count())
        return await ledger.send(Write("a"))


async def failing_command(ledger: Ledger) -> Any:
    async def fail(_ledger: Ledger) -> None:
        raise LookupError

    return await ledger.send(Write("a", then=fail))


async def locks(engine: AsyncEngine) -> int:
    """Return how many sessions of the database are in a transaction that will not be ended."""
    if engine.dialect.name == "sqlite":
        return 0
    open_ones = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with engine.connect() as connection:
        return int((await connection.execute(text(f"{open_ones} AND state <> 'idle'"))).scalar_one())


@pytest.mark.parametrize("command", [plain, with_inner_commands, after_a_query, failing_command])
async def test_a_command_cancelled_at_any_await_happened_completely_or_not_at_all(
    ledger: Ledger, command: Callable[[Ledger], Awaitable[Any]]
) -> None:
    before, committed, number = 0, 0, 0
    while True:
        number += 1
        outcome, reached = await run(ledger, command, number)
        await wait_for_late_work(5)
        entries, staged = await ledger.entries(), await ledger.staged()
        written = [entry for entry in entries if entry != "savepoint"]
        assert sorted(written) == sorted(staged)
        assert (len(entries) > before) is (outcome is Outcome.COMMITTED)
        before, committed = len(entries), committed + (outcome is Outcome.COMMITTED)
        assert pool_of(ledger.engine).checkedout() == 0
        if not reached:
            break
    assert number > 4
    assert committed > (0 if command is not failing_command else -1)
    await settled(ledger.engine)
    await ledger.send(Write("last"))
    await ledger.send(Do(plain), mode=TransactionMode.NEW)


async def run(ledger: Ledger, command: Callable[[Ledger], Awaitable[Any]], number: int) -> tuple[Outcome, bool]:
    outcomes: list[Outcome] = []

    async def work() -> None:
        async with ledger.mediator.scope() as scope:
            try:
                await command(ledger)
            finally:
                outcomes.append(scope.outcome)

    at = CancelledAt(work(), number)

    async def task() -> None:
        await at

    running = asyncio.create_task(task())
    done = (await asyncio.gather(running, return_exceptions=True))[0]
    assert done is None or isinstance(done, asyncio.CancelledError | LookupError), (number, done)
    return (outcomes or [Outcome.NONE])[0], at.reached


async def settled(engine: AsyncEngine) -> None:
    """Wait until the server has noticed that cancelled connections are gone."""
    async with asyncio.timeout(10):
        while await locks(engine):
            await asyncio.sleep(0.02)
