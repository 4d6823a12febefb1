"""A cluster of three real servers: publishing and consuming continue when one of them dies."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client

from mediator.distributed.inbox import Deliveries
from mediator.errors import ServerStartError, SettingError
from mediator.nats import NatsCluster, NatsEventPublisher, NatsEventSubscription, StreamSettings, open_connection

pytestmark = pytest.mark.thorough("builds clusters of three servers")

TYPE = "shop.order-placed"
REPLICATED = StreamSettings(replicas=3, partitions=4)
SECONDS = 60


@pytest.fixture
async def cluster() -> AsyncIterator[NatsCluster]:
    async with NatsCluster() as cluster:
        yield cluster


async def publish(publisher: NatsEventPublisher, events) -> None:
    waiting = list(events)
    while waiting:
        waiting = [result.event for result in await publisher.publish(waiting) if result.error]
        if waiting:
            await asyncio.sleep(0.1)


async def take_in(deliveries: Deliveries, ids: list[str], count: int) -> None:
    """Take in that many distinct events, as an application with an inbox does."""
    while len(ids) < count:
        delivery = await deliveries.next()
        if delivery.event.id not in ids:
            ids.append(delivery.event.id)
        await delivery.ack()


async def stored(cluster: NatsCluster, count: int) -> list[str]:
    """Return the ids in the stream when there are that many: a server that has just restarted may have an old state."""
    client = await nats.connect(cluster.urls)
    jetstream, ids = client.jetstream(), []
    try:
        while len(ids) < count:
            with contextlib.suppress(nats.js.errors.APIError, nats.errors.Error):
                last = (await jetstream.stream_info("events-shop")).state.last_seq
                ids = [(await jetstream.get_msg("events-shop", seq)).headers["ce-id"] for seq in range(1, last + 1)]
        return ids
    finally:
        await client.close()


async def test_a_stream_has_a_replica_on_each_server_and_a_server_can_be_killed_and_restarted(cluster, event) -> None:
    async with open_connection(cluster.urls) as connection, asyncio.timeout(SECONDS):
        publisher = NatsEventPublisher(connection, "app", settings=REPLICATED)
        await publish(publisher, [event("1")])
        leader = await cluster.leader("events-shop")
        await leader.kill()
        assert leader.pid is None
        other = await cluster.leader("events-shop")
        assert other is not leader
        await cluster.start()
        assert {server.pid is not None for server in cluster.servers} == {True}
        await publish(publisher, [event("1"), event("2")])
        assert await stored(cluster, 2) == ["1", "2"]


async def test_a_restarted_cluster_is_complete_so_the_next_server_can_be_killed(cluster, event) -> None:
    async with open_connection(cluster.urls) as connection, asyncio.timeout(SECONDS):
        publisher = NatsEventPublisher(connection, "app", settings=REPLICATED)
        subscription = NatsEventSubscription(connection, "g", settings=REPLICATED)
        async with subscription.open([TYPE], prefetch=20, ordering="key") as deliveries:
            for round_ in range(3):
                await publish(publisher, [event(f"{round_}-{n}", f"k{n}") for n in range(60)])
                await take_in(deliveries, [], 1)
                await (await cluster.leader("events-shop")).kill()
                await cluster.start()
                assert None not in [await server.monitoring("/healthz") for server in cluster.servers]


async def test_a_cluster_whose_servers_cannot_connect_is_an_error_and_leaves_no_server_running() -> None:
    cluster = NatsCluster(cluster="authorization { user: one, password: another }", start_timeout=5.0)
    with pytest.raises(ServerStartError, match="the cluster was not complete within 5 s"):
        async with cluster:
            raise AssertionError
    assert {server.pid for server in cluster.servers} == {None}


async def step_down(cluster: NatsCluster, client: Client, stream: str, consumer: str) -> None:
    """Let the leader of a stream, or of a consumer, step down.

    Only the leader answers: a request that arrives just before the servers have agreed on it is asked again.
    """
    kind, place = ("CONSUMER", f"{stream}.{consumer}") if consumer else ("STREAM", stream)
    while True:
        await cluster.leader(stream, consumer)
        with contextlib.suppress(nats.errors.TimeoutError, nats.errors.NoRespondersError):
            await client.request(f"$JS.API.{kind}.LEADER.STEPDOWN.{place}", timeout=2)
            return


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_publishing_and_consuming_continue_when_the_leader_of_the_stream_is_killed(cluster, event, ordering):
    async with open_connection(cluster.urls) as connection, asyncio.timeout(SECONDS):
        publisher = NatsEventPublisher(connection, "app", settings=REPLICATED)
        subscription = NatsEventSubscription(connection, "g", settings=REPLICATED, ack_wait=2.0)
        ids: list[str] = []
        async with subscription.open([TYPE], prefetch=20, ordering=ordering) as deliveries:
            for round_ in range(2):
                events = [event(f"{round_}-{n}", f"k{n % 3}") for n in range(60)]
                publishing = asyncio.create_task(publish(publisher, events))
                await take_in(deliveries, ids, 60 * round_ + 10)
                leader = await cluster.leader("events-shop")
                await leader.kill()
                await publishing
                await take_in(deliveries, ids, 60 * (round_ + 1))
                await cluster.start()  # waits until the server has caught up: two of three must always be complete
        assert sorted(ids) == sorted(f"{r}-{n}" for r in range(2) for n in range(60))
        for key in range(3) if ordering == "key" else ():
            assert [one for one in ids if int(one[2:]) % 3 == key] == [
                f"{r}-{n}" for r in range(2) for n in range(60) if n % 3 == key
            ]
        assert sorted(await stored(cluster, len(ids))) == sorted(ids)


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_killed_leader_of_an_idle_consumer_is_noticed(cluster, event, ordering) -> None:
    one = StreamSettings(replicas=3, partitions=1)
    async with open_connection(cluster.urls) as connection, asyncio.timeout(SECONDS):
        publisher = NatsEventPublisher(connection, "app", settings=one)
        subscription = NatsEventSubscription(connection, "g", settings=one)
        async with subscription.open([TYPE], prefetch=20, ordering=ordering) as deliveries:
            await publish(publisher, [event("1")])
            await take_in(deliveries, ids := [], 1)
            leader = await cluster.leader("events-shop", "g" if ordering == "none" else "g-p0")
            await leader.kill()
            await publish(publisher, [event("2")])
            started = time.monotonic()
            await take_in(deliveries, ids, 2)  # "1" comes again when its acknowledgement died with the leader
            assert ids == ["1", "2"]
            assert time.monotonic() - started < 30


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_publishing_and_consuming_continue_when_leaders_step_down(cluster, event, ordering) -> None:
    one = StreamSettings(replicas=3, partitions=1)
    consumer = "g" if ordering == "none" else "g-p0"
    raw = await nats.connect(cluster.urls)
    async with open_connection(cluster.urls) as connection, asyncio.timeout(SECONDS):
        publisher = NatsEventPublisher(connection, "app", settings=one)
        subscription = NatsEventSubscription(connection, "g", settings=one, ack_wait=2.0)
        ids: list[str] = []
        async with subscription.open([TYPE], prefetch=20, ordering=ordering) as deliveries:
            for number, subject in enumerate(("CONSUMER", "STREAM", "CONSUMER", "STREAM")):
                await publish(publisher, [event(f"{number}-{n}", "k") for n in range(20)])
                await take_in(deliveries, ids, 20 * number + 10)
                await step_down(cluster, raw, "events-shop", consumer if subject == "CONSUMER" else "")
                await take_in(deliveries, ids, 20 * number + 20)
        assert sorted(ids) == sorted(f"{number}-{n}" for number in range(4) for n in range(20))
        if ordering == "key":
            assert ids == [f"{number}-{n}" for number in range(4) for n in range(20)]
    await raw.close()


async def test_the_loss_of_the_majority_loses_no_event_and_consuming_continues_afterwards(cluster, event) -> None:
    async with open_connection(cluster.urls) as connection, asyncio.timeout(SECONDS):
        publisher = NatsEventPublisher(connection, "app", settings=REPLICATED, timeout=2)
        await publish(publisher, [event("1", "k")])
        victims = cluster.servers[1:]
        for server in victims:
            await server.kill()
        results = await publisher.publish([event("2", "k")])
        assert results[0].error is not None
        for server in victims:
            await server.start()
        await publish(publisher, [event("2", "k"), event("3", "k")])
        subscription = NatsEventSubscription(connection, "g", settings=REPLICATED)
        async with subscription.open([TYPE], prefetch=20, ordering="key") as deliveries:
            await take_in(deliveries, ids := [], 3)
        assert ids == ["1", "2", "3"]


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function StreamWriter:pytest.PytestUnraisableExceptionWarning"
)
async def test_a_frozen_leader_delays_events_and_loses_none(cluster, event) -> None:
    async with open_connection(cluster.urls, probe_interval=0.5) as connection, asyncio.timeout(SECONDS):
        publisher = NatsEventPublisher(connection, "app", settings=REPLICATED, timeout=2)
        await publish(publisher, [event(f"{n}", "k") for n in range(30)])
        leader = await cluster.leader("events-shop")
        leader.suspend()
        try:
            await publish(publisher, [event(f"{n}", "k") for n in range(60)])
        finally:
            leader.resume()
        assert await stored(cluster, 60) == [f"{n}" for n in range(60)]
    gc.collect()  # nats-py forgets the socket of a server that took the connection and then said nothing


async def test_leaving_ends_all_processes() -> None:
    async with NatsCluster() as cluster:
        assert len({server.pid for server in cluster.servers}) == 3
    assert {server.pid for server in cluster.servers} == {None}


@pytest.mark.parametrize("size", [0, 2, -1])
def test_a_size_without_a_majority_is_refused(size) -> None:
    with pytest.raises(SettingError):
        NatsCluster(size)
