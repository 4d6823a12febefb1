"""The transports of the library, opened for conformance suites."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import nats

from mediator.distributed.inbox import EventSubscription
from mediator.nats import NatsEventPublisher, NatsEventSubscription, NatsServer, StreamSettings, open_connection
from mediator.testing import InMemoryBroker, InMemoryEventPublisher, InMemoryEventSubscription
from mediator.testing.conformance import TransportUnderTest
from mediator.testing.conformance.transport import Outage

LARGEST = 64 * 1024
STREAM = 8 * 1024 * 1024
"""The number of streams per server. The server reserves disk space for each stream."""
SETTINGS = f"max_payload: {LARGEST}"


@asynccontextmanager
async def in_memory(broker: InMemoryBroker | None = None) -> AsyncIterator[TransportUnderTest]:
    broker = broker or InMemoryBroker()

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        broker.available = False
        yield
        broker.available = True

    async def put(event_type: str, headers: Mapping[str, str], data: bytes) -> None:
        broker.store_message(event_type, headers, data)

    yield TransportUnderTest(
        publisher=InMemoryEventPublisher(broker, application="shop"),
        subscribe=partial(InMemoryEventSubscription, broker),
        outage=outage,
        put=put,
    )


@asynccontextmanager
async def on_nats(*servers: NatsServer) -> AsyncIterator[TransportUnderTest]:
    """Open a transport with its own prefix on shared servers. Each process of a group has its own connection."""
    prefix, urls = f"t{uuid.uuid4().hex[:10]}", [server.url for server in servers]
    settings = StreamSettings(replicas=len(servers), max_bytes=STREAM)

    async with AsyncExitStack() as stack:
        here, *there = [await stack.enter_async_context(open_connection(urls)) for _ in range(3)]
        connections = itertools.cycle(there)

        def subscribe(group: str, /, **options: Any) -> EventSubscription:
            return NatsEventSubscription(next(connections), group, prefix=prefix, settings=settings, **options)

        yield TransportUnderTest(
            publisher=NatsEventPublisher(here, application="shop", prefix=prefix, settings=settings, size_grace=0),
            subscribe=subscribe,
            outage=outage_of(*servers),
            put=partial(put_on_nats, urls, prefix),
            largest=LARGEST,
        )


def outage_of(*servers: NatsServer) -> Outage:
    """Kill all servers for the block, and start them again."""

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        try:
            for server in servers:
                await server.kill()
            yield
        finally:
            async with asyncio.TaskGroup() as starting:
                for server in servers:
                    starting.create_task(server.start())

    return outage


async def put_on_nats(
    urls: Sequence[str], prefix: str, event_type: str, headers: Mapping[str, str], data: bytes
) -> None:
    client = await nats.connect(list(urls))
    try:
        await client.jetstream().publish(f"{prefix}.{event_type}.0", data, headers=dict(headers))
    finally:
        await client.close()
