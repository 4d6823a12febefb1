"""Assumptions of the connection about nats-py: its errors, its callbacks and its effects."""

import asyncio

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from mediator.nats import NatsServer
from tests.assumptions.stream import RawStream

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")


class Callbacks:
    """Records the callbacks of a client."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.closed = asyncio.Event()
        self.disconnected = asyncio.Event()
        self.reconnected = asyncio.Event()
        self.failed = asyncio.Event()

    async def error_cb(self, error: Exception) -> None:
        self.errors.append(error)
        self.failed.set()

    async def closed_cb(self) -> None:
        self.closed.set()

    async def disconnected_cb(self) -> None:
        self.disconnected.set()

    async def reconnected_cb(self) -> None:
        self.reconnected.set()

    async def connect(self, server: NatsServer, **options: object) -> Client:
        return await nats.connect(
            server.url,
            error_cb=self.error_cb,
            closed_cb=self.closed_cb,
            disconnected_cb=self.disconnected_cb,
            reconnected_cb=self.reconnected_cb,
            reconnect_time_wait=0.05,
            max_reconnect_attempts=-1,
            **options,
        )


async def test_the_client_refuses_a_payload_that_is_too_large_and_stays_connected(client: Client):
    """`InFlight.send_one` treats `MaxPayloadError` as a refusal of the event."""
    with pytest.raises(nats.errors.MaxPayloadError):
        await client.publish("a", b"x" * (client.max_payload + 1))
    assert client.is_connected


async def test_headers_that_make_a_message_too_large_close_the_connection_permanently(shared_server: NatsServer):
    """`InFlight._send` measures headers and payload together itself, because nats-py does not count headers."""
    callbacks = Callbacks()
    client = await callbacks.connect(shared_server)
    await client.publish("a", b"x" * client.max_payload, headers={"a": "b"})
    async with asyncio.timeout(10):
        await callbacks.closed.wait()
    assert client.is_closed
    with pytest.raises(nats.errors.ConnectionClosedError):
        await client.publish("a", b"")


@pytest.mark.parametrize("name", ["a b", "a:b", "ä"])
async def test_a_header_name_that_cannot_be_sent_is_refused(client: Client, name: str):
    """`InFlight.send_one` treats `BadHeaderError` as a refusal of the event."""
    with pytest.raises((nats.errors.BadHeaderError, ValueError)):
        await client.publish("a", b"", headers={name: "value"})
    assert client.is_connected


async def test_a_line_break_in_a_header_value_cannot_inject_another_header(stream: RawStream):
    """`mediator.nats.binding` encodes values as printable ASCII. This protects against an error in that encoding."""
    try:
        await stream.send(x="one\r\nNats-Rollup: all")
    except (nats.errors.BadHeaderError, ValueError):
        return
    message = await stream.client.jetstream().get_msg(stream.name, 1, direct=True)
    assert set(message.headers or {}) <= {"x", "Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"} | {
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
    }


async def test_headers_come_back_as_they_were_written(stream: RawStream):
    """`mediator.nats.binding` reads headers by their exact names, and relies on unchanged ASCII values."""
    received: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def arrived(message) -> None:
        received.set_result(message.headers)

    await stream.client.subscribe("headers", cb=arrived)
    await stream.client.publish("headers", b"", headers={"ce-Type": "a  b%20", "empty": ""})
    async with asyncio.timeout(10):
        assert await received == {"ce-Type": "a  b%20", "empty": ""}


async def test_a_subject_with_spaces_is_refused_by_the_client(client: Client):
    """`InFlight.send_one` treats `BadSubjectError` as a refusal of the event."""
    with pytest.raises(nats.errors.BadSubjectError):
        await client.publish("a b", b"")
    assert client.is_connected


async def test_a_request_without_a_responder_fails_at_once(client: Client):
    """`SupervisedClient._answers` relies on it: a server without JetStream answers the probe too."""
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request("nobody.here", b"", timeout=10)


async def test_a_client_without_a_buffer_does_not_publish_after_reconnecting(server: NatsServer):
    """`open_connection` sets `pending_size=-1`, so that a publish that failed in an outage is not sent later."""
    callbacks = Callbacks()
    client = await callbacks.connect(server, pending_size=-1)
    received: list[bytes] = []

    async def arrived(message) -> None:
        received.append(message.data)

    await client.subscribe("a", cb=arrived)
    await server.kill()
    async with asyncio.timeout(10):
        await callbacks.disconnected.wait()
    with pytest.raises(nats.errors.OutboundBufferLimitError):
        await client.publish("a", b"lost")
    await server.start()
    async with asyncio.timeout(10):
        await callbacks.reconnected.wait()
    await client.publish("a", b"kept")
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request("nobody", b"", timeout=10)
    assert received == [b"kept"]
    await client.close()


async def test_a_reconnected_client_keeps_its_subscriptions(server: NatsServer):
    """Publishers, pullers and doorbells open their inboxes once for each client."""
    callbacks = Callbacks()
    client = await callbacks.connect(server, pending_size=-1)
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def arrived(message) -> None:
        received.set_result(message.data)

    await client.subscribe("a.*", cb=arrived)
    await server.restart()
    async with asyncio.timeout(10):
        await callbacks.reconnected.wait()
        await client.publish("a.b", b"heard")
        assert await received == b"heard"
    await client.close()


async def test_the_error_callback_reports_a_slow_subscriber_and_the_client_stays_connected(shared_server: NatsServer):
    """Callbacks of inboxes never wait, so this must not occur; if it does, the log has a `SlowConsumerError`."""
    callbacks = Callbacks()
    client = await callbacks.connect(shared_server)
    let_go = asyncio.Event()

    async def arrived(_message) -> None:
        await let_go.wait()

    await client.subscribe("slow", cb=arrived, pending_msgs_limit=1)
    for _ in range(10):
        await client.publish("slow", b"")
    async with asyncio.timeout(10):
        await callbacks.failed.wait()
    assert isinstance(callbacks.errors[0], nats.errors.SlowConsumerError)
    assert client.is_connected
    let_go.set()
    await client.close()


async def test_callbacks_of_one_subscription_run_one_after_another_in_order(client: Client):
    """Deliveries to a puller and answers to `InFlight` are processed in the order in which the server sent them."""
    received: list[int] = []
    done = asyncio.Event()

    async def arrived(message) -> None:
        await asyncio.sleep(0)
        received.append(int(message.data))
        if len(received) == 100:
            done.set()

    await client.subscribe("row", cb=arrived)
    for number in range(100):
        await client.publish("row", str(number).encode())
    async with asyncio.timeout(10):
        await done.wait()
    assert received == list(range(100))


async def test_a_cancelled_request_leaves_the_client_unchanged(client: Client):
    """`supervised.ask` bounds the time of a request by cancelling the request."""
    subscription = await client.subscribe("silent")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.request("silent", b"", timeout=None)
    await subscription.unsubscribe()
    assert (await client.request("$JS.API.INFO", b"", timeout=10)).data
