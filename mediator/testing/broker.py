"""InMemoryBroker: a broker for tests, with its subscription."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import split_wire_type
from mediator.distributed.remnant import Remnant
from mediator.distributed.subscription import Deliveries, Delivery, EventSubscription, Ordering
from mediator.errors import EventNotDecodableError, GroupOrderingError
from mediator.nats.binding import from_message, remnant_of, to_headers

_PARTITIONS = 16


@dataclass(slots=True)
class _Stored:
    """One message of the stream, as one group has it."""

    event: CloudEvent | None
    problem: str
    event_type: str
    partition: int
    headers: Mapping[str, str]
    data: bytes
    sequence: int
    stored_at: datetime
    attempts: int = 0


class _Group:
    """The progress of one group of consumers.

    Attributes:
        outstanding: The partitions of which a delivery is with a consumer, or comes again later.
    """

    def __init__(self, name: str, event_types: frozenset[str], ordering: Ordering) -> None:
        self.name = name
        self.ordering = ordering
        self.event_types = event_types
        self.outstanding: dict[int, int] = {}
        self.changed: asyncio.Event = asyncio.Event()
        self._waiting: list[_Stored] = []

    def offer(self, stored: _Stored) -> None:
        if stored.event_type in self.event_types:
            self._waiting.append(stored)
            self._waiting.sort(key=lambda each: each.sequence)
            self.changed.set()

    def take(self, *, ordered: bool) -> _Stored | None:
        for stored in self._waiting:
            if not (ordered and self.outstanding.get(stored.partition)):
                self._waiting.remove(stored)
                self.outstanding[stored.partition] = self.outstanding.get(stored.partition, 0) + 1
                return stored
        return None

    def settle(self, stored: _Stored) -> None:
        self.outstanding[stored.partition] -= 1
        self.changed.set()


class InMemoryBroker:
    """Keeps every event in one stream, each id once, and hands it to every group that subscribes to its type.

    Attributes:
        available: False while the broker plays dead: publishing fails, and nothing is delivered.
    """

    def __init__(self) -> None:
        self._stream: list[_Stored] = []
        self._known: set[tuple[str, str]] = set()
        self._last = 0
        self._groups: dict[str, _Group] = {}
        self._acknowledged: defaultdict[str, set[int]] = defaultdict(set)
        self._progress = asyncio.Event()
        self._available = asyncio.Event()
        self._available.set()

    @property
    def events(self) -> Sequence[CloudEvent]:
        """What is stored, in order, but for messages that are no events."""
        return tuple(stored.event for stored in self._stream if stored.event is not None)

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

    @property
    def held(self) -> Sequence[tuple[int, datetime, CloudEvent]]:
        """What is stored, in order, each with its sequence and the time of storing, but for messages that are no events."""
        return [(each.sequence, each.stored_at, each.event) for each in self._stream if each.event is not None]

    def lose(self, *ids: str, remember: bool = False) -> None:
        """Lose what is stored of some events, as a broker that lost its disk; to `remember` their ids is as a purge."""
        lost = [each.event for each in self._stream if each.event is not None and each.event.id in ids]
        self._stream = [each for each in self._stream if each.event not in lost]
        if not remember:
            self._known -= {entry for entry in self._known if entry[1].partition(".")[0] in ids}

    def store(self, event: CloudEvent, *, mark: str = "") -> bool:
        """Keep an event, unless its source and id are known; false when they are. A mark makes it another one for that."""
        entry = (event.source, f"{event.id}.{mark}" if mark else event.id)
        if entry in self._known:
            return False
        self._known.add(entry)
        event_type, partition = split_wire_type(event.type)[0], event.bucket % _PARTITIONS
        self._keep(_Stored(event, "", event_type, partition, to_headers(event), event.data, *self._place()))
        return True

    def store_message(self, event_type: str, headers: Mapping[str, str], data: bytes, *, partition: int = 0) -> None:
        """Keep what a foreign producer sent to the subject of an event type, whatever it is."""
        sequence, stored_at = self._place()
        event: CloudEvent | None = None
        problem = ""
        try:
            event = from_message(headers, data, fallback_id=f"memory:{sequence}", stored_at=stored_at)
        except EventNotDecodableError as error:
            problem = error.reason
        self._keep(_Stored(event, problem, event_type, partition, dict(headers), data, sequence, stored_at))

    def _place(self) -> tuple[int, datetime]:
        self._last += 1
        return self._last, datetime.now(UTC)

    def _keep(self, stored: _Stored) -> None:
        self._stream.append(stored)
        for group in self._groups.values():
            group.offer(replace(stored))

    def group(
        self, name: str, event_types: Iterable[str], *, ordering: Ordering = "none", start: str | datetime = "all"
    ) -> _Group:
        """The group of a name; a new one begins with the first event of the stream, or where `start` says.

        Raises:
            GroupOrderingError: The group exists with the other ordering.
        """
        types = frozenset(event_types)
        if name not in self._groups:
            group = self._groups[name] = _Group(name, types, ordering)
            for stored in self._stream:
                if start == "all" or (isinstance(start, datetime) and stored.stored_at >= start):
                    group.offer(replace(stored))
        group = self._groups[name]
        if group.ordering != ordering:
            raise GroupOrderingError(name, ordering, "InMemoryBroker", name)
        group.event_types |= types
        return group

    def acknowledge(self, group: str, sequence: int) -> None:
        """Note that a group is done with an event."""
        self._acknowledged[group].add(sequence)
        self._progress.set()

    async def wait_until_acknowledged(self, group: str, count: int) -> None:
        """Wait until a group is done with that many events; tests put it into an `asyncio.timeout`."""
        while len(self._acknowledged[group]) < count:
            self._progress.clear()
            await self._progress.wait()

    async def wait_until_available(self) -> None:
        """Wait out an outage."""
        await self._available.wait()


class InMemoryEventSubscription(EventSubscription):
    """`subscription = providers.Singleton(InMemoryEventSubscription, broker, "advising")`."""

    def __init__(
        self, broker: InMemoryBroker, group: str, *, ack_wait: float = 30.0, start: str | datetime = "all"
    ) -> None:
        self._broker = broker
        self.group: str = group
        self.ack_wait: float = ack_wait
        self._start = start

    def read(self, headers: Mapping[str, str], data: bytes, /, *, fallback_id: str, stored_at: datetime) -> CloudEvent:
        """See `EventSubscription.read`."""
        return from_message(headers, data, fallback_id=fallback_id, stored_at=stored_at)

    @asynccontextmanager
    async def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AsyncGenerator[Deliveries, None]:
        """See `EventSubscription.open`. A group with the other ordering is refused here, with `GroupOrderingError`."""
        group = self._broker.group(self.group, event_types, ordering=ordering, start=self._start)
        opened = _Deliveries(self._broker, group, prefetch, self.ack_wait, ordered=ordering == "key")
        try:
            yield opened
        finally:
            opened.close()


class _Deliveries(Deliveries):
    def __init__(self, broker: InMemoryBroker, group: _Group, prefetch: int, ack_wait: float, *, ordered: bool) -> None:
        self._broker = broker
        self._group = group
        self._prefetch = prefetch
        self._ordered = ordered
        self._held: set[_Delivery] = set()
        self._returning: set[_Delivery] = set()
        self.ack_wait = ack_wait

    async def next(self) -> Delivery:
        while True:
            await self._broker.wait_until_available()
            self._group.changed.clear()
            if len(self._held) < self._prefetch and (stored := self._group.take(ordered=self._ordered)) is not None:
                delivery = _Delivery(stored, self)
                self._held.add(delivery)
                return delivery
            await self._group.changed.wait()

    def end(self, delivery: "_Delivery") -> None:
        if self._let_go(delivery):
            self._group.settle(delivery.stored)
            self._broker.acknowledge(self._group.name, delivery.sequence)

    def give_back_later(self, delivery: "_Delivery") -> None:
        if delivery in self._held:
            self._held.discard(delivery)
            self._returning.add(delivery)
            self._group.changed.set()

    def give_back(self, delivery: "_Delivery") -> None:
        if self._let_go(delivery):
            self._group.settle(delivery.stored)
            self._group.offer(delivery.stored)

    def _let_go(self, delivery: "_Delivery") -> bool:
        known = delivery in self._held or delivery in self._returning
        self._held.discard(delivery)
        self._returning.discard(delivery)
        return known

    def close(self) -> None:
        for delivery in [*self._held, *self._returning]:
            delivery.timer.cancel()
            self.give_back(delivery)


class _Delivery(Delivery):
    def __init__(self, stored: _Stored, deliveries: _Deliveries) -> None:
        stored.attempts += 1
        self.stored = stored
        self._deliveries = deliveries
        self.event = stored.event
        self.problem = stored.problem
        if stored.event is None:
            self.remnant: Remnant = remnant_of(stored.headers, stored.data)
        self.attempt = stored.attempts
        self.subject = f"memory.{stored.event_type}.{stored.partition}"
        self.sequence = stored.sequence
        self.partition = stored.partition
        self.stored_at = stored.stored_at
        self.headers = stored.headers
        self.data = stored.data
        self.timer = self._start(deliveries.ack_wait)

    def _start(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._deliveries.give_back, self)

    async def ack(self) -> None:
        self.timer.cancel()
        self._deliveries.end(self)

    async def nak(self, delay: float) -> None:
        self.timer.cancel()
        if delay > 0:
            self._deliveries.give_back_later(self)
            self.timer = self._start(delay)
        else:
            self._deliveries.give_back(self)

    async def term(self, reason: str) -> None:  # noqa: ARG002  # nobody reads the advisories of this broker
        self.timer.cancel()
        self._deliveries.end(self)

    async def in_progress(self) -> None:
        self.timer.cancel()
        self.timer = self._start(self._deliveries.ack_wait)
