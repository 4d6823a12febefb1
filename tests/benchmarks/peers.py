"""Peers: the other mediators for Python that are installed, each on the set-up of `application`.

Handlers and behaviors come from providers of dependency-injector if a peer supports that. python-cqrs and
diator take middlewares that are made once, and are compared with behaviors that are. None of them opens a scope.
"""

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dependency_injector import containers, providers

from tests.benchmarks.application import Repository
from tests.benchmarks.measuring import Loop


@dataclass(frozen=True)
class Peer:
    """Another mediator.

    Attributes:
        name: The name of its distribution.
        module: The name of its module.
        set_up: Returns the loop of a send through the given number of behaviors.
        made_once: Whether its behaviors are made only once.
        ceiling: The ratio above which a test fails.
    """

    name: str
    module: str
    set_up: Callable[[int], Loop]
    made_once: bool = False
    ceiling: float = 1.0


def installed_peers() -> list[Peer]:
    return [peer for peer in PEERS if importlib.util.find_spec(peer.module)]


class Providers:
    """Returns the object of a provider by its class: the container for peers without their own."""

    def __init__(self) -> None:
        self._repository = providers.Singleton(Repository)
        self._by_class: dict[type, Any] = {}

    def handler(self, cls: type) -> type:
        self._by_class[cls] = providers.Factory(cls, self._repository)
        return cls

    def behavior(self, cls: type) -> type:
        self._by_class[cls] = providers.Factory(cls)
        return cls

    def resolve(self, cls: type) -> Any:
        return self._by_class[cls]()


class AsyncProviders(Providers):
    """The same container for peers that await it."""

    async def resolve(self, cls: type) -> Any:
        return self._by_class[cls]()


def sending(mediator: Any, message: Any) -> Loop:
    asyncio.get_running_loop()  # some peers need an event loop in their constructors

    async def loop(count: int) -> None:
        for _ in range(count):
            await mediator.send(message)

    return loop


def mediatorx(behaviors: int) -> Loop:
    library, found = importlib.import_module("mediatorx"), Providers()

    class Rename(library.ICommand[None]):
        pass

    class Handler:
        def __init__(self, repository: Repository) -> None:
            self._repository = repository

        async def handle(self, _command: Any) -> None:
            pass

    mediator = library.Mediator(found)
    mediator.register(Rename, found.handler(Handler))
    for _ in range(behaviors):
        mediator.add_behavior(found.behavior(_handling_behavior()))
    return sending(mediator, Rename())


def _handling_behavior() -> type:
    class Behavior:
        async def handle(self, message: object, next: Any) -> Any:  # noqa: A002
            return await next()

    return Behavior


def mediary(behaviors: int) -> Loop:
    library, found = importlib.import_module("mediary"), Providers()

    @library.request
    class Rename:
        pass

    class Handler:
        def __init__(self, repository: Repository) -> None:
            self._repository = repository

        async def handle(self, request: Rename) -> None:
            pass

    mediator = library.Mediator(resolver=found)
    mediator.register(Rename, found.handler(Handler))
    for number in range(behaviors):
        mediator.use(found.behavior(_handling_behavior()), order=number)
    return sending(mediator, Rename())


def pymediate(behaviors: int) -> Loop:
    library = importlib.import_module("pymediate")
    adapter = importlib.import_module("pymediate.providers.dependency_injector")

    class Rename(library.Request[None]):
        pass

    class Handler(library.RequestHandler[Rename]):
        def __init__(self, repository: Repository) -> None:
            self._repository = repository

        async def __call__(self, request: Rename) -> None:
            pass

    container: Any = containers.DynamicContainer()
    container.repository = providers.Singleton(Repository)
    container.handler = providers.Factory(Handler, container.repository)
    classes = [_calling_behavior(library) for _ in range(behaviors)]
    for number, cls in enumerate(classes):
        setattr(container, f"behavior_{number}", providers.Factory(cls))
    services = adapter.DependencyInjectorServiceProvider(container)
    return sending(library.Mediator(services=services, behaviors=classes), Rename())


def _calling_behavior(library: Any) -> type:
    class Behavior(library.PipelineBehavior[library.Request[Any]]):
        async def __call__(self, request: Any, next: Any) -> Any:  # noqa: A002
            return await next()

    return Behavior


def diator(behaviors: int) -> Loop:
    library, found = importlib.import_module("diator.mediator"), AsyncProviders()
    requests = importlib.import_module("diator.requests")

    class Rename(requests.Request):
        pass

    mediator = library.Mediator(
        request_map=_bound(requests.RequestMap(), Rename, found.handler(_handler_with_events())),
        container=found,
        middleware_chain=_chain("diator.middlewares", behaviors),
    )
    return sending(mediator, Rename())


def python_cqrs(behaviors: int) -> Loop:
    library, found = importlib.import_module("cqrs"), AsyncProviders()

    class Rename(library.Request):
        pass

    mediator = library.RequestMediator(
        request_map=_bound(library.RequestMap(), Rename, found.handler(_handler_with_events())),
        container=found,
        middleware_chain=_chain("cqrs.middlewares.base", behaviors),
    )
    return sending(mediator, Rename())


def _handler_with_events() -> type:
    class Handler:
        events = ()

        def __init__(self, repository: Repository) -> None:
            self._repository = repository

        async def handle(self, _request: Any) -> None:
            pass

    return Handler


def _bound(request_map: Any, request: type, handler: type) -> Any:
    request_map.bind(request, handler)
    return request_map


def _chain(module: str, behaviors: int) -> Any:
    chain = importlib.import_module(module).MiddlewareChain()
    for _ in range(behaviors):

        class Middleware:
            async def __call__(self, request: Any, handle: Any) -> Any:
                return await handle(request)

        chain.add(Middleware())
    return chain


PEERS = [
    Peer("mediatorx", "mediatorx", mediatorx),
    Peer("mediary", "mediary", mediary),
    Peer("pymediate", "pymediate", pymediate),
    Peer("diator", "diator", diator, made_once=True),
    Peer("python-cqrs", "cqrs", python_cqrs, made_once=True),
]
