"""Application: a container whose handlers and behaviors do the steps of the messages and record them."""

import asyncio
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dependency_injector import containers, providers

from mediator import (
    Concurrent,
    DistributedEvent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    Mediator,
    Notification,
    NotificationHandler,
    NotificationPipelineBehavior,
    PipelineBehavior,
    RequestHandler,
    TransactionMode,
    current_scope,
)
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.errors import NoUnitOfWorkError
from mediator.testing import InMemoryDatabase, InMemoryOutbox, InMemoryUnitOfWork
from tests.contracts.model.program import Act, Ask, HeardOnce, HeardTwice, Scripted, behave, perform


@dataclass(frozen=True)
class Strand:
    """A sequence of steps: a program, or one of several concurrent handlers."""

    name: str
    task: Any


strand: ContextVar[Strand] = ContextVar("strand")


def begin_strand(name: str) -> None:
    """Begin a strand in the current task."""
    strand.set(Strand(name, asyncio.current_task()))


@dataclass
class Recorder:
    """The observations of one run."""

    notes: list[tuple[str, str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    built: int = 0
    scoped: list["Watched"] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append((strand.get().name, text, current_scope()))


class Watched:
    """A scoped object that counts how often it is disposed."""

    def __init__(self, recorder: Recorder) -> None:
        self.scope = current_scope()
        self.disposals = 0
        recorder.scoped.append(self)

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.disposals += 1


class WatchedUnitOfWork(Watched, InMemoryUnitOfWork):
    def __init__(self, recorder: Recorder, database: InMemoryDatabase) -> None:
        Watched.__init__(self, recorder)
        InMemoryUnitOfWork.__init__(self, database)


@dataclass(frozen=True)
class Written(DistributedEvent):
    event_type = "model.written"
    event_version = 1
    strand: str
    key: str


class Handling:
    """The base of every handler of the model: the `World` of a program, with the objects of its scope."""

    def __init__(
        self,
        recorder: Recorder,
        mediator: Mediator,
        unit_of_work: WatchedUnitOfWork,
        distributed_events: DistributedEventBroker,
        watched: Watched,
    ) -> None:
        recorder.built += 1
        self.note = recorder.note
        self._counts = recorder.counts
        self._mediator = mediator
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events
        self._scoped = (watched, unit_of_work)

    async def cancel(self) -> None:
        strand.get().task.cancel()
        await asyncio.sleep(0)

    async def dispatch(self, message: Any, mode: TransactionMode) -> Any:
        if isinstance(message, Notification):
            return await self._mediator.publish(message, mode=mode, strategy=message.strategy)
        return await self._mediator.send(message, mode=mode)

    def after_commit(self, message: Any) -> bool:
        try:
            self._mediator.publish_after_commit(message, strategy=message.strategy)
        except NoUnitOfWorkError:
            return False
        return True

    def write(self, label: str) -> bool:
        self._counts[label] += 1
        key = (strand.get().name, f"{label}#{self._counts[label]}")
        try:
            self._unit_of_work.table("rows")[key] = True
            self._distributed_events.add(Written(*key))
        except NoUnitOfWorkError:
            return False
        return True

    async def work(self, message: Scripted, number: int = 0) -> str:
        response = await perform(self, message.works[number])
        assert all(each.disposals == 0 and each.scope is current_scope() for each in self._scoped)
        return response


class ActHandler(Handling, RequestHandler[Act, str]):
    async def handle(self, command: Act) -> str:
        return await self.work(command)


class AskHandler(Handling, RequestHandler[Ask, str]):
    async def handle(self, query: Ask) -> str:
        return await self.work(query)


class First(Handling, NotificationHandler[HeardOnce | HeardTwice]):
    async def handle(self, notification: HeardOnce | HeardTwice) -> None:
        await self.work(notification)


class Second(Handling, NotificationHandler[HeardTwice]):
    async def handle(self, notification: HeardTwice) -> None:
        await self.work(notification, 1)


class Outside(PipelineBehavior[Any, Any]):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def handle(self, message: Any, call_next: Any) -> Any:
        return await behave(self._recorder.note, message.outside, f"{message.label} outside", call_next)


class Inside(PipelineBehavior[Any, Any]):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def handle(self, message: Any, call_next: Any) -> Any:
        return await behave(self._recorder.note, message.inside, f"{message.label} inside", call_next)


class Around(NotificationPipelineBehavior[Notification]):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def handle(self, notification: Any, handler: type, call_next: Any) -> None:
        work = notification.works[[First, Second].index(handler)]
        if isinstance(notification.strategy, Concurrent):
            begin_strand(work.label)
        await behave(self._recorder.note, work.around, f"around {work.label}", call_next)


class Application(containers.DeclarativeContainer):
    recorder = providers.Singleton(Recorder)
    database = providers.Singleton(InMemoryDatabase)
    outbox = providers.Singleton(InMemoryOutbox, database)
    watched = Scoped(Watched, recorder)
    unit_of_work = Scoped(WatchedUnitOfWork, recorder, database)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outside = providers.Factory(Outside, recorder)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    inside = providers.Factory(Inside, recorder)
    around = providers.Factory(Around, recorder)
    mediator = MediatorProvider(behaviors=providers.List(outside, transaction, inside, around))
    act = providers.Factory(ActHandler, recorder, mediator, unit_of_work, distributed_events, watched)
    ask = providers.Factory(AskHandler, recorder, mediator, unit_of_work, distributed_events, watched)
    first = providers.Factory(First, recorder, mediator, unit_of_work, distributed_events, watched)
    second = providers.Factory(Second, recorder, mediator, unit_of_work, distributed_events, watched)
