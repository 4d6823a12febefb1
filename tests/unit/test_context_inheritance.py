"""Principal, tenant and headers: given at an entry point, inherited by every message that follows."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mediator import MessageContext, TransactionMode, current_context, current_scope
from mediator.errors import DispatchDepthError, ScopeError
from mediator.strategies import Concurrent
from tests.unit.samples import CountStudents, EnrollStudent, ExpelStudent, StudentChanged
from tests.unit.test_context import counter, see
from tests.unit.wiring import around, handles, listens, wire

ADA = MessageContext("request", "flow", None, "ada", "acme", {"Accept-Language": "de"})


def given(context: MessageContext) -> tuple[Any, ...]:
    """Return the inherited values of a context."""
    return context.correlation_id, context.principal, context.tenant, dict(context.headers)


async def test_a_context_given_to_send_is_inherited_and_is_the_cause():
    mediator = wire(handles(EnrollStudent, see), ids=counter())
    seen = await mediator.send(EnrollStudent(), context=ADA)
    assert seen == MessageContext("id-1", "flow", "request", "ada", "acme", {"accept-language": "de"})
    assert (await mediator.send(EnrollStudent())).principal is None


async def test_a_context_given_to_publish_reaches_every_handler():
    seen: list[MessageContext] = []

    async def note(_message: Any) -> None:
        seen.append(current_context())

    mediator = wire(listens(StudentChanged, note), listens(StudentChanged, note))
    await mediator.publish(StudentChanged(), context=ADA)
    assert [given(context) for context in seen] == [given(ADA)] * 2


@pytest.mark.parametrize("mode", TransactionMode)
async def test_nested_messages_inherit_everything_in_every_mode(mode: TransactionMode):
    async def outer(_message: Any) -> Any:
        await mediator.publish(StudentChanged(), mode=mode)
        return await mediator.send(ExpelStudent(), mode=mode)

    seen: list[MessageContext] = []

    async def note(_message: Any) -> None:
        seen.append(current_context())

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, see), listens(StudentChanged, note))
    seen.append(await mediator.send(EnrollStudent(), context=ADA))
    assert [given(context) for context in seen] == [given(ADA)] * 2


async def test_handlers_in_their_own_scopes_inherit_too():
    seen: list[MessageContext] = []

    async def note(_message: Any) -> None:
        seen.append(current_context())

    mediator = wire(listens(StudentChanged, note), listens(StudentChanged, note))
    await mediator.publish(StudentChanged(), context=ADA, strategy=Concurrent())
    assert [given(context) for context in seen] == [given(ADA)] * 2


async def test_a_context_given_to_a_nested_message_replaces_the_current_context():
    async def outer(_message: Any) -> Any:
        nobody = replace(current_context(), principal=None)
        return await mediator.send(ExpelStudent(), context=nobody), current_context().principal

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, see), ids=counter())
    inner, principal = await mediator.send(EnrollStudent(), context=ADA)
    assert principal == "ada"
    assert given(inner) == ("flow", None, "acme", {"accept-language": "de"})
    assert inner.causation_id == "id-1"


async def test_messages_dispatched_inside_a_context_have_it_and_later_ones_do_not():
    mediator = wire(handles(EnrollStudent, see))
    async with mediator.context(principal="ada", tenant="acme", headers={"a": "1"}, correlation_id="flow") as context:
        assert current_context() is context
        first, second = await mediator.send(EnrollStudent()), await mediator.send(EnrollStudent())
    assert given(first) == given(second) == ("flow", "ada", "acme", {"a": "1"})
    assert first.causation_id == second.causation_id == context.message_id
    assert (await mediator.send(EnrollStudent())).principal is None
    with pytest.raises(ScopeError, match="no dispatch is running"):
        current_context()


async def test_a_context_inherits_the_attributes_it_is_not_given_and_adds_headers():
    mediator = wire(handles(EnrollStudent, see), ids=counter())
    async with mediator.context(principal="ada", tenant="acme", headers={"a": "1", "b": "1"}) as outer:
        async with mediator.context(principal="eve", headers={"B": "2"}) as inner:
            seen = await mediator.send(EnrollStudent())
        assert current_context() is outer
    assert given(seen) == given(inner) == (outer.correlation_id, "eve", "acme", {"a": "1", "b": "2"})
    assert inner.causation_id == outer.message_id


async def test_a_context_opens_no_scope_and_messages_inside_may_run_concurrently():
    together = asyncio.Barrier(3)
    scopes: list[Any] = []

    async def meet(_message: Any) -> None:
        scopes.append(current_scope())
        await together.wait()

    mediator = wire(handles(EnrollStudent, meet))
    async with mediator.context(principal="ada"), asyncio.timeout(5):
        with pytest.raises(ScopeError, match="scope was requested"):
            current_scope("scope")
        await asyncio.gather(*(mediator.send(EnrollStudent()) for _ in range(3)))
    assert len(set(map(id, scopes))) == 3


async def test_a_handler_may_change_its_principal_within_one_scope():
    async def outer(_message: Any) -> Any:
        scope = current_scope()
        async with mediator.context(principal="system"):
            assert current_scope() is scope
            first, second = await mediator.send(ExpelStudent()), await mediator.send(ExpelStudent())
        return [*first, *second, current_context().principal, await mediator.send(CountStudents())]

    async def inner(_message: Any) -> Any:
        return current_context().principal, id(current_scope())

    async def own(_message: Any) -> Any:
        return id(current_scope())

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, inner), handles(CountStudents, own))
    first, scope, second, same, back, last = await mediator.send(EnrollStudent(), context=ADA)
    assert (first, second, back) == ("system", "system", "ada")
    assert scope == same == last


async def test_a_context_around_call_next_reaches_the_handler():
    async def impersonate(message: Any, call_next: Any) -> Any:
        async with mediator.context(principal="system"):
            return await call_next(message)

    mediator = wire(handles(EnrollStudent, see), behaviors=[around(EnrollStudent, impersonate)])
    assert (await mediator.send(EnrollStudent(), context=ADA)).principal == "system"
    async with mediator.scope():
        assert (await mediator.send(EnrollStudent())).principal == "system"


async def test_tasks_of_one_handler_have_their_own_contexts():
    async def each(tenant: str) -> Any:
        async with mediator.context(tenant=tenant):
            await asyncio.sleep(0)
            first = await mediator.send(ExpelStudent(), mode=TransactionMode.NEW)
            await asyncio.sleep(0)
            return first.tenant, (await mediator.send(ExpelStudent(), mode=TransactionMode.NEW)).tenant

    async def outer(_message: Any) -> Any:
        return await asyncio.gather(*(each(str(number)) for number in range(10)))

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, see))
    assert await mediator.send(EnrollStudent()) == [(str(number), str(number)) for number in range(10)]


async def test_tasks_that_join_the_scope_of_one_handler_in_turn_have_their_own_contexts():
    turns = asyncio.Lock()

    async def each(tenant: str) -> Any:
        async with mediator.context(tenant=tenant):
            await asyncio.sleep(0)
            async with turns:
                return (await mediator.send(ExpelStudent())).tenant

    async def outer(_message: Any) -> Any:
        return await asyncio.gather(*(each(str(number)) for number in range(10)))

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, see))
    assert await mediator.send(EnrollStudent()) == [str(number) for number in range(10)]


async def test_a_second_concurrent_dispatch_in_a_scope_is_refused_inside_a_context_too():
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(_message: Any) -> None:
        started.set()
        await release.wait()

    async def outer(_message: Any) -> None:
        async with mediator.context(tenant="a"):
            task = asyncio.create_task(mediator.send(ExpelStudent()))
            await started.wait()
        try:
            async with mediator.context(tenant="b"):
                await mediator.send(ExpelStudent())
        finally:
            release.set()
            await task

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, slow))
    with pytest.raises(ScopeError, match="at the same time"):
        await mediator.send(EnrollStudent())


async def test_a_context_does_not_count_towards_the_depth_limit():
    async def again(message: Any) -> None:
        async with mediator.context(tenant="a"), mediator.context(tenant="b"):
            await mediator.send(message)

    mediator = wire(handles(EnrollStudent, again), max_depth=4)
    with pytest.raises(DispatchDepthError, match="dispatches are nested") as caught:
        await mediator.send(EnrollStudent())
    assert len(caught.value.path) == 5


async def test_an_error_inside_a_context_exits_the_context():
    mediator = wire(handles(EnrollStudent, see))
    with pytest.raises(ValueError, match="inside"):
        async with mediator.context(principal="ada"):
            raise ValueError("inside")
    assert (await mediator.send(EnrollStudent())).principal is None
