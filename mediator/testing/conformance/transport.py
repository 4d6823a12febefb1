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
    """Return events with the ids "0", "1"..., all with the same key or without one."""
    return [event(f"{number}", key) for number in range(count)]


def apart(count: int) -> list[CloudEvent]:
    """Return up to 16 events without keys, each in another partition. None waits for another, whatever the ordering."""
    found: dict[int, CloudEvent] = {}
    numbers = itertools.count()
    while len(found) < count:
        made = event(f"{next(numbers)}")
        found.setdefault(made.bucket % _PARTITIONS, made)
    return list(found.values())


def in_order(taken: list[str], published: list[CloudEvent]) -> bool:
    """Return whether the events of each key were taken in the order in which they were published."""
    keys = {each.partitionkey for each in published} - {None}
    return all(_of_key(taken, published, key) for key in keys)


def _of_key(taken: list[str], published: list[CloudEvent], key: str | None) -> bool:
    expected = [each.id for each in published if each.partitionkey == key]
    return [one for one in taken if one in set(expected)] == expected


class Reader:
    """Reads from an open subscription.

    Args:
        deliveries: The subscription.
        patience: How long one wait for deliveries may take in all, in seconds, before the case fails.
    """

    def __init__(self, deliveries: Deliveries, patience: float) -> None:
        self._deliveries = deliveries
        self._patience = patience

    async def hold(self, count: int = 1) -> list[Delivery]:
        """Take deliveries without acknowledging them."""
        taken: list[Delivery] = []
        try:
            async with asyncio.timeout(self._patience):
                while len(taken) < count:
                    taken.append(await self._deliveries.next())
        except TimeoutError:
            raise AssertionError(f"{count} deliveries expected, and after {ids(taken)} none came") from None
        return taken

    async def hold_one(self) -> Delivery:
        """Take one delivery without acknowledging it."""
        return (await self.hold())[0]

    async def take(self, count: int = 1) -> list[Delivery]:
        """Take deliveries, and acknowledge each one before taking the next."""
        taken: list[Delivery] = []
        for _ in range(count):
            try:
                taken.append(await self.hold_one())
            except AssertionError as error:
                raise AssertionError(f"{count} deliveries expected, and after {ids(taken)} none came") from error
            await taken[-1].ack()
        return taken

    async def take_ids(self, count: int = 1) -> list[str]:
        """Take deliveries, acknowledge each before the next, and return the ids of their events."""
        return ids(await self.take(count))

    async def nothing(self, seconds: float = 0.2) -> None:
        """Check that nothing is delivered for this many seconds. The cancelled wait must lose no delivery."""
        waiting = asyncio.ensure_future(self._deliveries.next())
        try:
            await asyncio.wait({waiting}, timeout=seconds)
            assert not waiting.done(), f"delivered, and should not be: {ids([waiting.result()])}"
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    """Return the ids of the delivered events, with an empty id for a message that is no event."""
    return [delivery.event.id if delivery.event else "" for delivery in deliveries]


Start = Literal["all", "new"] | datetime
Outage = Callable[[], AbstractAsyncContextManager[None]]
Put = Callable[[str, Mapping[str, str], bytes], Awaitable[None]]


class Subscribe(Protocol):
    """Makes a subscription for one process of a group. Each may have a connection of its own."""

    def __call__(self, group: str, /, *, ack_wait: float = 30.0, start: Start = "all") -> EventSubscription:
        """Return a subscription.

        Args:
            group: The name of the group.
            ack_wait: How long the broker waits for an acknowledgement, in seconds.
            start: Where a new group begins. Values other than `"all"` are given only with
                `TransportCapability.START_POSITION`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TransportUnderTest:
    """One broker without events, for one case.

    Attributes:
        publisher: Sends events to the broker.
        subscribe: Makes subscriptions to the broker.
        outage: Takes the broker down for as long as the context lasts (`TransportCapability.OUTAGE`).
        put: Stores a message with the given headers and body where the events of a type are stored
            (`FOREIGN_MESSAGES`).
        largest: The largest body that the broker takes, in bytes (`SIZE_LIMIT`).
    """

    publisher: EventPublisher
    subscribe: Subscribe
    outage: Outage = undeclared
    put: Put = undeclared
    largest: int = 0

    async def store(self, *events: CloudEvent) -> None:
        """Publish until all events are stored.

        On a busy machine, the publisher may give up before its first connection is made.

        Raises:
            AssertionError: The events are not stored after 20 s.
        """
        error: Exception | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                while error := await self._failure(events):  # noqa: ASYNC110  # the broker sends no signal for it
                    await asyncio.sleep(0.05)
                return
        raise AssertionError(f"{len(events)} events are not stored: {error}") from error

    async def _failure(self, events: Sequence[CloudEvent]) -> Exception | None:
        results = await self.publisher.publish(events)
        return next((result.error for result in results if result.error is not None), None)


class TransportCapability(Enum):
    """Optional abilities of a transport, declared as `capabilities`. Cases that need an undeclared one are removed."""

    KEY_ORDERING = auto()
    """With `open(ordering="key")`, the events of one partition key are delivered strictly one after the other."""
    DEDUPLICATION = auto()
    """The broker stores an event once, however often its publisher sends it."""
    START_POSITION = auto()
    """A new group may begin with new events only, or with the events since a given time."""
    OUTAGE = auto()
    """The test can take the broker down and bring it back, with `TransportUnderTest.outage`."""
    FOREIGN_MESSAGES = auto()
    """The test can store messages without the publisher, with `TransportUnderTest.put`."""
    SIZE_LIMIT = auto()
    """The broker refuses events larger than `TransportUnderTest.largest`."""
    GROUP_OWNER = auto()
    """A group belongs to one application. Another one under its name gets no events, and takes none away."""


class TransportSuite(ConformanceSuite):
    """Cases that begin with a broker without events.

    Attributes:
        ordering: How cases subscribe when they do not test the ordering itself. An adapter that supports both orderings
            runs its suite twice, with one subclass for each.
        patience: How long awaited deliveries may take, in seconds, before a case fails.
    """

    ordering: ClassVar[Ordering] = "none"
    patience: ClassVar[float] = 15.0

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[TransportUnderTest]:
        """Open a broker without events, or a part of a broker that nobody else uses, for one case."""

    @asynccontextmanager
    async def holding(self, *events: CloudEvent) -> AsyncGenerator[TransportUnderTest]:
        """Open a broker that holds these events only."""
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
        """Subscribe as one process of a group does."""
        subscription = transport.subscribe(group, ack_wait=ack_wait, start=start)
        opening = subscription.open(types, prefetch=prefetch, ordering=ordering or self.ordering)
        async with opening as deliveries:
            yield Reader(deliveries, self.patience)

    @asynccontextmanager
    async def reading_of(self, *events: CloudEvent, **options: Any) -> AsyncGenerator[Reader, None]:
        """Open a broker that holds events, and subscribe to them as one process does. `options` are those of `reading`."""
        async with self.holding(*events) as transport, self.reading(transport, **options) as reader:
            yield reader
