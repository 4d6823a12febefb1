"""Fixtures: real servers, which the tests use without the library."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import asyncpg
import nats
import pytest
from nats.aio.client import Client

from mediator.nats import NatsServer
from tests.assumptions.stream import RawStream
from tests.postgres import PostgresServer


@pytest.fixture
async def client(shared_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(shared_server.url)
    yield client
    await client.close()


@pytest.fixture
async def stream(client: Client) -> RawStream:
    return await new_stream(client)


async def new_stream(client: Client, **config: object) -> RawStream:
    stream = RawStream(client, f"s{uuid.uuid4().hex[:10]}")
    await stream.create(**config)
    return stream


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[str]:
    """One database for a module; each test has its own schema in it."""
    opened = postgres.database()
    with asyncio.Runner() as runner:
        yield runner.run(opened.__aenter__())
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture
async def schema(database: str) -> str:
    """The name of an empty schema."""
    name = f"s{uuid.uuid4().hex[:10]}"
    connection = await asyncpg.connect(database, timeout=30)
    await connection.execute(f"CREATE SCHEMA {name}")
    await connection.close()
    return name
