import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from dependency_injector import containers, providers

from mediator import Mediator, StreamPipelineBehavior, StreamRequest, StreamRequestHandler
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, override, validate
from mediator.errors import ContainerValidationError


@dataclass(frozen=True, slots=True)
class ListOrders(StreamRequest[int]):
    count: int = 3


class Session:
    def __init__(self, closed: list[Any]) -> None:
        self._closed = closed

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self._closed.append(self)


class ListOrdersHandler(StreamRequestHandler[ListOrders, int]):
    def __init__(self, session: Session, mediator: Mediator) -> None:
        self.session = session

    async def handle(self, request: ListOrders) -> AsyncIterator[int]:
        for number in range(request.count):
            yield number


class Double(StreamPipelineBehavior[ListOrders, int]):
    def __init__(self, session: Session) -> None:
        self.session = session

    async def handle(self, request: ListOrders, call_next: Any) -> AsyncIterator[int]:
        async for item in call_next():
            yield 2 * item


class App(containers.DeclarativeContainer):
    closed = providers.Singleton(list)
    session = Scoped(Session, closed)
    double = providers.Factory(Double, session)
    mediator = MediatorProvider(behaviors=providers.List(double))
    list_orders = providers.Factory(ListOrdersHandler, session, mediator)


async def test_a_stream_is_handled_by_its_provider_and_closes_scoped_objects_once():
    async with lifespan(App(), packages=[__name__]) as container:
        async with container.mediator().stream(ListOrders()) as items:
            assert [item async for item in items] == [0, 2, 4]
            assert container.closed() == []
        assert len(container.closed()) == 1
        async with container.mediator().stream(ListOrders()) as items:
            async for _ in items:
                break
        assert len(container.closed()) == 2


async def test_a_handler_of_streams_can_be_overridden():
    class Fake(StreamRequestHandler[ListOrders, int]):
        async def handle(self, request):
            yield 7

    async with lifespan(App()) as container:
        with override(container, list_orders=providers.Factory(Fake)):
            async with container.mediator().stream(ListOrders()) as items:
                assert [item async for item in items] == [14]


class WrongItem(StreamRequestHandler[ListOrders, str]):
    async def handle(self, request):
        yield "1"


class Coroutine(StreamRequestHandler[ListOrders, int]):
    async def handle(self, request):  # type: ignore[override]  # the fault
        return [1]


class SyncGenerator(StreamPipelineBehavior[Any, Any]):
    def handle(self, request, call_next):  # type: ignore[override]  # the fault
        yield 1


TWO_HANDLERS = (
    "handles ListOrders, which has 2 handlers: container.item, container.coroutine. Exactly one is allowed. "
    "If one handler wraps another one, declare the wrapped one inline: `Factory(Outer, Factory(Inner))`."
)


def test_the_report_contains_the_faults_of_streams():
    class Unhandled(StreamRequest[str]):
        pass

    class Faulty(containers.DeclarativeContainer):
        behavior = providers.Factory(SyncGenerator)
        mediator = MediatorProvider(behaviors=providers.List(behavior))
        item = providers.Factory(WrongItem)
        coroutine = providers.Factory(Coroutine)

    with pytest.raises(ContainerValidationError) as caught:
        validate(Faulty(), requests=[Unhandled])
    found = {(problem.label, problem.text) for problem in caught.value.problems}
    no_generator = "has a `handle` that is no async generator. Write `async def handle(...)` with `yield` in it."
    assert found == {
        ("container.behavior", no_generator),
        ("container.coroutine", no_generator),
        ("container.item", "yields str, but ListOrders is a request for int."),
        ("container.coroutine", TWO_HANDLERS),
        (
            "container.mediator",
            "Unhandled has no handler. Add a provider of a StreamRequestHandler[Unhandled, ...] to the container.",
        ),
    }
