"""Tasks and scopes: dispatches that join a scope, dispatches that are refused, and the state afterwards."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mediator import Mediator, TransactionMode, current_context, current_scope
from mediator.errors import ScopeError
from mediator.scope import Scope, current_frame
from tests.unit.samples import CountStudents, EnrollStudent, ExpelStudent
from tests.unit.wiring import handles, wire


class Gate:
    """Holds a task until the test lets it through."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def wait(self, _message: Any = None) -> Scope:
        self.reached.set()
        await self.open.wait()
        return current_scope()


async def see_scope(_message: Any) -> Scope:
    return current_scope()


async def test_two_dispatches_gathered_inside_a_handler_are_refused():
    gate = Gate()

    async def outer(_message: Any) -> None:
        await asyncio.gather(mediator.send(ExpelStudent()), mediator.send(CountStudents()))

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, gate.wait), handles(CountStudents, see_scope))
    with pytest.raises(ScopeError, match=r"CountStudents and ExpelStudent .*TransactionMode\.NEW") as caught:
        await mediator.send(EnrollStudent())
    assert caught.value.subject == CountStudents()
    gate.open.set()


@pytest.mark.parametrize("mode", [TransactionMode.NEW, TransactionMode.SUPPRESS])
async def test_dispatches_with_their_own_scopes_may_be_gathered(mode: TransactionMode):
    async def outer(_message: Any) -> list[Scope]:
        return await asyncio.gather(*(mediator.send(ExpelStudent(), mode=mode) for _ in range(3)))

    async def inner(_message: Any) -> Scope:
        scope = current_scope()
        await asyncio.sleep(0)
        assert current_scope() is scope
        return scope

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, inner))
    assert len(set(map(id, await mediator.send(EnrollStudent())))) == 3


async def test_sequential_dispatches_join_the_scope():
    async def outer(_message: Any) -> list[Scope]:
        return [await mediator.send(ExpelStudent()) for _ in range(2)] + [current_scope()]

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, see_scope))
    assert len(set(map(id, await mediator.send(EnrollStudent())))) == 1


@pytest.mark.parametrize("in_a_task", [True, False])
async def test_an_awaited_dispatch_in_another_task_joins_the_scope(in_a_task: bool):
    async def outer(_message: Any) -> bool:
        dispatch = mediator.send(ExpelStudent())
        inner = await (asyncio.create_task(dispatch) if in_a_task else asyncio.wait_for(dispatch, 60))
        assert await mediator.send(ExpelStudent()) is inner
        return inner is current_scope()

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, see_scope))
    assert await mediator.send(EnrollStudent())


async def test_a_dispatch_joins_the_scope_after_another_one_timed_out():
    async def outer(_message: Any) -> bool:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mediator.send(CountStudents()), 0.001)
        return await mediator.send(ExpelStudent()) is current_scope()

    parts = [handles(EnrollStudent, outer), handles(ExpelStudent, see_scope), handles(CountStudents, Gate().wait)]
    mediator = wire(*parts)
    assert await mediator.send(EnrollStudent())


async def test_a_dispatch_fails_when_its_handler_leaves_a_dispatch_running_in_a_task():
    gate, tasks, errors = Gate(), [], []

    async def outer(_message: Any) -> str:
        current_scope().on_exit(errors.append)
        tasks.append(asyncio.create_task(mediator.send(ExpelStudent())))
        await gate.reached.wait()
        return "unnoticed"

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, gate.wait))
    with pytest.raises(ScopeError, match="EnrollStudent and ExpelStudent") as caught:
        await mediator.send(EnrollStudent())
    assert errors == [caught.value]
    gate.open.set()
    with pytest.raises(ScopeError, match="its scope is closed"):
        await tasks[0]
    assert current_frame() is None


async def test_a_task_that_outlives_its_dispatch_gets_its_own_scope():
    gate, tasks, scopes = Gate(), [], []

    async def later() -> tuple[Scope, str | None]:
        await gate.open.wait()
        with pytest.raises(ScopeError, match="EnrollStudent is over"):
            current_scope()
        return await mediator.send(ExpelStudent())

    async def outer(_message: Any) -> str:
        scopes.append(current_scope())
        tasks.append(asyncio.create_task(later()))
        return current_context().correlation_id

    async def inner(_message: Any) -> tuple[Scope, str]:
        return current_scope(), current_context().correlation_id

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, inner))
    correlation = await mediator.send(EnrollStudent())
    gate.open.set()
    scope, inherited = await tasks[0]
    assert scope is not scopes[0]
    assert inherited == correlation


async def opened(mediator: Mediator) -> AsyncIterator[Scope]:
    async with mediator.scope() as scope:
        yield scope


async def in_context(context: contextvars.Context, step: Any) -> Any:
    async def take() -> Any:
        return await step

    return await asyncio.create_task(take(), context=context)


async def test_a_frame_exited_in_another_context_than_it_was_entered_in_leaves_nothing_behind():
    mediator = wire()
    steps = opened(mediator)
    scope = await in_context(contextvars.copy_context(), anext(steps))
    assert current_frame() is None
    await in_context(contextvars.copy_context(), steps.aclose())
    assert scope.closed
    assert current_frame() is None


async def test_exiting_a_frame_of_another_context_does_not_end_the_current_dispatch():
    async def outer(_message: Any) -> bool:
        await steps.aclose()
        return await mediator.send(ExpelStudent()) is current_scope()

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, see_scope))
    steps = opened(mediator)
    scope = await in_context(contextvars.copy_context(), anext(steps))
    assert await mediator.send(EnrollStudent())
    assert scope.closed


async def test_frames_exited_in_the_wrong_order_leave_nothing_behind():
    mediator = wire()
    outer, inner = mediator.scope(), mediator.scope(TransactionMode.NEW)
    await outer.__aenter__()
    await inner.__aenter__()
    await outer.__aexit__(None, None, None)
    await inner.__aexit__(None, None, None)
    assert current_frame() is None


async def test_a_dispatch_opens_its_own_scope_in_the_context_of_a_frame_that_was_exited_elsewhere():
    mediator = wire(handles(EnrollStudent, see_scope))
    steps, context = opened(mediator), contextvars.copy_context()
    scope = await in_context(context, anext(steps))
    await steps.aclose()
    assert await in_context(context, mediator.send(EnrollStudent())) is not scope


async def test_a_thousand_concurrent_dispatches_never_share_a_scope():
    async def outer(command: Any) -> Any:
        scope = current_scope()
        scope.instances["name"] = command.name
        await asyncio.sleep(0)
        await mediator.send(ExpelStudent(command.name))
        await asyncio.sleep(0)
        assert current_scope() is scope
        assert current_scope().instances == {"name": command.name}
        return scope, current_context().correlation_id

    async def inner(command: Any) -> None:
        await asyncio.sleep(0)
        assert current_scope().instances["name"] == command.name

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, inner))
    answers = await asyncio.gather(*(mediator.send(EnrollStudent(str(number))) for number in range(1000)))
    assert len({id(scope) for scope, _ in answers}) == 1000
    assert len({correlation for _, correlation in answers}) == 1000
    assert all(scope.closed for scope, _ in answers)
