"""Versions of events between applications: two versions at the same time, and a version that is still unknown."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
import pytest
from dependency_injector import containers, providers

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    OutboxRelay,
    RequestHandler,
)
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.distributed.events import Upcaster
from mediator.distributed.parking import ParkReason
from mediator.testing import (
    InMemoryBroker,
    InMemoryDatabase,
    InMemoryEventPublisher,
    InMemoryEventSubscription,
    InMemoryInbox,
    InMemoryOutbox,
    InMemoryParking,
    InMemoryUnitOfWork,
)

TYPE = "contract-versions.moved"


class MovedV1(msgspec.Struct, DistributedEvent, frozen=True):
    event_type: ClassVar[str] = TYPE
    name: str
    partition_key: str = "s-1"


def split_name(data: dict[str, Any]) -> dict[str, Any]:
    first, last = data.pop("name").split(" ")
    return data | {"first": first, "last": last}


class MovedV2(msgspec.Struct, DistributedEvent, frozen=True):
    event_type: ClassVar[str] = TYPE
    event_version: ClassVar[int] = 2
    upcasters: ClassVar[Mapping[int, Upcaster]] = {1: split_name}
    first: str
    last: str
    partition_key: str = "s-1"


@dataclass(frozen=True, slots=True)
class Move(Command[None]):
    events: tuple[DistributedEvent, ...]


class MoveHandler(RequestHandler[Move, None]):
    def __init__(self, distributed_events: DistributedEventBroker) -> None:
        self._distributed_events = distributed_events

    async def handle(self, command: Move) -> None:
        for event in command.events:
            self._distributed_events.add(event)


class Sending(containers.DeclarativeContainer):
    broker = providers.Dependency(instance_of=InMemoryBroker)
    database = providers.Singleton(InMemoryDatabase)
    unit_of_work = Scoped(InMemoryUnitOfWork, database)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(InMemoryOutbox, database)
    publisher = providers.Singleton(InMemoryEventPublisher, broker, application="enrollment")
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    move = providers.Factory(MoveHandler, distributed_events)


@dataclass
class Seen:
    """The events that the handlers of one process received."""

    events: list[Any] = field(default_factory=list[Any])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, event: Any) -> None:
        self.events.append(event)
        self.arrived.set()


class ReadV1(DistributedEventHandler[MovedV1]):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def handle(self, event: MovedV1) -> None:
        self._seen.add(event)


class ReadV2(DistributedEventHandler[MovedV2]):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def handle(self, event: MovedV2) -> None:
        self._seen.add(event)


class Clock:
    """A clock that the test moves by hours."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Receiving(containers.DeclarativeContainer):
    """A process of the subscribing application. All processes share a database."""

    broker = providers.Dependency(instance_of=InMemoryBroker)
    database = providers.Dependency(instance_of=InMemoryDatabase)
    clock = providers.Singleton(Clock)
    seen = providers.Singleton(Seen)
    unit_of_work = Scoped(InMemoryUnitOfWork, database)
    inbox = providers.Singleton(InMemoryInbox, database)
    parking = providers.Singleton(InMemoryParking, database)
    mediator = MediatorProvider()
    subscription = providers.Singleton(InMemoryEventSubscription, broker, "advising")
    consumer = providers.Singleton(
        EventConsumer,
        subscription,
        inbox,
        unit_of_work.provider,
        mediator,
        parking=parking,
        ordering="key",
        unknown_type_grace=300.0,
        now=clock.provided,
    )


class OlderProcess(Receiving):
    read = providers.Factory(ReadV1, Receiving.seen)


class NewerProcess(Receiving):
    read = providers.Factory(ReadV2, Receiving.seen)


@pytest.fixture
def broker() -> InMemoryBroker:
    return InMemoryBroker()


@pytest.fixture
def database() -> InMemoryDatabase:
    return InMemoryDatabase()


async def publish(broker: InMemoryBroker, *events: DistributedEvent) -> None:
    """Let another application publish events, and wait until the broker has stored them."""
    before, container = len(broker.events), Sending(broker=broker)
    async with lifespan(container, workers=True), asyncio.timeout(10):
        await container.mediator().send(Move(events))
        while len(broker.events) < before + len(events):
            await asyncio.sleep(0)


async def done(broker: InMemoryBroker, count: int) -> None:
    async with asyncio.timeout(10):
        await broker.wait_until_acknowledged("advising", count)


async def test_two_versions_of_an_event_reach_a_class_that_upcasts_the_older_one_in_order(broker, database):
    await publish(broker, MovedV1("a 1"), MovedV2("b", "2"), MovedV1("c 3"))
    await publish(broker, MovedV2("d", "4"), MovedV1("e 5"))
    container = NewerProcess(broker=broker, database=database)
    async with lifespan(container, workers=True):
        await done(broker, 5)

    assert [event.type for event in broker.events] == [f"{TYPE}.v{version}" for version in (1, 2, 1, 2, 1)]
    assert container.seen().events == [MovedV2(first, str(last)) for last, first in enumerate("abcde", 1)]


async def test_an_event_of_a_newer_version_waits_for_the_process_that_reads_it(broker, database):
    await publish(broker, MovedV2("Ada", "Lovelace"))
    older = OlderProcess(broker=broker, database=database)
    newer = NewerProcess(broker=broker, database=database)
    async with lifespan(older, workers=True):
        await publish(broker, MovedV1("Alan Turing", partition_key="s-2"))
        await older.seen().arrived.wait()
    assert not older.parking().events
    async with lifespan(newer, workers=True):
        await done(broker, 2)

    assert older.seen().events == [MovedV1("Alan Turing", "s-2")]
    assert newer.seen().events == [MovedV2("Ada", "Lovelace")]
    assert not newer.parking().events


async def test_an_event_of_a_newer_version_is_parked_after_the_grace_and_replayed_once_it_is_known(broker, database):
    await publish(broker, MovedV2("Ada", "Lovelace"))
    older = OlderProcess(broker=broker, database=database)
    async with lifespan(older, workers=True):
        await publish(broker, MovedV1("Alan Turing", partition_key="s-2"))
        await older.seen().arrived.wait()
        assert not older.parking().events  # the event was delivered first, and is redelivered
        older.clock().ahead = 301.0
        await done(broker, 2)
    (parked,) = older.parking().events
    assert (parked.reason, parked.type) == (ParkReason.UNKNOWN_TYPE, f"{TYPE}.v2")

    newer = NewerProcess(broker=broker, database=database)
    async with lifespan(newer):
        await newer.consumer().replay(parked)
    assert newer.seen().events == [MovedV2("Ada", "Lovelace")]
    assert not newer.parking().events


async def test_an_event_whose_upcaster_fails_is_parked_as_undecodable_and_replayed_after_the_fix(
    broker, database, monkeypatch
):
    await publish(broker, MovedV1("Plato"), MovedV2("Ada", "Lovelace", "s-2"))
    container = NewerProcess(broker=broker, database=database)
    async with lifespan(container, workers=True):
        await done(broker, 2)
    (parked,) = container.parking().events
    assert (parked.reason, parked.type) == (ParkReason.UNDECODABLE, f"{TYPE}.v1")
    assert "its upcaster from version 1 to 2 raised ValueError" in parked.error
    assert "Plato" not in parked.error
    assert container.seen().events == [MovedV2("Ada", "Lovelace", "s-2")]

    monkeypatch.setattr(MovedV2, "upcasters", {1: lambda data: data | {"first": "", "last": data["name"]}})
    async with lifespan(container):
        await container.consumer().replay(parked)
    assert container.seen().events[1:] == [MovedV2("", "Plato")]
