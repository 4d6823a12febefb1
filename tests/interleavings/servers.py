"""The databases, the broker and the request channel of `mediator.testing`, behind the simulated network.

All processes share these objects, as they share a server. The server handles a request at once when it arrives. The process
that sent it may be dead or frozen when the answer comes.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from mediator.blocks import asynccontextmanager
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Deliveries, Delivery, Ordering
from mediator.distributed.outbox import OutboxBatch, PublishResult
from mediator.distributed.requests import IncomingCalls
from mediator.errors import CommitOutcomeUnknownError, EventHeldBackError, EventRefusedError
from mediator.testing import (
    InMemoryBroker,
    InMemoryDatabase,
    InMemoryEventPublisher,
    InMemoryEventSubscription,
    InMemoryInbox,
    InMemoryOutbox,
    InMemoryParking,
    InMemoryRequestChannel,
    InMemoryUnitOfWork,
)
from tests.interleavings.processes import Processes

C = TypeVar("C", bound=type)
EPOCH = 1_800_000_000.0
"""The time of the databases when a run begins, in seconds since the epoch."""


def remote(*names: str) -> Callable[[C], C]:
    """Let the named methods of a class travel over the network of its `processes`."""

    def decorate(cls: C) -> C:
        for name in names:
            setattr(cls, name, _carried(getattr(cls, name)))
        return cls

    return decorate


def _carried(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, *args: Any, **options: Any) -> Any:
        return await self.processes.carry(lambda: method(self, *args, **options))

    return call


class Database(InMemoryDatabase):
    """A database whose clock is the clock of the run.

    Attributes:
        swallowed_answers: The commits, by their numbers from 1, that are done and whose answers are lost.
    """

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes
        self.commits = 0
        self.swallowed_answers: set[int] = set()

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()


@remote("stage", "commit_transaction", "roll_back_transaction", "set_savepoint", "roll_back_to_savepoint")
class UnitOfWork(InMemoryUnitOfWork):
    def __init__(self, database: Database, **options: Any) -> None:
        super().__init__(database, **options)
        self._database = database
        self.processes = database.processes

    async def commit_transaction(self, transaction_id: str) -> None:
        await super().commit_transaction(transaction_id)
        self._database.commits += 1
        if self._database.commits in self._database.swallowed_answers:
            raise CommitOutcomeUnknownError(transaction_id, "the plan swallows the answer")

    async def prepare(self, isolation: str | None) -> None:
        """Begin a transaction. When the process dies, the server rolls the transaction back."""
        await super().prepare(isolation)
        process = self.processes.current()
        if process is not None and self._forget not in process.at_death:
            process.at_death.append(self._forget)


@remote("settle", "park")
class _Batch(OutboxBatch):
    def __init__(self, processes: Processes, batch: OutboxBatch) -> None:
        self.processes = processes
        self.events = batch.events
        self.look_again = batch.look_again
        self._batch = batch

    async def settle(self, ids: Collection[str], /) -> None:
        await self._batch.settle(ids)

    async def park(self, event: CloudEvent, /, reason: str, error: str) -> None:
        await self._batch.park(event, reason, error)


@remote("due_in", "clean", "cancel", "erase")
class Outbox(InMemoryOutbox):
    def __init__(self, database: Database, application: str) -> None:
        super().__init__(database, application=application)
        self.processes = database.processes

    @asynccontextmanager
    async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncGenerator[OutboxBatch, None]:
        process = self.processes.current()
        if process is not None:
            await process.send()
        self._database.check_available()
        async with super().claim(limit, without=without) as batch:
            if process is not None:
                await process.travel()
            yield _Batch(self.processes, batch)


@remote("insert", "contains", "start", "end", "take_back", "clean", "answers")
class Inbox(InMemoryInbox):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.processes = database.processes


@remote(
    *("park", "append", "find", "count", "get", "edit", "reserve", "take", "release", "note_failure", "discard"),
    *("claim", "due_in", "start", "postpone", "holders", "let_go"),
)
class Parking(InMemoryParking):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.processes = database.processes


@remote("publish")
class Publisher(InMemoryEventPublisher):
    """A publisher that can refuse events. It stores no event behind a refused one of its key in the same batch.

    Attributes:
        refused: The ids of the events that are refused.
    """

    def __init__(self, processes: Processes, broker: InMemoryBroker, application: str) -> None:
        super().__init__(broker, application=application)
        self.processes = processes
        self.refused: set[str] = set()

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        results: list[PublishResult] = []
        stopped: set[str] = set()
        for event in events:
            if event.partitionkey in stopped:
                results.append(PublishResult(event, EventHeldBackError(event.id, event.type)))
                continue
            refuses = event.id in self.refused
            results += (
                [PublishResult(event, EventRefusedError(event.id, event.type, "the plan says so"))]
                if refuses
                else await super().publish([event])
            )
            if results[-1].error is not None and event.partitionkey is not None:
                stopped.add(event.partitionkey)
        return results


class Subscription(InMemoryEventSubscription):
    """A subscription whose deliveries come back after `ack_wait` when its process dies."""

    def __init__(self, processes: Processes, broker: InMemoryBroker, group: str, ack_wait: float) -> None:
        super().__init__(broker, group, ack_wait=ack_wait)
        self.processes = processes

    @asynccontextmanager
    async def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AsyncGenerator[Deliveries, None]:
        process = self.processes.current()
        async with super().open(event_types, prefetch=prefetch, ordering=ordering) as deliveries:
            try:
                yield OpenedDeliveries(self.processes, deliveries)
            finally:
                if process is not None and not process.alive:
                    _disarm(deliveries, "close")


class OpenedDeliveries(Deliveries):
    def __init__(self, processes: Processes, deliveries: Deliveries) -> None:
        self._processes = processes
        self._deliveries = deliveries

    async def next(self) -> Delivery:
        delivery = await self._deliveries.next()
        for name in ("ack", "nak", "term", "in_progress"):
            setattr(delivery, name, self._carried(getattr(delivery, name)))
        return delivery

    def pause(self) -> None:
        self._deliveries.pause()

    def resume(self) -> None:
        self._deliveries.resume()

    def _carried(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            return await self._processes.carry(lambda: method(*args))

        return call


@remote("call")
class Channel(InMemoryRequestChannel):
    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    @asynccontextmanager
    async def serve(self, names: Collection[str], /, *, waiting: int) -> AsyncGenerator[IncomingCalls, None]:
        process = self.processes.current()
        async with super().serve(names, waiting=waiting) as calls:
            try:
                yield calls
            finally:
                if process is not None and not process.alive:
                    _disarm(calls, "reject_waiting")


def _disarm(part: Any, name: str) -> None:
    """Let a part of a dead process do nothing at its end."""
    method = getattr(part, name)

    async def later() -> None: ...

    setattr(part, name, later if asyncio.iscoroutinefunction(method) else lambda: None)
