"""Our publishers and subscriptions keep the promises of their ports: in memory and on a real nats-server."""

from contextlib import AbstractAsyncContextManager

import pytest

from mediator.nats import NatsServer
from mediator.testing.conformance import TransportCapability, TransportConformance, TransportUnderTest
from tests.conformance.transports import in_memory, on_nats


class TestInMemory(TransportConformance):
    capabilities = frozenset(TransportCapability) - {TransportCapability.SIZE_LIMIT}

    def opened(self) -> AbstractAsyncContextManager[TransportUnderTest]:
        return in_memory()


class TestInMemoryByKey(TestInMemory):
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
