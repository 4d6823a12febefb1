"""Connecting in the background, staying connected, and keeping secrets."""

import asyncio
import contextlib
import time

import nats.errors
import pytest
from dependency_injector import containers, providers
from structlog.testing import capture_logs

from mediator.errors import PublisherUnavailableError, SettingError
from mediator.nats import NatsConnection, NatsServer, open_connection
from mediator.nats.server import _free_ports

PASSWORD = "s3cr%2Ft"
AUTHORIZATION = 'authorization { user: "app", password: "s3cr/t" }'


async def answered(connection: NatsConnection) -> bool:
    with contextlib.suppress(nats.errors.Error, PublisherUnavailableError):
        client = await connection.client("publish", timeout=5)
        await client.request("$JS.API.INFO", timeout=0.3)
        return True
    return False


async def until_answered(connection: NatsConnection) -> None:
    async with asyncio.timeout(15):
        while not await answered(connection):
            await asyncio.sleep(0.05)


async def reason_that_tells(connection: NatsConnection, what: str) -> PublisherUnavailableError:
    async with asyncio.timeout(10):
        while True:
            with pytest.raises(PublisherUnavailableError) as caught:
                await connection.client("publish", timeout=0.2)
            if what in str(caught.value):
                return caught.value


async def test_opening_without_a_server_returns_at_once_and_closes_cleanly() -> None:
    before = asyncio.all_tasks()
    started = time.monotonic()
    async with open_connection(f"nats://127.0.0.1:{_free_ports(1)[0]}") as connection:
        assert time.monotonic() - started < 2
        await reason_that_tells(connection, "Connect call failed")
    assert time.monotonic() - started < 12.5
    assert asyncio.all_tasks() == before


async def test_closing_leaves_no_task_and_the_connection_reports_that_it_is_closed(shared_server: NatsServer) -> None:
    before = asyncio.all_tasks()
    async with open_connection(shared_server.url) as connection:
        await connection.client("publish", timeout=5)
        await connection.client("consume", timeout=5)
    assert asyncio.all_tasks() == before
    with pytest.raises(PublisherUnavailableError, match="closed"):
        await connection.client("publish", timeout=5)


async def test_closing_is_bounded_when_the_server_is_frozen(server: NatsServer) -> None:
    async with open_connection(server.url) as connection:
        client = await connection.client("publish", timeout=5)
        server.suspend()
        for _ in range(64):
            await client.publish("x", b"x" * 500_000)
        started = time.monotonic()
    assert time.monotonic() - started < 5


async def test_a_connection_can_be_a_resource_of_a_container(shared_server: NatsServer) -> None:
    class Container(containers.DeclarativeContainer):
        config = providers.Configuration(strict=True)
        nats = providers.Resource(open_connection, config.nats.url)

    container = Container(config={"nats": {"url": shared_server.url}})
    await container.init_resources()
    connection = await container.nats()
    assert isinstance(connection, NatsConnection)
    assert (await connection.client("publish", timeout=5)).is_connected
    await container.shutdown_resources()
    with pytest.raises(PublisherUnavailableError, match="closed"):
        await connection.client("publish", timeout=1)


async def test_a_server_that_starts_late_is_found() -> None:
    server = NatsServer(port=_free_ports(1)[0])
    async with open_connection(server.url) as connection:
        with pytest.raises(PublisherUnavailableError):
            await connection.client("consume", timeout=0.1)
        await server.start()
        try:
            await connection.client("consume", timeout=10)
        finally:
            await server.stop()


@pytest.mark.thorough("waits in real time, or does much work")
async def test_each_change_of_state_is_one_line_in_the_log(server: NatsServer) -> None:
    lost, back = asyncio.Event(), asyncio.Event()
    with capture_logs() as logs:
        async with open_connection(server.url) as connection:
            await connection.client("publish", timeout=5)
            connection.on_disconnect("publish", lost.set)
            connection.on_connect("publish", back.set)
            await server.kill()
            await asyncio.wait_for(lost.wait(), 5)
            with pytest.raises(PublisherUnavailableError):
                await connection.client("publish", timeout=1.2)
            await server.start()
            await asyncio.wait_for(back.wait(), 10)
            assert connection.epoch("publish") == 2
    states = [("connected", "info"), ("disconnected", "warning"), ("connected", "info"), ("closed", "info")]
    assert [(line["event"], line["log_level"]) for line in logs] == states


async def test_messages_are_refused_during_an_outage_and_not_sent_after_it(server: NatsServer) -> None:
    lost = asyncio.Event()
    async with open_connection(server.url) as connection:
        client = await connection.client("publish", timeout=5)
        connection.on_disconnect("publish", lost.set)
        await server.kill()
        await asyncio.wait_for(lost.wait(), 5)
        with pytest.raises(nats.errors.OutboundBufferLimitError):
            await client.publish("x", b"x")


async def test_an_unexpectedly_closed_client_is_replaced(shared_server: NatsServer) -> None:
    async with open_connection(shared_server.url) as connection:
        first = await connection.client("publish", timeout=5)
        await first.publish("x", b"", headers={"too-large": "x" * (first.max_payload + 1)})
        async with asyncio.timeout(10):
            while await connection.client("publish", timeout=5) is first:
                await asyncio.sleep(0.01)
        assert first.is_closed
        assert await answered(connection)


@pytest.mark.thorough("waits in real time, or does much work")
async def test_the_watchdog_heals_a_client_whose_reader_died(server: NatsServer) -> None:
    async with open_connection(server.url, probe_interval=0.2) as connection:
        client = await connection.client("publish", timeout=5)
        client._reading_task.cancel()
        assert not await answered(connection)
        assert client.is_connected
        await until_answered(connection)
        assert await connection.client("publish", timeout=5) is client


async def test_the_watchdog_recovers_from_a_frozen_server_with_a_full_socket(server: NatsServer) -> None:
    lost = asyncio.Event()
    async with open_connection(server.url, probe_interval=0.2) as connection:
        client = await connection.client("publish", timeout=5)
        connection.on_disconnect("publish", lost.set)
        server.suspend()
        for _ in range(64):
            await client.publish("x", b"x" * 500_000)
        await asyncio.wait_for(lost.wait(), 5)
        server.resume()
        await until_answered(connection)


async def test_no_log_line_or_representation_shows_a_secret() -> None:
    async with NatsServer(settings=AUTHORIZATION) as server:
        url = server.url.replace("nats://", f"nats://app:{PASSWORD}wrong@")
        with capture_logs() as logs:
            async with open_connection([url]) as connection:
                reason = await reason_that_tells(connection, "Authorization")
            shown = f"{connection!r} {connection} {reason} {reason!r} {logs}"
        assert "s3cr" not in shown
        assert server.url in shown


async def test_credentials_are_used_from_the_url_and_from_the_options() -> None:
    async with NatsServer(settings=AUTHORIZATION) as server:
        async with open_connection(server.url.replace("nats://", f"nats://app:{PASSWORD}@")) as connection:
            await connection.client("publish", timeout=5)
        async with open_connection(server.url, user="app", password="s3cr/t") as connection:
            await connection.client("publish", timeout=5)


@pytest.mark.parametrize(
    "url",
    [
        None,
        [],
        "",
        "nats://",
        "http://a:1",
        "nats://u:hidden@host:x",
        "nats://[::1",
        ["nats://a:hidden@h", "nats://b:c@h"],
    ],
)
async def test_an_invalid_url_is_refused_at_once_without_its_password(url) -> None:
    with pytest.raises(SettingError, match="url") as caught:
        async with open_connection(url):
            pass
    assert "hidden" not in str(caught.value)


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_client_without_the_right_to_ask_jetstream_is_not_reconnected() -> None:
    users = 'authorization { users: [{user: a, password: b, permissions: {publish: {deny: "$JS.API.INFO"}}}] }'
    async with NatsServer(settings=users) as server:
        with capture_logs() as logs:
            async with open_connection(server.url, user="a", password="b", probe_interval=0.1) as connection:
                await connection.client("publish", timeout=5)
                async with asyncio.timeout(5):
                    while not any(line["event"] == "refused by the broker" for line in logs):
                        await asyncio.sleep(0.05)
                lost = asyncio.Event()
                connection.on_disconnect("publish", lost.set)
                with pytest.raises(TimeoutError):  # time for ten probes
                    await asyncio.wait_for(lost.wait(), 1)
                assert connection.epoch("publish") == 1
    refusals = [line["reason"] for line in logs if line["event"] == "refused by the broker"]
    assert refusals == ['nats: permissions violation for publish to "$js.api.info"']  # includes the password
