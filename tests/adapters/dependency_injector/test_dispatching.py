import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from dependency_injector import containers, providers

from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.errors import ScopeError
from mediator.handlers import RequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command, Query
from mediator.scope import current_frame, current_scope
from mediator.transactions import TransactionMode

from .shop import CountOrders, CountOrdersHandler, UnitOfWork


@dataclass(frozen=True)
class Outer(Command[Any]):
    body: Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Inner(Query[Any]):
    wait: asyncio.Event | None = None


@dataclass
class OuterHandler(RequestHandler[Outer, Any]):
    mediator: Mediator
    unit_of_work: UnitOfWork

    async def handle(self, command: Outer) -> Any:
        return await command.body(self)


@dataclass
class InnerHandler(RequestHandler[Inner, Any]):
    unit_of_work: UnitOfWork

    async def handle(self, query: Inner) -> Any:
        await (query.wait.wait() if query.wait is not None else asyncio.sleep(0))
        return self.unit_of_work


class App(containers.DeclarativeContainer):
    made = providers.Singleton(list)
    unit_of_work = Scoped(UnitOfWork)
    mediator = MediatorProvider()
    outer = providers.Factory(OuterHandler, mediator, unit_of_work)
    inner = providers.Factory(InnerHandler, unit_of_work)


@pytest.fixture
async def mediator():
    async with lifespan(App()) as container:
        yield container.mediator()
    assert current_frame() is None


async def test_a_nested_dispatch_shares_the_scoped_objects(mediator):
    async def body(handler):
        assert await handler.mediator.send(Inner()) is handler.unit_of_work
        assert await asyncio.wait_for(handler.mediator.send(Inner()), 10) is handler.unit_of_work
        assert not handler.unit_of_work.closed
        return handler.unit_of_work

    assert (await mediator.send(Outer(body))).closed


async def test_concurrent_dispatches_in_one_scope_are_refused(mediator):
    async def gather(handler):
        await asyncio.gather(handler.mediator.send(Inner()), handler.mediator.send(Inner()))

    async def group(handler):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(handler.mediator.send(Inner()))

    with pytest.raises(ScopeError, match="at the same time"):
        await mediator.send(Outer(gather))
    with pytest.raises(ExceptionGroup) as caught:
        await mediator.send(Outer(group))
    assert any(isinstance(error, ScopeError) for error in caught.value.exceptions)


async def test_concurrent_dispatches_in_new_scopes_share_no_scoped_objects(mediator):
    async def body(handler):
        sent = [handler.mediator.send(Inner(), mode=TransactionMode.NEW) for _ in range(5)]
        return [handler.unit_of_work, *await asyncio.gather(*sent)]

    made = await mediator.send(Outer(body))
    assert len({id(each) for each in made}) == 6
    assert all(each.closed for each in made)


async def test_an_unawaited_dispatch_fails_the_dispatch_it_joined(mediator):
    event, tasks = asyncio.Event(), []

    async def body(handler):
        tasks.append(asyncio.create_task(handler.mediator.send(Inner(event))))
        await asyncio.sleep(0)

    with pytest.raises(ScopeError, match="at the same time"):
        await mediator.send(Outer(body))
    event.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_task_that_sends_after_its_dispatch_has_ended_gets_a_new_scope(mediator):
    over = asyncio.Event()

    async def later(handler):
        await over.wait()
        return await handler.mediator.send(Inner()), handler.unit_of_work

    async def body(handler):
        return asyncio.create_task(later(handler))

    task = await mediator.send(Outer(body))
    over.set()
    late, early = await task
    assert late is not early
    assert late.closed


async def test_joining_dispatches_inherit_a_suppressed_transaction(mediator):
    async def body(handler):
        async with handler.mediator.scope(TransactionMode.SUPPRESS), handler.mediator.scope():
            return current_scope().transactional

    assert await mediator.send(Outer(body)) is False


async def test_random_cancellation_shares_no_object_and_leaves_none_open(mediator):
    chance = random.Random(7)
    made: list[UnitOfWork] = []
    owners: dict[int, object] = {}

    async def body(handler):
        made.append(handler.unit_of_work)
        me = owners.setdefault(id(handler.unit_of_work), object())
        await asyncio.sleep(0)
        if chance.random() < 0.3:
            await handler.mediator.send(Outer(body), mode=chance.choice(list(TransactionMode)))
        if chance.random() < 0.1:
            raise ValueError("expected")
        assert owners[id(handler.unit_of_work)] is me
        assert not handler.unit_of_work.closed

    async def one():
        task = asyncio.create_task(mediator.send(Outer(body)))
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert result is None or isinstance(result, (asyncio.CancelledError, ValueError))

    await asyncio.gather(*[one() for _ in range(1000)])
    assert len(made) > 500
    assert all(each.closed for each in made)


async def test_a_handler_may_be_decorated_by_nesting_its_provider():
    class Caching(RequestHandler[CountOrders, int]):
        def __init__(self, inner: RequestHandler[CountOrders, int]) -> None:
            self._inner = inner

        async def handle(self, query: CountOrders) -> int:
            return 10 * await self._inner.handle(query)

    class Shop(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        count_orders = providers.Factory(Caching, providers.Factory(CountOrdersHandler))

    async with lifespan(Shop(), requests=[CountOrders]) as container:
        assert await container.mediator().send(CountOrders()) == 70
