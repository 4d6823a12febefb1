"""The request channels of the library pass the conformance suites: in memory and over a real nats-server."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from mediator.nats import NatsRequestChannel, NatsServer, open_connection
from mediator.testing import InMemoryRequestChannel
from mediator.testing.conformance import RequestCapability, RequestConformance, RequestsUnderTest
from tests.conformance.transports import LARGEST, outage_of
from tests.unit.virtual_time import cases_in_virtual_time


@cases_in_virtual_time
class TestInMemory(RequestConformance):
    capabilities = frozenset({RequestCapability.OUTAGE})

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[RequestsUnderTest]:
        channel = InMemoryRequestChannel()

        @asynccontextmanager
        async def outage() -> AsyncIterator[None]:
            channel.available = False
            yield
            channel.available = True

        yield RequestsUnderTest(asking=channel, serving=channel, outage=outage)


class TestOnNats(RequestConformance):
    capabilities = frozenset(RequestCapability)
    server: NatsServer

    @pytest.fixture(autouse=True)
    def _server(self, server: NatsServer) -> None:
        self.server = server

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[RequestsUnderTest]:
        prefix = f"t{uuid.uuid4().hex[:10]}"
        async with AsyncExitStack() as stack:
            here, there = [await stack.enter_async_context(open_connection(self.server.url)) for _ in range(2)]
            yield RequestsUnderTest(
                asking=NatsRequestChannel(here, "enrollment", prefix=prefix),
                serving=NatsRequestChannel(there, "advising", prefix=prefix),
                outage=outage_of(self.server),
                largest=LARGEST,
            )
