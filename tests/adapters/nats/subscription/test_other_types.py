"""Handlers of one event type that hang leave a worker for each other type, even when their events flood the group."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from mediator import DistributedEvent, DistributedEventHandler, EventConsumer, Mediator, current_scope
from mediator.binding import Binding
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Ordering
from mediator.nats import NatsConnection, NatsEventPublisher, NatsEventSubscription
from mediator.registry import Registry
from mediator.testing import InMemoryDatabase, InMemoryInbox, InMemoryParking, InMemoryUnitOfWork

_BOUND = 8.0
"""Seconds from the publishing of a healthy event to its handling, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Hanging(DistributedEvent):
    event_type: ClassVar[str] = "shop.hanging"


@dataclass(frozen=True, slots=True)
class Healthy(DistributedEvent):
    event_type: ClassVar[str] = "shop.healthy"


@dataclass(frozen=True, slots=True)
class Elsewhere(DistributedEvent):
    event_type: ClassVar[str] = "store.healthy"


class Site:
    """An application with three handlers. One of them hangs."""

    def __init__(self) -> None:
        self.database = InMemoryDatabase()
        self.hanging = 0
        self.handled: asyncio.Queue[str] = asyncio.Queue()

        class Hangs(DistributedEventHandler[Hanging]):
            async def handle(_, event: Hanging) -> None:  # noqa: N805  # the site is `self`
                self.hanging += 1
                await asyncio.Event().wait()

        class Handles(DistributedEventHandler[Healthy]):
            async def handle(_, event: Healthy) -> None:  # noqa: N805
                self.handled.put_nowait(event.event_type)

        class HandlesElsewhere(DistributedEventHandler[Elsewhere]):
            async def handle(_, event: Elsewhere) -> None:  # noqa: N805
                self.handled.put_nowait(event.event_type)

        handlers = (Hangs, Handles, HandlesElsewhere)
        bindings: Any = [Binding(cls, cls, cls.__name__, DistributedEventHandler) for cls in handlers]
        self.mediator = Mediator(Registry(bindings, []))

    def unit_of_work(self) -> InMemoryUnitOfWork:
        found: InMemoryUnitOfWork = current_scope().instances.setdefault(
            InMemoryUnitOfWork, InMemoryUnitOfWork(self.database)
        )
        return found

    def consumer(self, connection: NatsConnection, prefix: str, ordering: Ordering, concurrency: int) -> EventConsumer:
        return EventConsumer(
            NatsEventSubscription(connection, "shipping", prefix=prefix),
            InMemoryInbox(self.database),
            self.unit_of_work,
            self.mediator,
            parking=InMemoryParking(self.database),
            ordering=ordering,
            concurrency=concurrency,
            drain_timeout=0.0,
        )


def made(event_class: type[DistributedEvent], number: int) -> CloudEvent:
    name = f"{event_class.event_type}.v1"
    return CloudEvent(f"{event_class.__name__}-{number}", name, datetime.now(UTC), b"{}", partitionkey=f"{number}")


@pytest.mark.thorough("waits for handlers that hang")
@pytest.mark.parametrize(
    ("ordering", "concurrency", "flood"), [("none", 2, 120), ("none", 8, 120), ("key", 16, 0), ("key", 4, 0)]
)
async def test_hanging_handlers_of_one_type_delay_no_other_type(
    connection, prefix, ordering: Ordering, concurrency: int, flood: int
) -> None:
    site, publisher = Site(), NatsEventPublisher(connection, "sales", prefix=prefix)
    flood = flood or 150  # in an ordered group each partition can hang
    consuming = asyncio.create_task(site.consumer(connection, prefix, ordering, concurrency).run())
    try:
        for _ in range(2):
            assert not [
                each for each in await publisher.publish([made(Hanging, n) for n in range(flood)]) if each.error
            ]
        async with asyncio.timeout(15):
            while site.hanging < concurrency - max(1, concurrency // 8):
                await asyncio.sleep(0.01)
        healthy = [Elsewhere] if ordering == "key" else [Healthy, Elsewhere]
        for number in range(5):
            for event_class in healthy:
                began = time.monotonic()
                assert (await publisher.publish([made(event_class, number)]))[0].error is None
                async with asyncio.timeout(15):
                    assert await site.handled.get() == event_class.event_type
                assert time.monotonic() - began < _BOUND
        assert site.hanging < concurrency
    finally:
        consuming.cancel()
        await asyncio.wait({consuming})
