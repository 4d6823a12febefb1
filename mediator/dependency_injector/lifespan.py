"""Lifespan: a container from start to stop."""

from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from mediator.dependency_injector.mediator_provider import check_instance, mediators_of
from mediator.dependency_injector.resources import started_resources
from mediator.dependency_injector.validation import validate
from mediator.dependency_injector.workers import running, workers_of
from mediator.errors import ContainerError
from mediator.mediator import Mediator

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
    """Start a container, and stop it at the end of the block; it can be started again.

    The container is validated, its resources are started one after another, each after those it depends on, its mediators
    accept messages, and the workers run. At the end, also after an error or a cancellation, everything stops in reverse
    order: workers finish what they are at, mediators refuse messages, resources are closed. It takes the place of
    `init_resources()` and `shutdown_resources()`, which start concurrently, stop in an order that overlooks indirect
    dependencies, and stop stopping at the first error. Overridden resources are not started.

    A resource starts in a task of its own (dependency-injector does that), so it cannot hold a task group or a timeout open.

    Args:
        container: The container, an instance.
        workers: Whether to run the relays and consumers of the container too.
        check: Whether to validate first.
        requests: See `validate`.
        packages: See `validate`.
        relay_elsewhere: See `validate`.
        drain_timeout: How long workers may take to stop, in seconds.

    Yields:
        The container.

    Raises:
        ContainerValidationError: The container is faulty; nothing was started.
        ContainerError: It is a class, or is running already.
        Exception: What a resource raised when starting, after those before it were stopped. What the body raised, as it
            is, with a note for each failure in stopping. What a worker raised: as it is, with a note that names the
            worker, after the body was cancelled. Of several, an `ExceptionGroup`.
        WorkerNotStoppedError: A worker went on in spite of being cancelled.
    """
    check_instance(container)
    if check:
        validate(container, requests=requests, packages=packages, relay_elsewhere=relay_elsewhere)
    mediators = _idle_mediators(container)
    async with started_resources(container):
        with _started(mediators):
            async with running(workers_of(container) if workers else (), drain_timeout):
                yield container


def _idle_mediators(container: Any) -> list[Mediator]:
    mediators = [provider.own() for _, provider in mediators_of(container)]
    if any(mediator.started for mediator in mediators):
        raise ContainerError(container, "The container is running already: enter its lifespan once, around everything.")
    return mediators


@contextmanager
def _started(mediators: Iterable[Mediator]) -> Generator[None]:
    for mediator in mediators:
        mediator.started = True
    try:
        yield
    finally:
        for mediator in mediators:
            mediator.started = False
