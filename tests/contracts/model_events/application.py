"""Application: commands that add events, a relay, a broker, and a consumer that applies events and adds more."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from mediator import (
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    Mediator,
    OutboxRelay,
    PipelineBehavior,
    RequestHandler,
)
from mediator.binding import Binding
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Ordering
from mediator.distributed.outbox import PublishResult
from mediator.errors import EventHeldBackError, EventRefusedError
from mediator.registry import Registry
from mediator.testing import InMemoryBroker, InMemoryEventPublisher, InMemoryEventSubscription
from tests.contracts.model_events.script import Add, Do, ScriptedError
from tests.contracts.model_events.storage import ModelStorage

GROUP = "ledger"


@dataclass(frozen=True, slots=True)
class Made(DistributedEvent):
    event_type: ClassVar[str] = "model.made"
    number: int
    key: str | None

    @property
    def partition_key(self) -> str | None:
        return self.key


@dataclass(frozen=True, slots=True)
class Applied(Made):
    event_type: ClassVar[str] = "model.applied"


class PoisonError(Exception):
    """The error that the handler raises while a key is poisoned."""


class Clock:
    """A clock for delayed events, in seconds since the epoch."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class RefusingPublisher(InMemoryEventPublisher):
    """A publisher that refuses the events of some keys, and stores no later event of such a key in the same batch.

    Attributes:
        refused: The keys whose events are refused.
    """

    def __init__(self, broker: InMemoryBroker) -> None:
        super().__init__(broker, application="model")
        self.refused: set[str | None] = set()

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        results: list[PublishResult] = []
        stopped: set[str | None] = set()
        for event in events:
            if event.partitionkey in stopped:
                results.append(PublishResult(event, EventHeldBackError(event.id, event.type)))
            elif event.partitionkey in self.refused and event.type.startswith(Made.event_type):
                results.append(PublishResult(event, EventRefusedError(event.id, event.type, "of that key")))
                stopped |= {event.partitionkey} - {None}
            else:
                results += await super().publish([event])
        return results


class Application:
    """The whole application, on one database.

    Attributes:
        poisoned: The keys whose events make the handler fail.
        labels: The kind and the number of each added event, by its id.
    """

    def __init__(self, storage: ModelStorage, clock: Clock, ordering: Ordering) -> None:
        self.storage = storage
        self.clock = clock
        self.broker = InMemoryBroker()
        self.publisher = RefusingPublisher(self.broker)
        self.poisoned: set[str | None] = set()
        self.labels: dict[str, tuple[type[Made], int]] = {}
        self._ordering: Ordering = ordering
        bindings = [
            Binding(lambda: _DoHandler(self), _DoHandler, "do", RequestHandler),
            Binding(lambda: _MadeHandler(self), _MadeHandler, "made", DistributedEventHandler),
        ]
        behavior = Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
        self.mediator = Mediator(Registry(bindings, [behavior]))

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        unit_of_work = self.storage.unit_of_work()
        return DistributedUnitOfWorkBehavior(unit_of_work, DistributedEventBroker(unit_of_work), self.storage.outbox)

    def relay(self, *, grace: float) -> OutboxRelay:
        return OutboxRelay(
            self.storage.outbox,
            self.publisher,
            batch_size=3,
            poll_interval=0.02,
            drain_timeout=grace,
            rng=random.Random(0),
            clock=asyncio.get_running_loop().time,
        )

    def consumer(self, *, grace: float) -> EventConsumer:
        return EventConsumer(
            InMemoryEventSubscription(self.broker, GROUP),
            self.storage.inbox,
            self.storage.unit_of_work,
            self.mediator,
            parking=self.storage.parking,
            ordering=self._ordering,
            concurrency=2,
            retry_delays=(0.0,),
            later_delays=(),
            drain_timeout=grace,
            rng=random.Random(0),
            now=self.clock,
        )

    async def do(self, command: Do) -> None:
        await self.mediator.send(command)

    def add(self, event: Made, delay: float | None = None) -> None:
        at = None if delay is None else datetime.fromtimestamp(self.clock() + delay, UTC)
        event_id = DistributedEventBroker(self.storage.unit_of_work()).add(event, deliver_at=at)
        self.labels[event_id] = type(event), event.number

    async def run(self, command: Do) -> None:
        for step in command.steps:
            if isinstance(step, Add):
                await self.storage.write("made", step.number)
                self.add(Made(step.number, step.key), step.delay)
                continue
            try:
                await self.mediator.send(step.command, mode=step.mode)
            except Exception:
                if not step.forgiving:
                    raise
        if command.fails:
            raise ScriptedError

    async def apply(self, event: Made) -> None:
        await self.storage.write("applied", event.number)
        self.add(Applied(event.number, event.key))
        if event.key in self.poisoned:
            raise PoisonError


class _DoHandler(RequestHandler[Do, None]):
    def __init__(self, application: Application) -> None:
        self._application = application

    async def handle(self, command: Do) -> None:
        await self._application.run(command)


class _MadeHandler(DistributedEventHandler[Made]):
    def __init__(self, application: Application) -> None:
        self._application = application

    async def handle(self, event: Made) -> None:
        await self._application.apply(event)
