"""The publishers and subscriptions of the library pass the conformance suites: in memory and on a real nats-server."""

from contextlib import AbstractAsyncContextManager

import pytest

from mediator.nats import NatsServer
from mediator.testing.conformance import TransportCapability, TransportConformance, TransportUnderTest
from tests.conformance.transports import in_memory, on_nats
from tests.unit.virtual_time import cases_in_virtual_time


@cases_in_virtual_time
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
