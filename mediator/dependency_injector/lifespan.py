"""Lifespan: a container from start to stop.

It takes the place of `container.init_resources()` and `shutdown_resources()`, which start concurrently, stop in an order
that overlooks indirect dependencies, and stop stopping at the first error. A resource starts in a task of its own
(dependency-injector does that), so it cannot hold a task group or a timeout open.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from mediator.dependency_injector.declared import check_instance
from mediator.dependency_injector.mediator_provider import mediators_of
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
    order: workers finish what they are at, mediators refuse messages, resources are closed. Overridden resources are not
    started, and singletons that use a resource are made anew at the next start.

    Args:
        container: The container, an instance.
        workers: Whether to run every relay, consumer, responder and idempotency of the container too.
        check: Whether to validate first.
        requests: See `validate`.
        packages: See `validate`.
        relay_elsewhere: See `validate`.
        drain_timeout: How long workers may take to stop, in seconds.

    Raises:
        ContainerValidationError: The container is faulty; nothing was started.
        ContainerError: It is a class, or is running already.
        Exception: What a resource, the body or a worker raised, as it is, with notes that say where and what else failed
            in stopping; of several, an `ExceptionGroup`. A worker that fails cancels the body.
        WorkerNotStoppedError: A worker went on in spite of being cancelled.
    """
    check_instance(container)
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
        raise ContainerError(container, "The container is running already: enter its lifespan once, around everything.")
    return mediators


@asynccontextmanager
async def _started(mediators: Iterable[Mediator]) -> AsyncGenerator[None]:
    for mediator in mediators:
        mediator.started = True
    try:
        yield
    finally:
        for mediator in mediators:
            mediator.started = False
