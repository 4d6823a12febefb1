"""Resources of a container: started one after another, stopped in reverse."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.resolution import forget


def forget_modes(container: Any) -> None:
    """Let every provider find out anew whether it is asynchronous.

    dependency-injector decides that at the first call and for good. A resource that is ready is a plain object, and what
    uses it is then resolved without futures, which is some twenty times as fast.
    """
    for provider in container.traverse():
        provider.reset_async_mode()
    forget()


@asynccontextmanager
async def started_resources(container: Any) -> AsyncGenerator[None]:
    """Start the resources, each after those it depends on, and stop them in reverse at the end of the block.

    A failure in stopping does not keep the others from being stopped. Singletons that use a resource are reset, so that
    the next start makes them anew.

    Raises:
        Exception: What the body or a starting resource raised, with failures in stopping as notes; else those failures.
    """
    graph = Graph(container)
    started: list[Any] = []
    forget()
    try:
        for resource in graph.resources():
            started.append(resource)
            await _start(resource, graph.labels[resource])
            forget_modes(container)
        yield
    except BaseException as error:
        _raise_failures(await _stop(container, graph, started), error)
        raise
    _raise_failures(await _stop(container, graph, started), None)


async def _start(resource: Any, label: str) -> None:
    try:
        starting = resource.init()
        if asyncio.isfuture(starting) or asyncio.iscoroutine(starting):
            await starting
    except Exception as error:  # passed on, with the name that the traceback lacks
        error.add_note(f"This was raised when {label} was started.")
        raise


async def _stop(container: Any, graph: Graph, started: Sequence[Any]) -> list[BaseException]:
    failures: list[BaseException] = []
    for resource in reversed(started):
        try:
            stopping = resource.shutdown()
            if stopping is not None:
                await stopping
        except BaseException as failure:  # collected, cancellations too: every other resource is still stopped
            failure.add_note(f"This was raised when {graph.labels[resource]} was stopped.")
            failures.append(failure)
    for provider in graph.dependents(started):
        if isinstance(provider, kinds.SINGLETONS):
            provider.reset()
    forget_modes(container)
    return failures


def _raise_failures(failures: list[BaseException], error: BaseException | None) -> None:
    for failure in failures:
        if not isinstance(failure, Exception):
            raise failure
    if error is not None:
        for failure in failures:
            error.add_note(f"While stopping resources: {failure!r}")
    elif len(failures) == 1:
        raise failures[0]
    elif failures:
        raise BaseExceptionGroup("errors while stopping resources", failures)
