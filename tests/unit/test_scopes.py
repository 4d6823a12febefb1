"""Scopes: the objects that a dispatch shares with the dispatches that join it."""

import asyncio
import threading
from typing import Any

import pytest

from mediator import Mediator, TransactionMode, current_scope
from mediator.errors import ScopeError
from mediator.scope import Scope, current_frame
from mediator.transactions import Outcome
from tests.unit.samples import CountStudents, EnrollStudent, ExpelStudent, StudentChanged, answer_none
from tests.unit.transactions import Transactional
from tests.unit.wiring import handles, listens, wire

INNER_MODES = {
    TransactionMode.DEFAULT: True,
    TransactionMode.NESTED: True,
    TransactionMode.NEW: False,
    TransactionMode.SUPPRESS: False,
}


async def fail(_message: Any) -> None:
    raise ValueError("inner")


async def see_scope(_message: Any) -> Scope:
    return current_scope()


def outer_and_inner(inner: Any, mode: TransactionMode, *, swallow: bool = False) -> tuple[Mediator, Transactional]:
    """`EnrollStudent` sends `ExpelStudent`, which `inner` handles, and returns its own scope and the response."""
    transactional = Transactional()

    async def outer(_message: Any) -> Any:
        try:
            return current_scope(), await mediator.send(ExpelStudent(), mode=mode)
        except ValueError:
            if not swallow:
                raise
            return None

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, inner), behaviors=[transactional])
    return mediator, transactional


@pytest.mark.parametrize(("mode", "shared"), INNER_MODES.items())
async def test_default_and_nested_join_the_running_scope_and_the_other_modes_open_one(
    mode: TransactionMode, shared: bool
):
    mediator, _ = outer_and_inner(see_scope, mode)
    outer, inner = await mediator.send(EnrollStudent())
    assert (outer is inner) is shared
    assert outer.closed
    assert inner.closed
    assert current_frame() is None


@pytest.mark.parametrize("mode", TransactionMode)
async def test_an_outermost_dispatch_opens_a_scope_in_every_mode(mode: TransactionMode):
    scopes: list[Scope] = []

    async def see(_message: Any) -> None:
        scopes.append(current_scope())

    mediator = wire(handles(CountStudents, see), listens(StudentChanged, see))
    await mediator.send(CountStudents(), mode=mode)
    await mediator.publish(StudentChanged(), mode=mode)
    first, second = scopes
    assert first is not second
    assert first.transactional is second.transactional is (mode is not TransactionMode.SUPPRESS)


async def test_mode_new_begins_its_own_transaction():
    mediator, transactional = outer_and_inner(answer_none, TransactionMode.NEW)
    await mediator.send(EnrollStudent())
    assert len(transactional.begun) == 2


async def test_mode_suppress_has_no_transaction_and_messages_that_join_have_none_either():
    async def inner(_message: Any) -> Any:
        await mediator.publish(StudentChanged())
        return current_scope().transaction

    mediator, transactional = outer_and_inner(inner, TransactionMode.SUPPRESS)
    assert (await mediator.send(EnrollStudent()))[1] is None
    assert len(transactional.begun) == 1


async def test_a_joined_command_that_fails_dooms_the_transaction_although_its_caller_catches_the_error():
    mediator, transactional = outer_and_inner(fail, TransactionMode.DEFAULT, swallow=True)
    await mediator.send(EnrollStudent())
    assert [transaction.log for transaction in transactional.begun] == [["doomed by ExpelStudent: ValueError"]]


async def test_a_joined_publish_that_fails_dooms_the_transaction_but_a_query_does_not():
    transactional = Transactional()

    async def outer(_message: Any) -> None:
        with pytest.raises(ValueError):
            await mediator.send(CountStudents())
        with pytest.raises(ValueError):
            await mediator.publish(StudentChanged())

    parts = [handles(EnrollStudent, outer), handles(CountStudents, fail), listens(StudentChanged, fail)]
    mediator = wire(*parts, behaviors=[transactional])
    await mediator.send(EnrollStudent())
    assert transactional.begun[0].log == ["doomed by StudentChanged: ValueError"]


@pytest.mark.parametrize("mode", [TransactionMode.NEW, TransactionMode.SUPPRESS])
async def test_a_failure_in_a_new_scope_does_not_doom_the_outer_transaction(mode: TransactionMode):
    mediator, transactional = outer_and_inner(fail, mode, swallow=True)
    await mediator.send(EnrollStudent())
    assert transactional.begun[0].log == []


async def test_mode_nested_runs_behind_a_savepoint():
    mediator, transactional = outer_and_inner(answer_none, TransactionMode.NESTED)
    await mediator.send(EnrollStudent())
    assert [transaction.log for transaction in transactional.begun] == [
        ["savepoint for ExpelStudent", "released savepoint"]
    ]


async def test_a_nested_command_that_fails_is_rolled_back_to_its_savepoint_and_dooms_nothing():
    mediator, transactional = outer_and_inner(fail, TransactionMode.NESTED, swallow=True)
    await mediator.send(EnrollStudent())
    assert transactional.begun[0].log == ["savepoint for ExpelStudent", "rolled back to savepoint"]


async def test_mode_nested_without_a_transaction_begins_one():
    transactional = Transactional()

    async def query(_message: Any) -> None:
        await mediator.send(ExpelStudent(), mode=TransactionMode.NESTED)

    mediator = wire(handles(CountStudents, query), handles(ExpelStudent, answer_none), behaviors=[transactional])
    await mediator.send(CountStudents())
    assert [transaction.log for transaction in transactional.begun] == [[]]


async def test_messages_dispatched_in_a_scope_opened_by_hand_join_the_scope():
    mediator = wire(handles(EnrollStudent, see_scope))
    async with mediator.scope() as scope:
        assert current_scope() is scope
        assert await mediator.send(EnrollStudent()) is scope
        async with mediator.scope() as joined:
            assert joined is scope
        assert not scope.closed
        async with mediator.scope(TransactionMode.NEW) as other:
            assert other is not scope
    assert scope.closed
    assert current_frame() is None


async def test_a_nested_scope_opened_by_hand_sets_a_savepoint_in_the_running_transaction():
    transactional = Transactional()

    async def outer(_message: Any) -> None:
        with pytest.raises(ValueError):
            async with mediator.scope(TransactionMode.NESTED, message="the risky part"):
                raise ValueError
        async with mediator.scope(TransactionMode.NESTED):
            pass

    mediator = wire(handles(EnrollStudent, outer), behaviors=[transactional])
    await mediator.send(EnrollStudent())
    assert transactional.begun[0].log == [
        "savepoint for the risky part",
        "rolled back to savepoint",
        "savepoint for mediator.scope()",
        "released savepoint",
    ]


async def test_instances_live_as_long_as_the_scope():
    async with wire().scope() as scope:
        scope.instances["key"] = object()
    assert scope.instances == {}


async def test_a_new_scope_has_no_transaction_and_no_outcome():
    async with wire().scope() as scope:
        assert (scope.transaction, scope.outcome, scope.response) == (None, Outcome.NONE, None)
        assert scope.exits is None


def test_current_scope_raises_outside_a_dispatch():
    with pytest.raises(ScopeError, match="the session was requested, but no dispatch is running"):
        current_scope("the session")


async def test_a_failed_dispatch_exits_its_frame():
    mediator = wire(handles(EnrollStudent, fail))
    with pytest.raises(ValueError):
        await mediator.send(EnrollStudent())
    with pytest.raises(ScopeError, match="no dispatch is running"):
        current_scope()


async def test_exit_callbacks_see_a_closed_scope():
    seen: list[Any] = []

    def callback(_error: BaseException | None) -> None:
        with pytest.raises(ScopeError, match=r"mediator\.scope\(\) is over"):
            current_scope()
        seen.append(current_frame())

    async with wire().scope() as scope:
        scope.on_exit(callback)
        assert scope.exits
    assert len(seen) == 1


async def test_a_task_that_outlives_a_dispatch_without_a_scope_gets_no_scope():
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        with pytest.raises(ScopeError, match="its scope is closed"):
            current_scope()
        assert [await mediator.send(ExpelStudent()) for _ in range(2)] == [
            1,
            1,
        ]  # the next dispatch begins its own scope

    async def spawn(_: EnrollStudent) -> Any:
        return asyncio.create_task(later())

    async def depth(_: ExpelStudent) -> Any:
        frame = current_frame()
        return frame and frame.depth

    mediator = wire(handles(EnrollStudent, spawn), handles(ExpelStudent, depth))
    task: Any = await mediator.send(EnrollStudent())
    over.set()
    await task


async def test_threads_of_one_dispatch_share_one_scope():
    async def ask(_: EnrollStudent) -> Any:
        start = threading.Barrier(4)

        def look() -> Any:
            start.wait(10)
            return current_scope()

        found = await asyncio.gather(*[asyncio.to_thread(look) for _ in range(4)])
        assert {id(each) for each in found} == {id(current_scope())}
        return found[0]

    mediator = wire(handles(EnrollStudent, ask))
    for _ in range(20):
        scope: Any = await mediator.send(EnrollStudent())
        assert scope.closed
