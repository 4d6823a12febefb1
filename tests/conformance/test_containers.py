"""The containers that work with the mediator: dependency-injector, and svcs and dishka with a few lines of code."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import svcs
from dependency_injector import containers, providers
from dishka import AsyncContainer, Provider, make_async_container
from dishka import Scope as DishkaScope

from mediator import Mediator, current_scope
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.testing.conformance import ContainerCapability, ContainerConformance
from mediator.testing.conformance.container import (
    HANDLERS,
    Broken,
    Connection,
    CountPoolsHandler,
    EnrolledHandler,
    EnrollHandler,
    FailHandler,
    ListSessionsHandler,
    Pool,
    SampleApplication,
    Session,
    Ticket,
    Watch,
)


class TestDependencyInjector(ContainerConformance):
    capabilities = frozenset(ContainerCapability)

    @asynccontextmanager
    async def opened(self, application: SampleApplication, /) -> AsyncIterator[Mediator]:
        async with lifespan(container_of(application)) as container:
            yield container.mediator()


def container_of(application: SampleApplication) -> Any:
    class App(containers.DeclarativeContainer):
        pool = providers.Resource(application.open_pool)
        connection = Scoped(entering(application.open_connection))
        session = Scoped(entering(application.open_session), connection)
        ticket = providers.Factory(Ticket)
        broken = providers.Factory(application.make_broken)
        enroll = providers.Factory(EnrollHandler, pool, session, ticket)
        fail = providers.Factory(FailHandler, session, broken)
        count = providers.Factory(CountPoolsHandler, pool)
        enrolled = providers.Factory(EnrolledHandler, session)
        listed = providers.Factory(ListSessionsHandler, session)
        watch = providers.Factory(Watch, session, ticket)
        mediator = MediatorProvider(behaviors=[watch])

    return App()


def entering(open_resource: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., Any]:
    async def enter(*needs: Any) -> Any:
        resource = open_resource(*needs)
        opened = await anext(resource)
        current_scope().on_exit(lambda _error: anext(resource, None))
        return opened

    return enter


class TestSvcs(ContainerConformance):
    """svcs with a container for each scope."""

    capabilities = frozenset()  # keeps each object until the container is closed

    @asynccontextmanager
    async def opened(self, application: SampleApplication, /) -> AsyncIterator[Mediator]:
        async with asynccontextmanager(application.open_pool)() as pool:
            registry = svcs.Registry()
            registry.register_value(Pool, pool)
            registry.register_factory(Connection, application.open_connection)
            registry.register_factory(Session, made(asynccontextmanager(application.open_session), Connection))
            registry.register_factory(Ticket, Ticket)
            registry.register_factory(Broken, application.make_broken)
            for cls, needs in NEEDS.items():
                registry.register_factory(cls, made(cls, *needs))
            yield Mediator(application.registry(lambda cls: from_svcs(registry, cls)))


NEEDS: dict[type, list[type]] = {
    EnrollHandler: [Pool, Session, Ticket],
    FailHandler: [Session, Broken],
    CountPoolsHandler: [Pool],
    EnrolledHandler: [Session],
    ListSessionsHandler: [Session],
    Watch: [Session, Ticket],
}


def made(cls: Callable[..., Any], *needs: type) -> Any:
    """Dependencies are made first, because a generator that requested them itself would be closed after them."""

    async def make(container: svcs.Container) -> Any:
        return cls(*[await container.aget(each) for each in needs])

    return make


def from_svcs(registry: svcs.Registry, cls: type) -> Callable[[], Any]:
    def resolve() -> Any:
        scope = current_scope()
        if svcs.Container not in scope.instances:
            container = scope.instances[svcs.Container] = svcs.Container(registry)
            scope.on_exit(lambda _error: container.aclose())
        return scope.instances[svcs.Container].aget(cls)

    return resolve


class TestDishka(ContainerConformance):
    """dishka with a request container for each scope, from the container of the application."""

    capabilities = frozenset(ContainerCapability)

    @asynccontextmanager
    async def opened(self, application: SampleApplication, /) -> AsyncIterator[Mediator]:
        provider = Provider(scope=DishkaScope.REQUEST)
        provider.provide(application.open_pool, provides=Pool, scope=DishkaScope.APP)
        provider.provide(application.open_connection, provides=Connection)
        provider.provide(application.open_session, provides=Session)
        provider.provide(application.make_broken, provides=Broken)
        provider.provide(Ticket, cache=False)
        provider.provide_all(*HANDLERS, Watch)
        container = make_async_container(provider)
        yield Mediator(application.registry(lambda cls: from_dishka(container, cls)))
        await container.close()


def from_dishka(container: AsyncContainer, cls: type) -> Callable[[], Any]:
    async def resolve() -> Any:
        scope = current_scope()
        if AsyncContainer not in scope.instances:
            opening = container()
            scope.instances[AsyncContainer] = await opening.__aenter__()
            scope.on_exit(lambda error: opening.__aexit__(error and type(error), error, None))
        return await scope.instances[AsyncContainer].get(cls)

    return resolve
