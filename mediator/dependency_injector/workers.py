"""Workers: finds the relays, consumers and other background workers of a container by their classes, and runs them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any

from mediator.blocks import add_note, asynccontextmanager
from mediator.dependency_injector.catalog import instances_of
from mediator.dependency_injector.graph import Graph
from mediator.distributed.idempotency import Idempotency
from mediator.distributed.inbox import EventConsumer
from mediator.distributed.outbox import OutboxRelay
from mediator.distributed.requests import RequestResponder
from mediator.errors import ContainerError, WorkerNotStoppedError
from mediator.logger import Logger
from mediator.scope import outside_dispatches

_WORKERS = (OutboxRelay, EventConsumer, RequestResponder, Idempotency)
_GIVE_UP_TIMEOUT = 1.0
"""Seconds that a worker may take to stop after it was cancelled a second time."""

_log: Any = Logger()


def worker_providers(container: Any) -> list[tuple[str, Any]]:
    """Return the providers of workers, each with its label, in the order of declaration."""
    found = {provider: label for label, provider, cls in instances_of(container, object) if issubclass(cls, _WORKERS)}
    return [(label, provider) for provider, label in found.items()]


def workers_of(container: Any) -> list[tuple[str, Any]]:
    """Return the workers of a started container, each with its label. Every worker has `async def run()`.

    Raises:
        ContainerError: A worker needs a resource that is not started, or the provider of a worker is asynchronous.
    """
    graph = Graph(container)
    waiting = {each for each in graph.resources() if not each.initialized}
    workers: list[tuple[str, Any]] = []
    for label, provider in worker_providers(container):
        worker = provider() if waiting.isdisjoint(graph.reachable([provider])) else None
        if worker is None or hasattr(worker, "__await__"):
            text = f"{label} needs resources that are not started. Call `workers_of` inside `async with lifespan(...)`."
            if worker is not None:
                text = f"{label} is made asynchronously. Declare its asynchronous dependencies as resources."
            raise ContainerError(container, text)
        workers.append((label, worker))
    return workers


@asynccontextmanager
async def running(workers: Sequence[tuple[str, Any]], drain_timeout: float) -> AsyncGenerator[None]:
    """Run workers concurrently with the body.

    At the end of the body, or when a worker fails, all workers are cancelled. The workers then have `drain_timeout`
    seconds to finish their current work. A worker that fails cancels the body.

    Raises:
        Exception: The error of a worker, with a note that names the worker, or the error of the body. Several errors are
            raised as an `ExceptionGroup`.
        WorkerNotStoppedError: A worker kept running although it was cancelled.
    """
    if not workers:
        yield
        return
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            context = outside_dispatches()
            watchers = [
                group.create_task(_watch(label, worker, drain_timeout), context=context.copy())
                for label, worker in workers
            ]
            yield
            for watcher in watchers:
                watcher.cancel()
    except BaseExceptionGroup as errors:
        failure = errors.exceptions[0] if len(errors.exceptions) == 1 else errors
    if failure is not None:
        raise failure


async def _watch(label: str, worker: Any, drain_timeout: float) -> None:
    """Run one worker. When this coroutine is cancelled, it cancels the worker, and waits until the worker has stopped."""
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
        with suppress(asyncio.CancelledError):  # a cancellation while waiting starts the second try at once
            await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return
    raise WorkerNotStoppedError(label, drain_timeout)


def _failure(label: str, task: asyncio.Task[None]) -> BaseException | None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        add_note(error, f"This was raised by the worker {label}.")
    return error
