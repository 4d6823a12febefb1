"""InMemoryEventPublisher: the event publisher that stores events in an `InMemoryBroker`."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.publisher import EventPublisher, PublishResult
from mediator.errors import DuplicateDroppedError, EventHeldBackError, PublisherUnavailableError
from mediator.testing.broker import InMemoryBroker
from mediator.testing.stream_contents import InMemoryStreamContents, Stored

_NAME = "InMemoryBroker"


class InMemoryEventPublisher(EventPublisher):
    """`publisher = providers.Singleton(InMemoryEventPublisher, broker, application="enrollment")`."""

    def __init__(self, broker: InMemoryBroker, *, application: str) -> None:
        self._broker = broker
        self._application = application

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        """See `EventPublisher.publish`."""
        await asyncio.sleep(0)  # as every broker, it lets others run meanwhile
        if not self._broker.available:
            return [PublishResult(event, _unavailable()) for event in events]
        return [PublishResult(event, duplicate=not self._broker.store(self._stamped(event))) for event in events]

    async def refill(self, events: Sequence[CloudEvent], /, *, mark: str = "") -> Sequence[PublishResult]:
        """See `EventPublisher.refill`."""
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
        """See `EventPublisher.contents`."""
        return InMemoryStreamContents(self._held, self._application)

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
        return replace(event, source=event.source or self._application)


def _unavailable() -> PublisherUnavailableError:
    return PublisherUnavailableError(_NAME, "it plays dead")
