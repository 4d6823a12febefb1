"""TransportUnderTest: the publisher and the subscriptions of one broker, as the conformance suites use them."""

import asyncio
import itertools
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, ClassVar, Literal, Protocol

from mediator.blocks import asynccontextmanager
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Deliveries, Delivery, EventSubscription, Ordering
from mediator.distributed.outbox import EventPublisher
from mediator.testing.conformance.suite import ConformanceSuite, undeclared

TYPE = "shop.order-placed"
_PARTITIONS = 16


def event(event_id: str, key: str | None = None, *, event_type: str = f"{TYPE}.v1", data: bytes = b"1") -> CloudEvent:
    """Return an event with this id, by default of the type that the cases subscribe to."""
    return CloudEvent(event_id, event_type, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), data, partitionkey=key)


def events(count: int, key: str | None = None) -> list[CloudEvent]:
    """Return events with the ids "0", "1" and so on, all with the given key."""
    return [event(f"{number}", key) for number in range(count)]


def apart(count: int) -> list[CloudEvent]:
    """Return events without keys in different partitions, which do not wait for each other. `count` is at most 16."""
    found: dict[int, CloudEvent] = {}
    numbers = itertools.count()
    while len(found) < count:
        made = event(f"{next(numbers)}")
        found.setdefault(made.bucket % _PARTITIONS, made)
    return list(found.values())


def in_order(taken: list[str], published: list[CloudEvent]) -> bool:
    """Return whether the events of each key were taken in the order in which they were published."""
    keys = {each.partitionkey for each in published} - {None}
    expected = [[each.id for each in published if each.partitionkey == key] for key in keys]
    return all([each for each in taken if each in of_key] == of_key for of_key in expected)


class Reader:
    """Reads deliveries from an open subscription.

    Args:
        deliveries: The subscription.
        patience: Seconds that one call of `hold` may wait for its deliveries before the case fails.
    """

    def __init__(self, deliveries: Deliveries, patience: float) -> None:
        self._deliveries = deliveries
        self._patience = patience

    async def hold(self, count: int = 1) -> list[Delivery]:
        """Return the next deliveries without acknowledging them."""
        taken: list[Delivery] = []
        try:
            async with asyncio.timeout(self._patience):
                while len(taken) < count:
                    taken.append(await self._deliveries.next())
        except TimeoutError:
            raise AssertionError(f"expected {count} deliveries, but none came after {ids(taken)}") from None
        return taken

    async def hold_one(self) -> Delivery:
        """Return the next delivery without acknowledging it."""
        return (await self.hold())[0]

    async def take(self, count: int = 1) -> list[Delivery]:
        """Return the next deliveries. Every delivery is acknowledged before the following delivery is awaited."""
        taken: list[Delivery] = []
        for _ in range(count):
            try:
                taken.append(await self.hold_one())
            except AssertionError as error:
                raise AssertionError(f"expected {count} deliveries, but none came after {ids(taken)}") from error
            await taken[-1].ack()
        return taken

    async def take_ids(self, count: int = 1) -> list[str]:
        """Take deliveries as `take` does, and return the ids of their events."""
        return ids(await self.take(count))

    async def nothing(self, seconds: float = 0.2) -> None:
        """Check that nothing is delivered for some seconds. The cancelled wait must not lose a later delivery."""
        waiting = asyncio.ensure_future(self._deliveries.next())
        try:
            await asyncio.wait({waiting}, timeout=seconds)
            assert not waiting.done(), f"unexpected delivery of {ids([waiting.result()])}"
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    """Return the id of each delivered event, or an empty text for a message that is no event."""
    return [delivery.event.id if delivery.event else "" for delivery in deliveries]


Start = Literal["all", "new"] | datetime
Outage = Callable[[], AbstractAsyncContextManager[None]]


class Subscribe(Protocol):
    """A function that makes a subscription for one process of a group. The function may open a connection."""

    def __call__(self, group: str, /, *, ack_wait: float = 30.0, start: Start = "all") -> EventSubscription:
        """Return a subscription.

        Args:
            group: The name of the group.
            ack_wait: Seconds that the broker waits for an acknowledgement.
            start: The position at which a new group begins. Values other than `"all"` are used only with
                `TransportCapability.START_POSITION`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TransportUnderTest:
    """One broker without events, for one case.

    Attributes:
        publisher: Sends events to the broker.
        subscribe: Makes subscriptions to the broker.
        outage: Returns a context during which the broker is down (`TransportCapability.OUTAGE`).
        put: Stores a message with the given event type, headers and body, as a foreign producer does
            (`FOREIGN_MESSAGES`).
        largest: The largest body that the broker accepts, in bytes (`SIZE_LIMIT`).
    """

    publisher: EventPublisher
    subscribe: Subscribe
    outage: Outage = undeclared
    put: Callable[[str, Mapping[str, str], bytes], Awaitable[None]] = undeclared
    largest: int = 0

    async def store(self, *events: CloudEvent) -> None:
        """Publish the events repeatedly until all are stored.

        One attempt may not suffice: on a busy machine, a publisher may give up before its first connection is made.

        Raises:
            AssertionError: The events are not stored after 20 s.
        """
        error: Exception | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                while error := await self._failure(events):  # noqa: ASYNC110  # there is no signal to wait for
                    await asyncio.sleep(0.05)
                return
        raise AssertionError(f"{len(events)} events are not stored: {error}") from error

    async def _failure(self, events: Sequence[CloudEvent]) -> Exception | None:
        results = await self.publisher.publish(events)
        return next((result.error for result in results if result.error is not None), None)


class TransportCapability(Enum):
    """Optional abilities of a transport, declared in `capabilities`. Cases for undeclared abilities are removed."""

    KEY_ORDERING = auto()
    """With `open(ordering="key")`, the events of one partition key are delivered strictly one after the other."""
    DEDUPLICATION = auto()
    """The broker stores an event once, even if its publisher sends it several times."""
    START_POSITION = auto()
    """A new group may begin with new events only, or with the events since a given time."""
    OUTAGE = auto()
    """The test can take the broker down and bring it back, with `TransportUnderTest.outage`."""
    FOREIGN_MESSAGES = auto()
    """The test can store messages without the publisher, with `TransportUnderTest.put`."""
    SIZE_LIMIT = auto()
    """The broker refuses events larger than `TransportUnderTest.largest`."""
    GROUP_OWNER = auto()
    """A group belongs to one application. Another application that opens a group of the same name gets no events."""


class TransportSuite(ConformanceSuite):
    """The base class of suites whose cases begin with a broker without events.

    Attributes:
        ordering: The ordering of the subscriptions in cases that do not test the ordering itself. An adapter that
            supports both orderings needs two subclasses of the suite.
        patience: Seconds that a case waits for deliveries before it fails.
    """

    ordering: ClassVar[Ordering] = "none"
    patience: ClassVar[float] = 15.0

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[TransportUnderTest]:
        """Open a broker without events for one case, or a part of a broker that no other case uses."""

    @asynccontextmanager
    async def holding(self, *events: CloudEvent) -> AsyncGenerator[TransportUnderTest]:
        """Open a broker that contains only these events."""
        async with self.opened() as transport:
            await transport.store(*events)
            yield transport

    @asynccontextmanager
    async def reading(
        self,
        transport: TransportUnderTest,
        group: str = "group",
        *,
        types: tuple[str, ...] = (TYPE,),
        prefetch: int = 10,
        ordering: Ordering | None = None,
        ack_wait: float = 30.0,
        start: Start = "all",
    ) -> AsyncGenerator[Reader, None]:
        """Open a subscription for one process of a group, and yield its reader."""
        subscription = transport.subscribe(group, ack_wait=ack_wait, start=start)
        opening = subscription.open(types, prefetch=prefetch, ordering=ordering or self.ordering)
        async with opening as deliveries:
            yield Reader(deliveries, self.patience)

    async def run_workers(self, work: Callable[[Reader], Awaitable[None]], *readers: Reader) -> None:
        """Run `work` concurrently for each reader, as in several processes of a group, until one call is done."""
        working = {asyncio.ensure_future(work(reader)) for reader in readers}
        await asyncio.wait(working, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
        for each in working:
            each.cancel()
        await asyncio.wait(working)

    @asynccontextmanager
    async def reading_of(self, *events: CloudEvent, **options: Any) -> AsyncGenerator[Reader, None]:
        """Open a broker that contains only these events, and subscribe to them. `options` are passed to `reading`."""
        async with self.holding(*events) as transport, self.reading(transport, **options) as reader:
            yield reader
