"""Thousands of concurrent dispatches, many of which fail or are cancelled, stay separate and leave no state."""

import asyncio
import gc
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import structlog
from dependency_injector import containers, providers

from mediator import (
    Command,
    Concurrent,
    DistributedEvent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    LoggingBehavior,
    Mediator,
    MessageContext,
    Notification,
    NotificationHandler,
    RequestHandler,
    Sequential,
    StreamRequest,
    StreamRequestHandler,
    TransactionMode,
    current_context,
    current_scope,
)
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.msgspec import MsgspecCodec
from mediator.testing import InMemoryDatabase, InMemoryOutbox, InMemoryUnitOfWork

pytestmark = [
    pytest.mark.thorough("runs for half a minute"),
    pytest.mark.timeout(300),  # many processes and much work on a busy machine
]

DISPATCHES = 20_000
AT_A_TIME = 2_000
DEEPEST = 4

APART = [TransactionMode.NEW, TransactionMode.SUPPRESS]


class PlannedError(Exception):
    """Raised by a handler on purpose."""


@dataclass(frozen=True, slots=True)
class Job(Command[int]):
    number: int
    seed: int
    depth: int = 0


@dataclass(frozen=True, slots=True)
class JobSeen(Notification):
    number: int
    seed: int
    depth: int


@dataclass(frozen=True, slots=True)
class Parts(StreamRequest[int]):
    number: int


@dataclass(frozen=True)
class Written(DistributedEvent):
    event_type = "stress.written"
    event_version = 1
    key: int


class Watch:
    """Records the use of scopes, and the creation and disposal of scoped objects."""

    def __init__(self) -> None:
        self.keys = 0
        self.made = 0
        self.disposed = 0
        self.running = 0
        self.most = 0
        self.committed = 0

    def next_key(self) -> int:
        self.keys += 1
        return self.keys


class Owned:
    """A scoped object that belongs to the first dispatch that requested it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._number: int | None = None
        self.disposed = False
        self.scope = current_scope()
        watch.made += 1

    def check(self, number: int) -> None:
        self._number = number if self._number is None else self._number
        assert not self.disposed
        assert self.scope is current_scope()
        assert self._number == number == int(current_context().principal or "-1")
        assert current_context().correlation_id == f"flow-{number}"

    async def aclose(self) -> None:
        assert not self.disposed
        self.disposed = True
        self._watch.disposed += 1
        await asyncio.sleep(0)


class Worker:
    """Performs random steps, chosen by the seed of its message."""

    def __init__(
        self,
        watch: Watch,
        owned: Owned,
        mediator: Mediator,
        unit_of_work: InMemoryUnitOfWork,
        distributed_events: DistributedEventBroker,
    ) -> None:
        self._watch = watch
        self._owned = owned
        self._mediator = mediator
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events

    async def work(self, message: Job | JobSeen) -> int:
        chance = random.Random(message.seed)
        for _ in range(chance.randrange(4)):
            self._owned.check(message.number)
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
            await self._step(message, chance)
        self._owned.check(message.number)
        return message.number

    async def _step(self, message: Job | JobSeen, chance: random.Random) -> None:
        action = chance.choice(["write", "write", "send", "send", "publish", "later", "stream", "fail"])
        if action == "fail" and chance.random() < 0.3:
            raise PlannedError
        if action == "write" and current_scope().transaction is not None:
            self._write()
        elif action == "stream":
            await self._stream(message.number)
        elif message.depth < DEEPEST and action in ("send", "publish", "later"):
            await self._dispatch(message, chance, action)

    def _write(self) -> None:
        key = self._watch.next_key()
        self._unit_of_work.table("rows")[key] = True
        self._distributed_events.add(Written(key))

    async def _stream(self, number: int) -> None:
        async with self._mediator.stream(Parts(number)) as parts:
            async for part in parts:
                assert part == number

    async def _dispatch(self, message: Job | JobSeen, chance: random.Random, action: str) -> None:
        inner = (message.number, chance.randrange(2**32), message.depth + 1)
        try:
            if action == "send":
                assert (
                    await self._mediator.send(Job(*inner), mode=chance.choice(list(TransactionMode))) == message.number
                )
            elif action == "publish":
                mode = chance.choice(list(TransactionMode))
                strategies = [Sequential(), Concurrent(limit=2)] if mode in APART else [Sequential()]
                await self._mediator.publish(JobSeen(*inner), mode=mode, strategy=chance.choice(strategies))
            elif current_scope().transaction is not None:
                self._mediator.publish_after_commit(JobSeen(*inner))
        except PlannedError:
            if chance.random() < 0.5:
                raise


class JobHandler(Worker, RequestHandler[Job, int]):
    async def handle(self, command: Job) -> int:
        return await self.work(command)


class FirstListener(Worker, NotificationHandler[JobSeen]):
    async def handle(self, notification: JobSeen) -> None:
        await self.work(notification)


class SecondListener(Worker, NotificationHandler[JobSeen]):
    async def handle(self, notification: JobSeen) -> None:
        self._owned.check(notification.number)


class PartsHandler(StreamRequestHandler[Parts, int]):
    def __init__(self, owned: Owned) -> None:
        self._owned = owned

    async def handle(self, request: Parts) -> AsyncIterator[int]:
        for _ in range(2):
            self._owned.check(request.number)
            yield request.number


class Stress(containers.DeclarativeContainer):
    watch = providers.Singleton(Watch)
    database = providers.Singleton(InMemoryDatabase)
    outbox = providers.Singleton(InMemoryOutbox, database)
    owned = Scoped(Owned, watch)
    unit_of_work = Scoped(InMemoryUnitOfWork, database)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    logging = providers.Factory(LoggingBehavior)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(logging, transaction))
    job = providers.Factory(JobHandler, watch, owned, mediator, unit_of_work, distributed_events)
    first = providers.Factory(FirstListener, watch, owned, mediator, unit_of_work, distributed_events)
    second = providers.Factory(SecondListener, watch, owned, mediator, unit_of_work, distributed_events)
    parts = providers.Factory(PartsHandler, owned)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Switch the logs off, because the test measures memory."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


async def dispatch(container: Any, number: int, chance: random.Random) -> str:
    """Run one dispatch, cancel it or not, and return its outcome."""
    watch: Watch = container.watch()
    watch.running += 1
    watch.most = max(watch.most, watch.running)
    context = MessageContext(f"entry-{number}", f"flow-{number}", principal=str(number))
    sending = asyncio.ensure_future(container.mediator().send(Job(number, chance.randrange(2**32)), context=context))
    if chance.random() < 0.3:
        asyncio.get_running_loop().call_later(chance.random() * 0.05, sending.cancel)
    (result,) = await asyncio.gather(sending, return_exceptions=True)
    watch.running -= 1
    if isinstance(result, AssertionError | BaseExceptionGroup) or (isinstance(result, int) and result != number):
        raise AssertionError(number) from (result if isinstance(result, BaseException) else None)
    return type(result).__name__


def take_committed(container: Any) -> None:
    """Check that every committed command has its rows and events, and delete them, because the test measures memory."""
    database: InMemoryDatabase = container.database()
    rows = database.tables.get("rows", {})
    events = [MsgspecCodec().decode(event.data, Written).key for event in database.outbox]
    assert sorted(events) == sorted(rows)
    container.watch().committed += len(events)
    rows.clear()
    database.outbox.clear()


def resident() -> int:
    """Return the bytes of memory in use."""
    gc.collect()
    return psutil.Process().memory_info().rss


async def run_all(container: Any) -> tuple[Counter[str], int, int]:
    """Run all dispatches, and return their outcomes and the memory in use after a quarter and at the end."""
    chance, outcomes, after_a_quarter = random.Random(5), Counter[str](), 0
    turns, done = asyncio.Semaphore(AT_A_TIME), 0

    async def one(number: int) -> None:
        nonlocal done, after_a_quarter
        outcomes[await dispatch(container, number, chance)] += 1
        turns.release()
        done += 1
        if done % 1_000 == 0:
            take_committed(container)
        if done == DISPATCHES // 4:
            after_a_quarter = resident()

    async with asyncio.TaskGroup() as group:
        for number in range(DISPATCHES):
            await turns.acquire()
            group.create_task(one(number))
    return outcomes, after_a_quarter, resident()


async def test_twenty_thousand_dispatches_stay_separate_and_leave_no_state():
    before = asyncio.all_tasks()
    container = Stress()
    async with lifespan(container, relay_elsewhere=True):
        outcomes, after_a_quarter, at_the_end = await run_all(container)
        take_committed(container)
        watch: Watch = container.watch()
    assert asyncio.all_tasks() == before
    assert outcomes.total() == DISPATCHES
    assert watch.most == AT_A_TIME
    assert min(outcomes[name] for name in ("int", "PlannedError", "CancelledError")) > DISPATCHES / 100, outcomes
    assert watch.committed > DISPATCHES / 10
    assert watch.made == watch.disposed > DISPATCHES / 2
    assert at_the_end < after_a_quarter * 1.05, (after_a_quarter, at_the_end)
