"""A stream that is silent, denied, deleted or full does not delay the events of other streams."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client

from mediator import OutboxRelay
from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import StreamUnavailableError
from mediator.nats import NatsConnection, NatsEventPublisher, NatsServer, StreamSettings, open_connection
from mediator.nats.topology import JetStreamApi
from mediator.nats.topology.streams import create_stream, stream_config
from mediator.testing import InMemoryDatabase, InMemoryOutbox

Make = Callable[..., CloudEvent]

USERS = """
authorization { users: [
  { user: admin, password: "administrator" }
  { user: sales, password: "publishes", permissions: { publish: { deny: ["events.secret.>"] } } }
] }
"""
_TIMEOUT = 1.0
_BOUND = 2 * _TIMEOUT + 2.0
"""Seconds that a healthy event may wait: for the batch before it, and for a batch that may reach the faulty stream again."""

BATCHED = StreamSettings(atomic_batches=True)


async def create(connection: NatsConnection, prefix: str, domain: str, **changes: object) -> None:
    client = await connection.client("publish", timeout=10)
    config = stream_config(prefix, domain, StreamSettings()) | changes
    await create_stream(JetStreamApi(client, connection.broker), config)


async def update(raw: Client, stream: str, **changes: object) -> None:
    config = json.loads((await raw.request(f"$JS.API.STREAM.INFO.{stream}")).data)["config"]
    answer = await raw.request(f"$JS.API.STREAM.UPDATE.{stream}", json.dumps(config | changes).encode())
    assert "error" not in json.loads(answer.data)


@asynccontextmanager
async def relaying(database: InMemoryDatabase, publisher: NatsEventPublisher) -> AsyncIterator[None]:
    task = asyncio.create_task(OutboxRelay(InMemoryOutbox(database), publisher, batch_size=100).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def until_archived(database: InMemoryDatabase, event_id: str) -> float:
    """Return the seconds until an event is stored by the broker."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        while all(each.id != event_id for each in database.archive):
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def check_that_shop_is_published(
    database: InMemoryDatabase, publisher: NatsEventPublisher, faulty: str, event: Make
):
    """Check the domain shop before, during and after the detection of the fault, with more faulty events than one claim."""
    database.outbox += [event(f"{faulty}{n}", f"k{n % 7}", type=f"{faulty}.added.v1") for n in range(250)]
    async with relaying(database, publisher):
        for number in range(4):
            database.outbox += [event(f"shop{number}.{n}", "k1") for n in range(30)]
            database.woken.set()
            assert await until_archived(database, f"shop{number}.29") < _BOUND
    assert not [each for each in database.archive if each.type.startswith(f"{faulty}.")]
    waiting = [each.id for each in database.outbox]
    assert waiting == [f"{faulty}{n}" for n in range(250)]


@pytest.mark.thorough("waits in real time, or does much work")
@pytest.mark.parametrize("atomic", [True, False], ids=["batches", "one by one"])
async def test_a_stream_that_acknowledges_nothing_delays_no_other(connection, prefix, event, atomic: bool) -> None:
    await create(connection, prefix, "mute", no_ack=True)
    publisher = NatsEventPublisher(
        connection, "app", prefix=prefix, timeout=_TIMEOUT, atomic_batches=atomic, settings=BATCHED
    )
    await check_that_shop_is_published(InMemoryDatabase(), publisher, "mute", event)


@pytest.mark.parametrize("atomic", [True, False], ids=["batches", "one by one"])
async def test_a_full_stream_delays_no_other(connection, prefix, event, atomic: bool) -> None:
    await create(connection, prefix, "full", max_bytes=10)
    publisher = NatsEventPublisher(
        connection, "app", prefix=prefix, timeout=_TIMEOUT, atomic_batches=atomic, settings=BATCHED
    )
    await check_that_shop_is_published(InMemoryDatabase(), publisher, "full", event)


async def test_a_deleted_stream_delays_no_other(connection, raw, prefix, event) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, timeout=_TIMEOUT)
    warm = [event("warm", type="gone.added.v1"), event("shop")]
    assert [each.error for each in await publisher.publish(warm)] == [None, None]
    await raw.jetstream().delete_stream(f"{prefix}-gone")
    missing = NatsEventPublisher(connection, "app", prefix=prefix, timeout=_TIMEOUT, provision=False)
    assert (await missing.publish([event("shop again")]))[0].error is None
    await check_that_shop_is_published(InMemoryDatabase(), missing, "gone", event)


async def test_every_publish_to_a_forbidden_stream_fails_at_once(event: Make) -> None:
    async with (
        NatsServer(settings=USERS) as server,
        open_connection(server.url, user="admin", password="administrator") as admin,
        open_connection(server.url, user="sales", password="publishes") as connection,
    ):
        await create(admin, "events", "secret")
        publisher = NatsEventPublisher(connection, "app", timeout=120)
        await publisher.publish([event("0", type="secret.added.v1")])
        async with asyncio.timeout(15):
            publishing = (publisher.publish([event(f"{n}", type="secret.added.v1")]) for n in range(5))
            results = [result for each in await asyncio.gather(*publishing) for result in each]
        assert [isinstance(each.error, StreamUnavailableError) for each in results] == [True] * 5


@pytest.mark.parametrize("atomic", [True, False], ids=["batches", "one by one"])
async def test_a_forbidden_stream_delays_no_other(event: Make, atomic: bool) -> None:
    async with (
        NatsServer(settings=USERS) as server,
        open_connection(server.url, user="admin", password="administrator") as admin,
        open_connection(server.url, user="sales", password="publishes") as connection,
    ):
        for domain in ("secret", "shop"):
            await create(admin, "events", domain, allow_atomic=True)
        publisher = NatsEventPublisher(connection, "app", timeout=_TIMEOUT, atomic_batches=atomic, settings=BATCHED)
        began = time.monotonic()
        first, second = await publisher.publish([event("1", type="secret.added.v1"), event("2")])
        assert time.monotonic() - began < _TIMEOUT
        assert second.error is None
        assert isinstance(first.error, StreamUnavailableError)
        assert "may not publish to events.secret.added" in str(first.error)
        await check_that_shop_is_published(InMemoryDatabase(), publisher, "secret", event)


@pytest.mark.parametrize("atomic", [True, False], ids=["batches", "one by one"])
async def test_events_of_other_streams_are_sent_while_one_does_not_answer(
    connection, raw, prefix, event, atomic
) -> None:
    await create(connection, prefix, "mute", no_ack=True)
    publisher = NatsEventPublisher(
        connection, "app", prefix=prefix, timeout=5.0, atomic_batches=atomic, settings=BATCHED
    )
    events = [event(f"mute{n}", type="mute.added.v1", data=b"x" * 100_000) for n in range(100)]
    events += [event(f"few{n}", type="few.added.v1") for n in range(3)] + [event(f"many{n}") for n in range(50)]
    publishing = asyncio.ensure_future(publisher.publish(events))
    async with asyncio.timeout(3):
        for domain, count in (("few", 3), ("shop", 50)):
            while True:
                answer = json.loads((await raw.request(f"$JS.API.STREAM.INFO.{prefix}-{domain}")).data)
                if answer.get("state", {}).get("messages") == count:
                    break
                await asyncio.sleep(0.02)
    assert not publishing.done()
    publishing.cancel()
    await asyncio.wait({publishing})
