"""The inspection of a broker returns its state, or the reason for each missing part."""

import asyncio
import contextlib
import re
from collections.abc import Callable

import pytest

from mediator.cli.doctor.inspection import inspect_broker
from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import PublisherUnavailableError, SettingError
from mediator.nats import (
    NatsCluster,
    NatsConnection,
    NatsEventPublisher,
    NatsEventSubscription,
    NatsServer,
    StreamSettings,
    open_connection,
)
from mediator.nats.topology import JetStreamApi, Topology, merged, provision

TYPE = "shop.order-placed"


def wanted(connection: NatsConnection, prefix: str) -> Topology:
    settings = StreamSettings(max_age=3600, duplicate_window=60, max_bytes=10**7, partitions=4, atomic_batches=True)
    return merged(
        [
            NatsEventPublisher(connection, "shop", prefix=prefix, settings=settings).topology([TYPE]),
            NatsEventSubscription(connection, "shipping", prefix=prefix, ack_wait=20).topology([TYPE]),
        ]
    )


async def provide(connection: NatsConnection, topology: Topology) -> None:
    api = JetStreamApi(await connection.client("publish", timeout=5), connection.broker)
    await provision(api, topology, done=lambda item: None)


async def test_the_report_contains_streams_and_consumers(
    connection: NatsConnection, prefix: str, event: Callable[..., CloudEvent]
) -> None:
    topology = wanted(connection, prefix)
    await provide(connection, topology)
    publisher = NatsEventPublisher(
        connection, "shop", prefix=prefix, settings=StreamSettings(3600, 60, 10**7, partitions=4, atomic_batches=True)
    )
    await publisher.publish([event("a"), event("b"), event("c")])
    subscription = NatsEventSubscription(connection, "shipping", prefix=prefix, ack_wait=20)
    async with subscription.open([TYPE], prefetch=2) as deliveries:
        await (await deliveries.next()).ack()
        await deliveries.next()
        async with asyncio.timeout(10):
            seen = await inspect_broker(connection, topology)
            while seen.consumers[0].ack_floor == 0:  # the arrival of an acknowledgement is not reported
                seen = await inspect_broker(connection, topology)

    assert (seen.reachable, seen.jetstream, seen.problems) == (True, True, ())
    assert re.fullmatch(r"\d+\.\d+\.\d+", seen.server_version)
    assert (seen.max_payload, seen.servers) == (1024**2, 1)
    assert seen.account.storage > 0
    (stream,) = seen.streams
    assert (stream.name, stream.replicas, stream.storage, stream.discard) == (f"{prefix}-shop", 1, "file", "new")
    assert (stream.max_age, stream.duplicate_window, stream.max_bytes) == (3600, 60, 10**7)
    assert (stream.retention, stream.persist_mode, stream.partitions) == ("limits", "", 4)
    assert stream.messages == 3
    assert stream.bytes > 0
    (consumer,) = seen.consumers
    assert (consumer.stream, consumer.name) == (f"{prefix}-shop", "shipping")
    assert (consumer.max_deliver, consumer.ack_wait, consumer.max_ack_pending) == (-1, 20, 1000)
    assert consumer.ack_floor == 1
    assert consumer.pending + consumer.unacknowledged == 2


async def test_missing_streams_and_consumers_are_named(connection: NatsConnection, prefix: str) -> None:
    seen = await inspect_broker(connection, wanted(connection, prefix))
    assert seen.missing_streams == (f"{prefix}-shop",)
    assert seen.missing_consumers == ((f"{prefix}-shop", "shipping"),)
    assert (seen.streams, seen.consumers, seen.problems) == ((), (), ())


async def test_an_unreachable_broker_is_reported_without_its_password() -> None:
    async with open_connection("nats://app:hidden@127.0.0.1:1") as connection:
        seen = await inspect_broker(connection, Topology(), timeout=0.3)
    assert (seen.reachable, seen.jetstream) == (False, None)
    assert "is not available" in seen.problems[0]
    assert "hidden" not in repr(seen)


async def test_a_server_without_jetstream_is_reported() -> None:
    accounts = "accounts { PLAIN { users: [{ user: a, password: secret }] } }"
    async with (
        NatsServer(settings=accounts) as server,
        open_connection(server.url, user="a", password="secret") as connection,
    ):
        seen = await inspect_broker(connection, wanted(connection, "events"))
    assert (seen.reachable, seen.jetstream, seen.account, seen.streams) == (True, False, None, ())
    assert seen.problems


@pytest.mark.thorough("waits in real time, or does much work")
async def test_missing_rights_are_reported_together_with_the_accessible_state(prefix: str) -> None:
    users = f"""authorization {{ users: [
        {{ user: admin, password: "administrator" }}
        {{ user: a, password: "secret", permissions: {{ publish: "$JS.API.CONSUMER.INFO.{prefix}-shop.*" }} }}
    ] }}"""
    async with NatsServer(settings=users) as server:
        async with open_connection(server.url, user="admin", password="administrator") as connection:
            await provide(connection, wanted(connection, prefix))
        async with open_connection(server.url, user="a", password="secret") as connection:
            seen = await inspect_broker(connection, wanted(connection, prefix))
    assert seen.jetstream is None
    assert [consumer.name for consumer in seen.consumers] == ["shipping"]
    assert (seen.streams, seen.missing_streams) == ((), ())
    assert seen.problems == (
        "this application's user may not publish to $JS.API.INFO",
        f"this application's user may not publish to $JS.API.STREAM.INFO.{prefix}-shop",
    )


@pytest.mark.parametrize(("jetstream", "always"), [("", False), ("sync_interval: always", True)])
async def test_the_monitoring_of_the_server_tells_its_sync_interval(jetstream: str, always: bool) -> None:
    async with NatsServer(jetstream=jetstream) as server, open_connection(server.url) as connection:
        monitoring = f"http://127.0.0.1:{server._monitoring}/"
        assert (await inspect_broker(connection, Topology(), monitoring=monitoring)).sync_always is always
        assert (await inspect_broker(connection, Topology())).sync_always is None


async def test_an_unusable_monitoring_is_reported(connection: NatsConnection) -> None:
    seen = await inspect_broker(connection, Topology(), monitoring="http://u:hidden@127.0.0.1:1", timeout=2)
    assert seen.sync_always is None
    assert "the monitoring at http://127.0.0.1:1 could not be read" in seen.problems[0]
    assert "hidden" not in repr(seen)
    with pytest.raises(SettingError, match="http://host:port"):
        await inspect_broker(connection, Topology(), monitoring="file:///etc/passwd")


@pytest.mark.thorough("builds a cluster of three servers")
async def test_an_offline_replica_is_named(event: Callable[..., CloudEvent]) -> None:
    async with NatsCluster() as cluster, open_connection(cluster.urls) as connection:
        topology = NatsEventPublisher(connection, "shop", settings=StreamSettings(replicas=3)).topology([TYPE])
        async with asyncio.timeout(90):
            while True:
                with contextlib.suppress(PublisherUnavailableError):  # a new stream may have to elect its leader twice
                    await provide(connection, topology)
                    break
            await cluster.start()
            await cluster.servers[0].kill()
            seen = await inspect_broker(connection, topology)
            while not (seen.streams and seen.streams[0].offline_replicas == ("mediator-1",)):
                await asyncio.sleep(0.1)
                seen = await inspect_broker(connection, topology)
    assert (seen.streams[0].replicas, seen.servers) == (3, 3)
