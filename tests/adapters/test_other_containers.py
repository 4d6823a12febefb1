"""The core needs bindings only: adapters for two other containers, a few lines each, with one scope per dispatch."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import svcs
from dishka import AsyncContainer, Provider, make_async_container
from dishka import Scope as DishkaScope

from mediator import Binding, Command, Mediator, PipelineBehavior, Registry, RequestHandler, current_scope
from mediator.scope import Scope


@dataclass(frozen=True, slots=True)
class EnrollStudent(Command[int]):
    fails: bool = False


class Session:
    def __init__(self) -> None:
        self.closed = False


class EnrollHandler(RequestHandler[EnrollStudent, int]):
    def __init__(self, session: Session) -> None:
        self._session = session

    async def handle(self, command: EnrollStudent) -> int:
        await asyncio.sleep(0)
        assert not self._session.closed
        if command.fails:
            raise LookupError
        return id(self._session)


class Watch(PipelineBehavior[Command[Any], Any]):
    def __init__(self, session: Session) -> None:
        self._session = session

    async def handle(self, message: Any, call_next: Any) -> Any:
        SEEN.append(self._session)
        return await call_next()


SEEN: list[Session] = []


async def open_session() -> AsyncIterator[Session]:
    session = Session()
    yield session
    await asyncio.sleep(0)
    session.closed = True


# svcs: a container per scope


def from_svcs(registry: svcs.Registry, cls: type) -> Callable[[], Any]:
    def resolve() -> Any:
        scope = current_scope()
        if svcs.Container not in scope.instances:
            container = scope.instances[svcs.Container] = svcs.Container(registry)
            scope.on_exit(lambda _error: container.aclose())
        return scope.instances[svcs.Container].aget(cls)

    return resolve


def make_with_svcs() -> Mediator:
    registry = svcs.Registry()
    registry.register_factory(Session, open_session)
    for cls in (EnrollHandler, Watch):
        registry.register_factory(cls, made_of_session(cls))
    return Mediator(bindings(lambda cls: from_svcs(registry, cls)))


def made_of_session(cls: type) -> Any:
    async def make(container: svcs.Container) -> Any:
        return cls(await container.aget(Session))

    return make


# dishka: a request container per scope


def from_dishka(container: AsyncContainer, cls: type) -> Callable[[], Any]:
    async def resolve() -> Any:
        return await (await request_container(current_scope())).get(cls)

    async def request_container(scope: Scope) -> AsyncContainer:
        if AsyncContainer not in scope.instances:
            opening = container()
            scope.instances[AsyncContainer] = await opening.__aenter__()
            scope.on_exit(lambda error: opening.__aexit__(error and type(error), error, None))
        found: AsyncContainer = scope.instances[AsyncContainer]
        return found

    return resolve


def make_with_dishka() -> Mediator:
    provider = Provider(scope=DishkaScope.REQUEST)
    provider.provide(open_session, provides=Session)
    provider.provide_all(EnrollHandler, Watch)
    container = make_async_container(provider)
    return Mediator(bindings(lambda cls: from_dishka(container, cls)))


def bindings(source: Callable[[type], Any]) -> Registry:
    handler = Binding(source(EnrollHandler), EnrollHandler, "enroll", RequestHandler)
    return Registry([handler], [Binding(source(Watch), Watch, "watch", PipelineBehavior)])


@pytest.mark.parametrize("make", [make_with_svcs, make_with_dishka])
async def test_a_dispatch_shares_its_scoped_objects_and_closes_them_at_its_end(make: Callable[[], Mediator]):
    mediator = make()
    SEEN.clear()
    assert await mediator.send(EnrollStudent()) == id(SEEN[0])
    with pytest.raises(LookupError):
        await mediator.send(EnrollStudent(fails=True))
    assert len({id(session) for session in SEEN}) == 2
    assert all(session.closed for session in SEEN)


@pytest.mark.parametrize("make", [make_with_svcs, make_with_dishka])
async def test_concurrent_dispatches_have_objects_of_their_own(make: Callable[[], Mediator]):
    mediator = make()
    SEEN.clear()
    used = await asyncio.gather(*(mediator.send(EnrollStudent()) for _ in range(20)))
    assert len(set(used)) == 20
    assert all(session.closed for session in SEEN)


@pytest.mark.parametrize("make", [make_with_svcs, make_with_dishka])
async def test_dispatches_in_one_scope_share_its_objects(make: Callable[[], Mediator]):
    mediator = make()
    SEEN.clear()
    async with mediator.scope():
        assert await mediator.send(EnrollStudent()) == await mediator.send(EnrollStudent())
        assert not SEEN[0].closed
    assert SEEN[0].closed
