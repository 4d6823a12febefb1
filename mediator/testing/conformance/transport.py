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
    """Return an event with the given id and type. By default, the type is version 1 of `TYPE`."""
    return CloudEvent(event_id, event_type, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), data, partitionkey=key)


def events(count: int, key: str | None = None) -> list[CloudEvent]:
    """Return events with the ids "0", "1" and so on, all with the given key."""
    return [event(f"{number}", key) for number in range(count)]


def apart(count: int) -> list[CloudEvent]:
    """Return `count` events (at most 16) without keys, in different partitions, so that no event waits for another."""
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
        patience: Seconds that one call of `hold` may wait for deliveries before the case fails.
    """

    def __init__(self, deliveries: Deliveries, patience: float) -> None:
        self._deliveries = deliveries
        self._patience = patience

    def pause(self) -> None:
        """Pause the subscription."""
        self._deliveries.pause()

    def resume(self) -> None:
        """Resume the subscription."""
        self._deliveries.resume()

    async def hold(self, count: int = 1) -> list[Delivery]:
        """Return the next `count` deliveries, unacknowledged."""
        taken: list[Delivery] = []
        try:
            async with asyncio.timeout(self._patience):
                while len(taken) < count:
                    taken.append(await self._deliveries.next())
        except TimeoutError:
            raise AssertionError(f"expected {count} deliveries, but none came after {ids(taken)}") from None
        return taken

    async def hold_one(self) -> Delivery:
        """Return the next delivery, unacknowledged."""
        return (await self.hold())[0]

    async def take(self, count: int = 1) -> list[Delivery]:
        """Read and acknowledge `count` deliveries, one after the other, and return the deliveries."""
        taken: list[Delivery] = []
        for _ in range(count):
            try:
                taken.append(await self.hold_one())
            except AssertionError as error:
                raise AssertionError(f"expected {count} deliveries, but none came after {ids(taken)}") from error
            await taken[-1].ack()
        return taken

    async def take_ids(self, count: int = 1) -> list[str]:
        """Take deliveries as `take` does, and return the ids of the delivered events."""
        return ids(await self.take(count))

    @asynccontextmanager
    async def taking(self, count: int = 1) -> AsyncGenerator[asyncio.Task[list[str]], None]:
        """Take deliveries in a task during the block, and yield the task, which returns the ids."""
        task = asyncio.ensure_future(self.take_ids(count))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # the case has failed already, or does not need the deliveries

    async def nothing(self, seconds: float = 0.2) -> None:
        """Check that no delivery arrives within the given seconds."""
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
            group: The name of the group. The processes of one group share the events.
            ack_wait: Seconds that the broker waits for an acknowledgement.
            start: The position at which a new group begins. Without `TransportCapability.START_POSITION`, the position
                is always `"all"`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TransportUnderTest:
    """One broker without events, for one case.

    Attributes:
        publisher: Sends events to the broker.
        subscribe: Makes subscriptions to the broker.
        outage: Returns a context in which the broker is down. Needed only for `TransportCapability.OUTAGE`.
        put: Stores a message with the given event type, headers and body, as a foreign producer does.
            Needed only for `FOREIGN_MESSAGES`.
        largest: The largest body that the broker accepts, in bytes. Needed only for `SIZE_LIMIT`.
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
            AssertionError: Not all events are stored after 20 s.
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
    """Optional abilities of a transport. A suite omits the cases for abilities missing from `capabilities`."""

    KEY_ORDERING = auto()
    """With `open(ordering="key")`, the events of one partition key are delivered strictly one after the other."""
    DEDUPLICATION = auto()
    """The broker stores an event once, even if the publisher sends the event several times."""
    START_POSITION = auto()
    """A new group may begin with new events only, or with the events stored since a given time."""
    OUTAGE = auto()
    """The test can take the broker down and bring it back, with `TransportUnderTest.outage`."""
    FOREIGN_MESSAGES = auto()
    """The test can store messages without the publisher, with `TransportUnderTest.put`."""
    SIZE_LIMIT = auto()
    """The broker refuses events larger than `TransportUnderTest.largest`."""
    GROUP_OWNER = auto()
    """A group belongs to the first application that opens the group. A second application gets no events from the group."""
    PAUSE = auto()
    """A paused subscription leaves the events to the other processes of its group."""


class TransportSuite(ConformanceSuite):
    """The base class of suites whose cases begin with a broker without events.

    Attributes:
        ordering: The ordering of the subscriptions in cases that do not test the ordering itself. An adapter that
            supports both orderings needs two subclasses of the suite, one subclass for each ordering.
        patience: Seconds that a case waits for deliveries before it fails.
    """

    ordering: ClassVar[Ordering] = "none"
    patience: ClassVar[float] = 15.0

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[TransportUnderTest]:
        """Open a broker without events, for one case. The broker may be an unused part of a shared broker."""

    @asynccontextmanager
    async def holding(self, *events: CloudEvent) -> AsyncGenerator[TransportUnderTest]:
        """Open a broker that contains only the given events."""
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
        """Open a subscription for one process of a group, and yield a reader of the subscription."""
        subscription = transport.subscribe(group, ack_wait=ack_wait, start=start)
        opening = subscription.open(types, prefetch=prefetch, ordering=ordering or self.ordering)
        async with opening as deliveries:
            yield Reader(deliveries, self.patience)

    async def run_workers(self, work: Callable[[Reader], Awaitable[None]], *readers: Reader) -> None:
        """Run `work` for all readers concurrently, as several processes of a group do, until one call of `work` ends."""
        working = {asyncio.ensure_future(work(reader)) for reader in readers}
        await asyncio.wait(working, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
        for each in working:
            each.cancel()
        await asyncio.wait(working)

    @asynccontextmanager
    async def reading_of(self, *events: CloudEvent, **options: Any) -> AsyncGenerator[Reader, None]:
        """Open a broker that contains only the given events, and yield a reader. `options` are passed to `reading`."""
        async with self.holding(*events) as transport, self.reading(transport, **options) as reader:
            yield reader
