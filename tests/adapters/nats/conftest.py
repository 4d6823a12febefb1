"""Fixtures: a nats-server for each module, a connection and a prefix for each test."""

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import nats
import pytest
from nats.aio.client import Client

from mediator.distributed.cloudevents import CloudEvent
from mediator.nats import NatsConnection, NatsServer, open_connection


@pytest.fixture
async def connection(shared_server: NatsServer) -> AsyncIterator[NatsConnection]:
    async with open_connection(shared_server.url) as connection:
        await connection.client("publish", timeout=10)  # a publisher waits only a second, which a busy machine exceeds
        yield connection


@pytest.fixture
async def raw(shared_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(shared_server.url)
    yield client
    await client.close()


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def event() -> Callable[..., CloudEvent]:
    def make(event_id: str = "1", key: str | None = None, **changes: object) -> CloudEvent:
        values: dict[str, object] = {
            "id": event_id,
            "type": "shop.order-placed.v1",
            "time": datetime(2026, 1, 2, 3, 4, 5, 678, UTC),
            "data": b'{"order": 1}',
            "partitionkey": key,
        }
        return CloudEvent(**(values | changes))

    return make
