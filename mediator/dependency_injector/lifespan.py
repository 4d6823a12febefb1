"""Lifespan: starts a container and stops it.

`lifespan` replaces `container.init_resources()` and `container.shutdown_resources()`. These two methods start resources
concurrently, choose the order of stopping by direct dependencies only, and leave resources running after an error.

dependency-injector starts each resource in a separate task, so a resource must not keep a task group or a timeout open.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from mediator.blocks import add_note, asynccontextmanager
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.declared import check_instance
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.dependency_injector.resolution import forget, forget_modes
from mediator.dependency_injector.validation import validate
from mediator.dependency_injector.workers import running, workers_of
from mediator.errors import ContainerError
from mediator.mediator import Mediator
from mediator.owner import Owner
from mediator.printable import shown_error
from mediator.settings import check_not_negative

C = TypeVar("C")


@asynccontextmanager
async def lifespan(
    container: C,
    *,
    workers: bool = False,
    check: bool = True,
    requests: Iterable[type] = (),
    packages: Iterable[str] = (),
    relay_elsewhere: bool = False,
    drain_timeout: float = 30.0,
) -> AsyncGenerator[C]:
    """Start a container for the block, and stop it at the end. A stopped container can be started again.

    First the container is validated. Then its resources are started one after another, each after the resources it
    depends on. Then its mediators accept messages, and the workers run. At the end, even after an error or a
    cancellation, everything stops in reverse order: workers finish their current work, mediators refuse messages,
    resources are closed.

    Overridden resources are not started. Singletons that use a resource are made again at the next start.

    Args:
        container: The container, an instance.
        workers: Whether to run the workers of the container: its `OutboxRelay`s, `EventConsumer`s, `RequestResponder`s
            and `Idempotency` stores.
        check: Whether to validate the container first.
        requests: Requests that must have a handler, for `validate`.
        packages: Names of imported packages for `validate`; all requests declared in them must have a handler.
        relay_elsewhere: True when another process runs the relay of this application's outbox, for `validate`.
        drain_timeout: Seconds that workers may take to stop.

    Raises:
        ContainerValidationError: The container has faults; nothing was started.
        ContainerError: The container is a class, or is running already in this event loop.
        SettingError: `drain_timeout` is not a valid number of seconds.
        MisuseError: The container runs in another event loop, or in the process from which this process was forked.
        Exception: The error of a resource, the body or a worker, or an `ExceptionGroup` of several errors. Notes say where
            the error was raised, and what else failed while stopping. A worker that fails cancels the body.
        WorkerNotStoppedError: A worker kept running although it was cancelled.
    """
    check_instance(container)
    check_not_negative(drain_timeout=drain_timeout)
    if check:
        validate(container, requests=requests, packages=packages, relay_elsewhere=relay_elsewhere)
    mediators = _idle_mediators(container)
    async with (
        started_resources(container),
        _started(mediators),
        running(workers_of(container) if workers else (), drain_timeout),
    ):
        yield container


def _idle_mediators(container: Any) -> list[Mediator]:
    mediators = [provider.own() for _, provider in mediators_of(container)]
    if any(mediator.started for mediator in mediators):
        for mediator in mediators:
            if mediator.owner is not None:
                mediator.owner.check(moves=False)
        raise ContainerError(container, "The container is running already: enter its lifespan once, around everything.")
    return mediators


@asynccontextmanager
async def _started(mediators: Iterable[Mediator]) -> AsyncGenerator[None]:
    for mediator in mediators:
        mediator.owner = Owner("The running container")
        mediator.owner.check()
        mediator.started = True
    try:
        yield
    finally:
        for mediator in mediators:
            mediator.started, mediator.owner = False, None


@asynccontextmanager
async def started_resources(container: Any) -> AsyncGenerator[None]:
    """Start the resources, each after the resources it depends on, and stop them in reverse order at the block's end.

    When a resource fails to stop, the other resources are still stopped. Singletons that use a resource are reset, so
    that the next start makes these singletons again.

    Raises:
        Exception: The body or the start of a resource failed. Errors of stopping resources are added as notes. If only
            the stop failed, its error is raised; several such errors are raised as an `ExceptionGroup`.
    """
    async with _resources(container) as resources:
        await resources.start(resources.graph.resources())
        yield


Ask = Callable[[Any], Awaitable[Any]]


@asynccontextmanager
async def opened(container: Any) -> AsyncGenerator[Ask]:
    """Yield a function that starts the resources which a provider needs, and then returns the provider's object.

    At the end of the block, all running resources are stopped. This includes resources that were started in another
    way, such as by `container.init_resources()`. Neither workers nor mediators are started.
    """
    async with _resources(container) as resources:

        async def ask(provider: Any) -> Any:
            needed = resources.graph.reachable([provider])
            await resources.start([each for each in resources.graph.resources() if each in needed])
            return await made(provider)

        try:
            yield ask
        finally:
            resources.take_over()


async def made(provider: Any) -> Any:
    """Call a provider and return its object. The object of an asynchronous provider is awaited."""
    found = provider()
    return await found if inspect.isawaitable(found) else found


@asynccontextmanager
async def _resources(container: Any) -> AsyncGenerator["_Resources"]:
    resources = _Resources(container)
    forget()
    try:
        yield resources
    except BaseException as error:
        _raise_failures(await resources.stop(), error)
        raise
    _raise_failures(await resources.stop(), None)


class _Resources:
    def __init__(self, container: Any) -> None:
        self.graph = Graph(container)
        self._container = container
        self._started: list[Any] = []

    async def start(self, wanted: Iterable[Any]) -> None:
        """Start resources in the given order. A resource that was started before is not started again."""
        for resource in wanted:
            if resource not in self._started:
                self._started.append(resource)
                await self._start(resource)
                forget_modes(self._container)

    def take_over(self) -> None:
        """Let `stop` also stop resources that were started elsewhere, each before the resources that it needs."""
        self._started = [each for each in self.graph.resources() if each in self._started or each.initialized]

    async def _start(self, resource: Any) -> None:
        try:
            starting = resource.init()
            if asyncio.isfuture(starting) or asyncio.iscoroutine(starting):
                await starting
        except Exception as error:  # raised again with the label, which the traceback lacks
            add_note(error, f"This was raised when {self.graph.labels[resource]} was started.")
            raise

    async def stop(self) -> list[BaseException]:
        """Stop the started resources in reverse order, and return the errors."""
        failures: list[BaseException] = []
        for resource in reversed(self._started):
            try:
                stopping = resource.shutdown()
                if stopping is not None:
                    await stopping
            except BaseException as failure:  # even a cancellation: the other resources are still stopped
                add_note(failure, f"This was raised when {self.graph.labels[resource]} was stopped.")
                failures.append(failure)
        for provider in self.graph.dependents(self._started):
            if isinstance(provider, kinds.SINGLETONS):
                provider.reset()
        forget_modes(self._container)
        return failures


def _raise_failures(failures: list[BaseException], error: BaseException | None) -> None:
    for failure in failures:
        if not isinstance(failure, Exception):
            raise failure
    if error is not None:
        for failure in failures:
            add_note(error, f"While stopping resources: {shown_error(failure)}")
    elif len(failures) == 1:
        raise failures[0]
    elif failures:
        raise BaseExceptionGroup("errors while stopping resources", failures)
