"""The publishers and subscriptions of the library pass the conformance suites: in memory and on a real nats-server."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from mediator.distributed.inbox import Deliveries, Delivery, Ordering
from mediator.nats import NatsServer
from mediator.testing import InMemoryBroker, InMemoryEventSubscription
from mediator.testing.conformance import (
    PausingConformance,
    TransportCapability,
    TransportConformance,
    TransportUnderTest,
)
from tests.conformance.transports import in_memory, on_nats
from tests.unit.virtual_time import cases_in_virtual_time


@cases_in_virtual_time
class TestInMemory(TransportConformance):
    capabilities = frozenset(TransportCapability) - {TransportCapability.SIZE_LIMIT}

    def opened(self) -> AbstractAsyncContextManager[TransportUnderTest]:
        return in_memory()


class TestInMemoryByKey(TestInMemory):
    ordering = "key"


class UnpausedDeliveries(Deliveries):
    """Deliveries with the `pause` and the `resume` of the port, which do nothing."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    async def next(self) -> Delivery:
        return await self._deliveries.next()


class UnpausedSubscription(InMemoryEventSubscription):
    @asynccontextmanager
    async def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AsyncGenerator[Deliveries, None]:
        async with super().open(event_types, prefetch=prefetch, ordering=ordering) as deliveries:
            yield UnpausedDeliveries(deliveries)


@cases_in_virtual_time
class TestASubscriptionThatCannotPause(PausingConformance):
    capabilities = frozenset(TransportCapability) - {TransportCapability.PAUSE}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[TransportUnderTest]:
        broker = InMemoryBroker()
        async with in_memory(broker) as transport:
            yield replace(transport, subscribe=partial(UnpausedSubscription, broker))


class TestASubscriptionThatCannotPauseByKey(TestASubscriptionThatCannotPause):
    ordering = "key"


class TestOnNats(TransportConformance):
    capabilities = frozenset(TransportCapability)
    server: NatsServer

    @pytest.fixture(autouse=True)
    def _server(self, server: NatsServer) -> None:
        self.server = server

    def opened(self) -> AbstractAsyncContextManager[TransportUnderTest]:
        return on_nats(self.server)


class TestOnNatsByKey(TestOnNats):
    ordering = "key"
