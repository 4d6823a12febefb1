"""An application in memory whose handlers run the actions that a test sets."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from mediator import (
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    EventConsumer,
    Mediator,
    current_delivery,
    current_scope,
)
from mediator.binding import Binding
from mediator.distributed.cloudevents import CloudEvent
from mediator.registry import Registry
from mediator.testing import (
    InMemoryBroker,
    InMemoryDatabase,
    InMemoryEventSubscription,
    InMemoryInbox,
    InMemoryParking,
    InMemoryUnitOfWork,
)
from tests.unit.virtual_time import now

TYPE = "shop.order-placed"


@dataclass(frozen=True, slots=True)
class OrderPlaced(DistributedEvent):
    event_type: ClassVar[str] = TYPE
    number: int


@dataclass(frozen=True, slots=True)
class Reserved(DistributedEvent):
    event_type: ClassVar[str] = "warehouse.reserved"
    number: int


Act = Callable[[OrderPlaced], Awaitable[None]]


@dataclass
class Application:
    """`effects` has the numbers of the handled orders; `acts` has the action of the handler for each order number."""

    options: dict[str, Any] = field(default_factory=dict)
    ack_wait: float = 30.0
    now: float = field(default_factory=time.time)
    max_pending: int | None = None
    database: InMemoryDatabase = field(default_factory=InMemoryDatabase)

    def __post_init__(self) -> None:
        self.broker = InMemoryBroker()
        self.inbox = InMemoryInbox(self.database)
        self.parking = InMemoryParking(self.database)
        self.acts: dict[int, Act] = {}
        self.starts: Counter[int] = Counter()
        self.attempts: list[tuple[int, int]] = []
        self.started: asyncio.Queue[int] = asyncio.Queue()
        self.mediator = Mediator(
            Registry([Binding(lambda: Handler(self), Handler, "reserve", DistributedEventHandler)], [])
        )
        self.consumer = self.consuming()

    def consuming(self, **options: Any) -> EventConsumer:
        """Return another consumer of the same group."""
        subscription = InMemoryEventSubscription(self.broker, "warehouse", ack_wait=self.ack_wait)
        given = {"parking": self.parking, "later_delays": (), "now": lambda: self.now, **self.options, **options}
        return EventConsumer(subscription, self.inbox, self.unit_of_work, self.mediator, **given)

    def unit_of_work(self) -> InMemoryUnitOfWork:
        instances = current_scope().instances
        if InMemoryUnitOfWork not in instances:
            instances[InMemoryUnitOfWork] = InMemoryUnitOfWork(self.database, max_pending=self.max_pending)
        found: InMemoryUnitOfWork = instances[InMemoryUnitOfWork]
        return found

    @property
    def effects(self) -> list[int]:
        """Return the numbers of the orders that took effect, in order."""
        return list(self.database.tables.get("reservations", {}))

    def publish(self, *numbers: int, key: str | None = None, version: int = 1) -> None:
        for number in numbers:
            self.broker.store(
                CloudEvent(
                    id=f"e{number}",
                    type=f"{TYPE}.v{version}",
                    time=datetime(2026, 1, 2, tzinfo=UTC),
                    data=b'{"number": %d}' % number,
                    source="shop",
                    partitionkey=key,
                )
            )

    @asynccontextmanager
    async def running(self, consumer: EventConsumer | None = None) -> AsyncIterator[None]:
        task = asyncio.create_task((consumer or self.consumer).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def settled(self, count: int) -> None:
        """Wait until the group has settled that many events."""
        async with asyncio.timeout(10):
            await self.broker.wait_until_acknowledged("warehouse", count)

    async def handle(self, event: OrderPlaced) -> None:
        self.starts[event.number] += 1
        self.attempts.append((event.number, current_delivery().attempt))
        unit_of_work = self.unit_of_work()
        unit_of_work.table("reservations")[event.number] = current_delivery().id
        DistributedEventBroker(unit_of_work).add(Reserved(event.number))
        self.started.put_nowait(event.number)
        if event.number in self.acts:
            await self.acts[event.number](event)

    def parked(self) -> list[tuple[str, str, int]]:
        """Return the id, the reason and the attempts of each parked event."""
        return [(event.event_id, str(event.reason), event.attempts) for event in self.parking.events]


class Steady(random.Random):
    """A random number generator without jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class VirtualDatabase(InMemoryDatabase):
    """A database whose clock is the clock of the loop."""

    def now(self) -> float:
        return now()


class Handler(DistributedEventHandler[OrderPlaced]):
    def __init__(self, application: Application) -> None:
        self._application = application

    async def handle(self, event: OrderPlaced) -> None:
        await self._application.handle(event)


def failing(error: BaseException, times: int = 1_000_000) -> Act:
    """Return an action that fails the first `times` times."""
    left = [times]

    async def act(_event: OrderPlaced) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error

    return act


async def hanging(_event: OrderPlaced) -> None:
    await asyncio.Event().wait()
