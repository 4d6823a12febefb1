"""InMemoryBroker: a broker for tests, with its publisher and its subscription."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import split_wire_type
from mediator.distributed.publisher import EventPublisher, PublishResult
from mediator.distributed.subscription import Deliveries, Delivery, EventSubscription
from mediator.errors import PublisherUnavailableError


@dataclass(slots=True)
class _Stored:
    event: CloudEvent
    sequence: int
    attempts: int = 0


class _Group:
    """The progress of one group of consumers."""

    def __init__(self, name: str, event_types: frozenset[str]) -> None:
        self.name = name
        self.event_types = event_types
        self.waiting: deque[_Stored] = deque()
        self.arrived: asyncio.Event = asyncio.Event()

    def offer(self, stored: _Stored, *, first: bool = False) -> None:
        if split_wire_type(stored.event.type)[0] in self.event_types:
            (self.waiting.appendleft if first else self.waiting.append)(stored)
            self.arrived.set()


class InMemoryBroker:
    """Keeps every event in one stream, each id once, and hands it to every group that subscribes to its type.

    Attributes:
        available: False while the broker plays dead: publishing fails, and nothing is delivered.
    """

    def __init__(self) -> None:
        self._stream: list[CloudEvent] = []
        self._groups: dict[str, _Group] = {}
        self._acknowledged: defaultdict[str, set[int]] = defaultdict(set)
        self._progress = asyncio.Event()
        self._available = asyncio.Event()
        self._available.set()

    @property
    def events(self) -> Sequence[CloudEvent]:
        """What is stored, in order."""
        return tuple(self._stream)

    @property
    def available(self) -> bool:
        """Whether it answers."""
        return self._available.is_set()

    @available.setter
    def available(self, value: bool) -> None:
        if value:
            self._available.set()
        else:
            self._available.clear()

    def store(self, event: CloudEvent) -> None:
        """Keep an event, unless there is one with its source and id."""
        if any(event.id == other.id and event.source == other.source for other in self._stream):
            return
        self._stream.append(event)
        for group in self._groups.values():
            group.offer(_Stored(event, len(self._stream)))

    def group(self, name: str, event_types: Iterable[str]) -> _Group:
        """The group of a name; a new one begins with the first event of the stream."""
        types = frozenset(event_types)
        if name not in self._groups:
            group = self._groups[name] = _Group(name, types)
            for number, event in enumerate(self._stream, 1):
                group.offer(_Stored(event, number))
        self._groups[name].event_types |= types
        return self._groups[name]

    def acknowledge(self, group: str, sequence: int) -> None:
        """Note that a group is done with an event."""
        self._acknowledged[group].add(sequence)
        self._progress.set()

    async def wait_until_acknowledged(self, group: str, count: int) -> None:
        """Wait until a group has taken in that many events; tests put it into an `asyncio.timeout`."""
        while len(self._acknowledged[group]) < count:
            self._progress.clear()
            await self._progress.wait()

    async def wait_until_available(self) -> None:
        """Wait out an outage."""
        await self._available.wait()


class InMemoryEventPublisher(EventPublisher):
    """`publisher = providers.Singleton(InMemoryEventPublisher, broker, application="enrollment")`."""

    def __init__(self, broker: InMemoryBroker, *, application: str) -> None:
        self._broker = broker
        self._application = application

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        """See `EventPublisher.publish`."""
        await asyncio.sleep(0)  # as every broker, it lets others run meanwhile
        if not self._broker.available:
            error = PublisherUnavailableError("InMemoryBroker", "it plays dead")
            return [PublishResult(event, error) for event in events]
        for event in events:
            self._broker.store(replace(event, source=event.source or self._application))
        return [PublishResult(event) for event in events]


class InMemoryEventSubscription(EventSubscription):
    """`subscription = providers.Singleton(InMemoryEventSubscription, broker, "advising")`."""

    def __init__(self, broker: InMemoryBroker, group: str, *, ack_wait: float = 30.0) -> None:
        self._broker = broker
        self.group = group
        self.ack_wait = ack_wait

    @asynccontextmanager
    async def open(self, event_types: Iterable[str], /, *, prefetch: int) -> AsyncGenerator[Deliveries, None]:
        """See `EventSubscription.open`."""
        group = self._broker.group(self.group, event_types)
        opened = _Deliveries(self._broker, group, prefetch, self.ack_wait)
        try:
            yield opened
        finally:
            opened.close()


class _Deliveries(Deliveries):
    def __init__(self, broker: InMemoryBroker, group: _Group, prefetch: int, ack_wait: float) -> None:
        self._broker = broker
        self._group = group
        self._prefetch = prefetch
        self.ack_wait = ack_wait
        self._open: set[_Delivery] = set()
        self._settled = asyncio.Event()

    async def next(self) -> Delivery:
        while True:
            await self._broker.wait_until_available()
            if len(self._open) >= self._prefetch:
                self._settled.clear()
                await self._settled.wait()
            elif self._group.waiting:
                delivery = _Delivery(self._group.waiting.popleft(), self)
                self._open.add(delivery)
                return delivery
            else:
                self._group.arrived.clear()
                await self._group.arrived.wait()

    def acknowledge(self, delivery: "_Delivery") -> None:
        self.settle(delivery)
        self._broker.acknowledge(self._group.name, delivery.sequence)

    def settle(self, delivery: "_Delivery") -> None:
        self._open.discard(delivery)
        self._settled.set()

    def give_back(self, delivery: "_Delivery") -> None:
        if delivery in self._open:
            self.settle(delivery)
            self._group.offer(delivery.stored, first=True)

    def close(self) -> None:
        for delivery in sorted(self._open, key=lambda each: -each.sequence):
            delivery.timer.cancel()
            self.give_back(delivery)


class _Delivery(Delivery):
    def __init__(self, stored: _Stored, deliveries: _Deliveries) -> None:
        stored.attempts += 1
        self.stored = stored
        self._deliveries = deliveries
        self.event = stored.event
        self.problem = ""
        self.attempt = stored.attempts
        self.subject = f"memory.{stored.event.type}"
        self.sequence = stored.sequence
        self.timer = self._start(deliveries.ack_wait)

    def _start(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._deliveries.give_back, self)

    async def ack(self) -> None:
        self.timer.cancel()
        self._deliveries.acknowledge(self)

    async def nak(self, delay: float) -> None:
        self.timer.cancel()
        if delay > 0:
            self.timer = self._start(delay)
        else:
            self._deliveries.give_back(self)

    async def in_progress(self) -> None:
        self.timer.cancel()
        self.timer = self._start(self._deliveries.ack_wait)
