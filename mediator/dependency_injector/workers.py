"""Workers: what runs beside an application, such as relays and consumers, found by its class."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from mediator.dependency_injector.catalog import instances_of
from mediator.dependency_injector.graph import Graph
from mediator.distributed.consumer import EventConsumer
from mediator.distributed.idempotency import Idempotency
from mediator.distributed.relay import OutboxRelay
from mediator.distributed.responder import RequestResponder
from mediator.errors import ContainerError, WorkerNotStoppedError

_WORKERS = (OutboxRelay, EventConsumer, RequestResponder, Idempotency)
_GIVE_UP_TIMEOUT = 1.0
"""Seconds that a worker has to stop when told a second time."""

_log: Any = structlog.get_logger("mediator")


def worker_providers(container: Any) -> list[tuple[str, Any]]:
    """The providers of workers, with their labels, in the order of declaration."""
    found = {provider: label for label, provider, cls in instances_of(container, object) if issubclass(cls, _WORKERS)}
    return [(label, provider) for provider, label in found.items()]


def workers_of(container: Any) -> list[tuple[str, Any]]:
    """The workers of a started container: label and object, which has `async def run()`.

    Raises:
        ContainerError: One of them needs a resource that is not started, or is made by a coroutine.
    """
    graph = Graph(container)
    waiting = {each for each in graph.resources() if not each.initialized}
    workers: list[tuple[str, Any]] = []
    for label, provider in worker_providers(container):
        worker = provider() if waiting.isdisjoint(graph.reachable([provider])) else None
        if worker is None or hasattr(worker, "__await__"):
            reason = "is made asynchronously" if worker is not None else "needs resources that are not started"
            text = f"{label} {reason}. Ask for it inside `async with lifespan(...)`, and make it of resources."
            raise ContainerError(container, text)
        workers.append((label, worker))
    return workers


@asynccontextmanager
async def running(workers: Sequence[tuple[str, Any]], drain_timeout: float) -> AsyncGenerator[None]:
    """Run workers beside the body.

    At its end, or when one of them fails, all are cancelled, and have `drain_timeout` seconds to finish what they are at.
    A worker that fails cancels the body.

    Raises:
        Exception: What a worker or the body raised, as it is, with a note that names the worker; a group when there are
            several.
        WorkerNotStoppedError: A worker went on in spite of being cancelled.
    """
    if not workers:
        yield
        return
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watchers = [group.create_task(_watch(label, worker, drain_timeout)) for label, worker in workers]
            yield
            for watcher in watchers:
                watcher.cancel()
    except BaseExceptionGroup as errors:
        failure = errors.exceptions[0] if len(errors.exceptions) == 1 else errors
    if failure is not None:
        raise failure


async def _watch(label: str, worker: Any, drain_timeout: float) -> None:
    """Run one worker; when cancelled, cancel it and wait for its end, though not for ever."""
    task: asyncio.Task[None] = asyncio.create_task(worker.run(), name=label)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        await _stop(label, task, drain_timeout)
        if _failure(label, task) is None:
            raise
    failure = _failure(label, task)
    if failure is not None:
        raise failure
    _log.warning("worker ended", worker=label)


async def _stop(label: str, task: asyncio.Task[None], drain_timeout: float) -> None:
    for seconds in (drain_timeout, _GIVE_UP_TIMEOUT):
        task.cancel()
        with suppress(asyncio.CancelledError):  # whoever stops is in a hurry: the worker is told a second time
            await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return
    raise WorkerNotStoppedError(label, drain_timeout)


def _failure(label: str, task: asyncio.Task[None]) -> BaseException | None:
    error = None if task.cancelled() else task.exception()
    note = f"This was raised by the worker {label}."
    if error is not None and note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    return error
