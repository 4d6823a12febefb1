"""InMemoryBroker: an in-memory broker for tests, with its subscription and its publisher."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mediator.blocks import asynccontextmanager
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import split_wire_type
from mediator.distributed.inbox import Deliveries, Delivery, EventSubscription, Ordering, UnreadableMessage, not_of
from mediator.distributed.outbox import EventPublisher, HeldStream, PublishResult, StreamContents, check_source
from mediator.errors import (
    DuplicateDroppedError,
    EventHeldBackError,
    EventNotDecodableError,
    PublisherUnavailableError,
    StreamMismatchError,
    misuse,
)
from mediator.nats.binding import from_message, to_headers, unreadable_from
from mediator.owner import Owner

_NAME = "InMemoryBroker"
_PARTITIONS = 16

Stored = tuple[int, datetime, CloudEvent]
"""The sequence, the storage time and the event of a message."""


@dataclass(slots=True)
class _Stored:
    """A message that the broker stores. Each group has a copy, whose `attempts` counts the deliveries to the group."""

    event: CloudEvent | None
    problem: str
    event_type: str
    partition: int
    headers: Mapping[str, str]
    data: bytes
    sequence: int
    stored_at: datetime
    attempts: int = 0


def own_id(sequence: int, stored_at: datetime) -> str:
    """Return the id for an event without an id: `memory:7@1500000` for sequence 7, stored 1.5 s after the epoch."""
    return f"memory:{sequence}@{round(stored_at.timestamp() * 1e6)}"


class _Group:
    """The progress of one group of consumers.

    `outstanding` maps each partition to its number of unsettled deliveries. A delayed redelivery is unsettled too.
    """

    def __init__(self, name: str, event_types: frozenset[str], ordering: Ordering) -> None:
        self.name = name
        self.ordering = ordering
        self.application: str | None = None
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
    """Stores every event once, and delivers the event to all groups that subscribe to the type of the event.

    Attributes:
        available: Whether the broker works. With False, publishing fails and nothing is delivered, as in an outage.
    """

    def __init__(self) -> None:
        self._stream: list[_Stored] = []
        self._known: set[tuple[str, str, str]] = set()
        self._last = 0
        self._groups: dict[str, _Group] = {}
        self._acknowledged: defaultdict[str, set[int]] = defaultdict(set)
        self._progress = asyncio.Event()
        self._available = asyncio.Event()
        self.owner: Owner = Owner("The in-memory broker")
        self._available.set()

    @property
    def events(self) -> Sequence[CloudEvent]:
        """The stored events, in order. Messages that are no events are left out."""
        return tuple(stored.event for stored in self._stream if stored.event is not None)

    @property
    def available(self) -> bool:
        """Whether the broker works."""
        return self._available.is_set()

    @available.setter
    def available(self, value: bool) -> None:
        if value:
            self._available.set()
        else:
            self._available.clear()

    @property
    def held(self) -> Sequence[Stored]:
        """The stored events, in order, with their sequences and storage times."""
        return [(each.sequence, each.stored_at, each.event) for each in self._stream if each.event is not None]

    def lose(self, *ids: str, remember: bool = False) -> None:
        """Delete the stored events with the given ids, to simulate a broker that lost its disk.

        With `remember`, the broker still treats events with the given ids as duplicates, as after a purge of the stream.
        """
        self._stream = [each for each in self._stream if each.event is None or each.event.id not in ids]
        if not remember:
            self._known -= {entry for entry in self._known if entry[1] in ids}

    def store(self, event: CloudEvent, *, mark: str = "") -> bool:
        """Store an event and return True, or return False if the event is a duplicate.

        An event is a duplicate if the broker remembers the same source, id and `mark`. A new `mark` allows a second copy.
        """
        entry = (event.source, event.id, mark)
        if entry in self._known:
            return False
        self._known.add(entry)
        event_type, partition = split_wire_type(event.type)[0], event.bucket % _PARTITIONS
        self._keep(_Stored(event, "", event_type, partition, to_headers(event), event.data, *self._place()))
        return True

    def store_message(self, event_type: str, headers: Mapping[str, str], data: bytes, *, partition: int = 0) -> None:
        """Store a message of a foreign producer under an event type. The message need not be a valid event."""
        sequence, stored_at = self._place()
        own = own_id(sequence, stored_at)
        try:
            event, problem = from_message(headers, data, fallback_id=own, stored_at=stored_at), ""
        except EventNotDecodableError as error:
            event, problem = None, error.reason
        self._keep(_Stored(event, problem, event_type, partition, dict(headers), data, sequence, stored_at))

    def _place(self) -> tuple[int, datetime]:
        self._last += 1
        return self._last, datetime.now(UTC)

    def _keep(self, stored: _Stored) -> None:
        self._stream.append(stored)
        for group in self._groups.values():
            group.offer(replace(stored))

    def group(
        self,
        name: str,
        event_types: Iterable[str],
        *,
        ordering: Ordering = "none",
        start: str | datetime = "all",
        application: str | None = None,
    ) -> _Group:
        """Return the group with the given name. A new group begins at `start`, by default at the first event.

        Raises:
            GroupOrderingError: The group exists with a different ordering.
            StreamMismatchError: The group belongs to an application other than `application`.
        """
        types = frozenset(event_types)
        if name not in self._groups:
            group = self._groups[name] = _Group(name, types, ordering)
            for stored in self._stream:
                if start == "all" or (isinstance(start, datetime) and stored.stored_at >= start):
                    group.offer(replace(stored))
        group = self._groups[name]
        if group.ordering != ordering:
            raise misuse.group_ordering(name, ordering, "InMemoryBroker", name)
        if application is not None and group.application is not None and group.application != application:
            problems = [not_of(group.application, application)]
            raise StreamMismatchError("InMemoryBroker", "its consumer", name, problems)
        group.application = group.application or application
        group.event_types |= types
        return group

    def acknowledge(self, group: str, sequence: int) -> None:
        """Record that a group has acknowledged or terminated an event."""
        self._acknowledged[group].add(sequence)
        self._progress.set()

    async def wait_until_acknowledged(self, group: str, count: int) -> None:
        """Wait until a group has acknowledged or terminated `count` events. Limit the wait with `asyncio.timeout`."""
        while len(self._acknowledged[group]) < count:
            self._progress.clear()
            await self._progress.wait()

    async def wait_until_available(self) -> None:
        """Wait until the broker is available."""
        await self._available.wait()


class InMemoryEventSubscription(EventSubscription):
    """Subscribes a group of consumers to an `InMemoryBroker`.

    `subscription = providers.Singleton(InMemoryEventSubscription, broker, "advising")`
    """

    def __init__(
        self,
        broker: InMemoryBroker,
        group: str,
        *,
        ack_wait: float = 30.0,
        start: str | datetime = "all",
        application: str | None = None,
    ) -> None:
        self._broker = broker
        self.group: str = group
        self.ack_wait: float = ack_wait
        self._start = start
        self._application = application

    def use_application(self, application: str | None, /) -> None:
        self._application = self._application or application

    def read(self, headers: Mapping[str, str], data: bytes, /, *, fallback_id: str, stored_at: datetime) -> CloudEvent:
        return from_message(headers, data, fallback_id=fallback_id, stored_at=stored_at)

    @asynccontextmanager
    async def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AsyncGenerator[Deliveries, None]:
        """Open the subscription. Raises `GroupOrderingError` if the group exists with a different ordering."""
        self._broker.owner.check()
        group = self._broker.group(
            self.group, event_types, ordering=ordering, start=self._start, application=self._application
        )
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
        self._unsettled: set[_Delivery] = set()
        self._is_paused = False
        self.ack_wait = ack_wait

    async def next(self) -> Delivery:
        while True:
            await self._broker.wait_until_available()
            self._group.changed.clear()
            held = sum(not each.is_delayed for each in self._unsettled)
            free = held < self._prefetch and not self._is_paused
            if free and (stored := self._group.take(ordered=self._ordered)) is not None:
                delivery = _Delivery(stored, self)
                self._unsettled.add(delivery)
                return delivery
            await self._group.changed.wait()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._group.changed.set()

    def end(self, delivery: "_Delivery") -> None:
        if self._remove(delivery):
            self._group.settle(delivery.stored)
            self._broker.acknowledge(self._group.name, delivery.sequence)

    def give_back_later(self, delivery: "_Delivery") -> None:
        delivery.is_delayed = True
        self._group.changed.set()

    def give_back(self, delivery: "_Delivery") -> None:
        if self._remove(delivery):
            self._group.settle(delivery.stored)
            self._group.offer(delivery.stored)

    def _remove(self, delivery: "_Delivery") -> bool:
        known = delivery in self._unsettled
        self._unsettled.discard(delivery)
        return known

    def close(self) -> None:
        for delivery in [*self._unsettled]:
            delivery.timer.cancel()
            self.give_back(delivery)


class _Delivery(Delivery):
    def __init__(self, stored: _Stored, deliveries: _Deliveries) -> None:
        stored.attempts += 1
        self.stored = stored
        self.is_delayed = False
        self._deliveries = deliveries
        self.event = stored.event
        self.problem = stored.problem
        if stored.event is None:
            self.unreadable: UnreadableMessage = unreadable_from(stored.headers, stored.data)
        self.attempt = stored.attempts
        own = own_id(stored.sequence, stored.stored_at)
        has_own = stored.event is not None and stored.event.id == own
        self.former_id: str | None = f"memory:{stored.sequence}" if has_own else None
        self.subject = f"memory.{stored.event_type}.{stored.partition}"
        self.sequence = stored.sequence
        self.partition = stored.partition
        self.stored_at = stored.stored_at
        self.headers = stored.headers
        self.data = stored.data
        self.timer = self._start(deliveries.ack_wait)

    def _start(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._deliveries.give_back, self, context=Context())

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

    async def term(self, reason: str) -> None:  # noqa: ARG002  # this broker does not log the reason
        await self.ack()

    async def in_progress(self) -> None:
        self.timer.cancel()
        self.timer = self._start(self._deliveries.ack_wait)


class InMemoryStreamContents(StreamContents):
    """Divides the only stream of a broker into one stream for each domain. The stream of an unknown domain is empty.

    `stored` returns the stored events, in order. During a simulated outage, `stored` raises a `PublisherUnavailableError`.
    """

    def __init__(self, stored: Callable[[], Sequence[Stored]]) -> None:
        self._stored = stored

    def stream(self, domain: str, /) -> str:
        return f"memory-{domain}"

    async def state(self, domain: str, /) -> HeldStream | None:
        found = self._of(domain)
        oldest = found[0][1] if found else None
        last = found[-1][0] if found else 0
        return HeldStream(self.stream(domain), datetime.fromtimestamp(0, UTC), last, oldest, None, drops_oldest=False)

    async def ids(
        self, domain: str, /, *, since: datetime | None = None, after: int = 0
    ) -> AsyncGenerator[Sequence[tuple[str, str]]]:
        yield [
            (event.source, event.id)
            for sequence, stored_at, event in self._of(domain)
            if sequence > after and (since is None or stored_at >= since)
        ]

    def _of(self, domain: str) -> list[Stored]:
        return [each for each in self._stored() if each[2].type.partition(".")[0] == domain]


class InMemoryEventPublisher(EventPublisher):
    """Stores events in an `InMemoryBroker`.

        publisher = providers.Singleton(InMemoryEventPublisher, broker)

    Args:
        broker: The broker that stores the events.
        application: Becomes the source of events without a source. Needed only without an outbox: an outbox sets sources.
    """

    def __init__(self, broker: InMemoryBroker, *, application: str | None = None) -> None:
        self._broker = broker
        self.application: str | None = application

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        await asyncio.sleep(0)  # lets other tasks run, as sending to a real broker does
        if not self._broker.available:
            return [PublishResult(event, _unavailable()) for event in events]
        return [PublishResult(event, duplicate=not self._broker.store(self._stamped(event))) for event in events]

    async def refill(self, events: Sequence[CloudEvent], /, *, mark: str = "") -> Sequence[PublishResult]:
        await asyncio.sleep(0)
        if not self._broker.available:
            return [PublishResult(event, _unavailable()) for event in events]
        results: list[PublishResult] = []
        stopped: set[str] = set()
        for event in events:
            results.append(result := self._refilled(event, mark, stopped))
            if result.error is not None and event.partitionkey is not None:
                stopped.add(event.partitionkey)
        return results

    @property
    def contents(self) -> InMemoryStreamContents:
        return InMemoryStreamContents(self._held)

    def _refilled(self, event: CloudEvent, mark: str, stopped: set[str]) -> PublishResult:
        if event.partitionkey in stopped:
            return PublishResult(event, EventHeldBackError(event.id, event.type))
        stored = self._broker.store(self._stamped(event), mark=mark)
        if stored or mark:
            return PublishResult(event, duplicate=not stored)
        return PublishResult(event, DuplicateDroppedError(_NAME, "it remembers the id", event.id), duplicate=True)

    def _held(self) -> Sequence[Stored]:
        if not self._broker.available:
            raise _unavailable()
        return self._broker.held

    def _stamped(self, event: CloudEvent) -> CloudEvent:
        check_source(event, self.application)
        return replace(event, source=event.source or self.application or "")


def _unavailable() -> PublisherUnavailableError:
    return PublisherUnavailableError(_NAME, "it simulates an outage")
