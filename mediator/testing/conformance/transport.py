"""TransportUnderTest: the publisher and the subscriptions of one broker, as a conformance suite works with them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.publisher import EventPublisher
from mediator.distributed.subscription import EventSubscription

Start = Literal["all", "new"] | datetime
Outage = Callable[[], AbstractAsyncContextManager[None]]
Put = Callable[[str, Mapping[str, str], bytes], Awaitable[None]]


class Subscribe(Protocol):
    """Makes the subscription of a group, as one process of it does. It need not be the same connection each time."""

    def __call__(self, group: str, /, *, ack_wait: float = 30.0, start: Start = "all") -> EventSubscription:
        """A subscription.

        Args:
            group: The name of the group.
            ack_wait: How long the broker waits for an acknowledgement, in seconds.
            start: Where a new group begins; other than `"all"` only with `TransportCapability.START_POSITION`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TransportUnderTest:
    """One broker without events, for one case.

    Attributes:
        publisher: Sends events to it.
        subscribe: Makes subscriptions to it.
        outage: Takes the broker down for as long as the context lasts (`TransportCapability.OUTAGE`).
        put: Stores a message with such headers and body where the events of a type are (`FOREIGN_MESSAGES`).
        largest: The largest body that the broker takes, in bytes (`SIZE_LIMIT`).
    """

    publisher: EventPublisher
    subscribe: Subscribe
    outage: Outage | None = None
    put: Put | None = None
    largest: int = 0

    async def store(self, *events: CloudEvent) -> None:
        """Publish until all are stored: on a busy machine, the first connection may outlast the publisher's patience.

        Raises:
            AssertionError: They are not, after 20 s.
        """
        error: Exception | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                while error := await self._failure(events):  # noqa: ASYNC110  # the broker has no sign for it
                    await asyncio.sleep(0.05)
                return
        raise AssertionError(f"{len(events)} events are not stored: {error}") from error

    async def _failure(self, events: Sequence[CloudEvent]) -> Exception | None:
        results = await self.publisher.publish(events)
        return next((result.error for result in results if result.error is not None), None)
