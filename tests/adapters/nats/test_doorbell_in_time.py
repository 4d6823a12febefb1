"""The doorbell on the second connection, in an outage, and when it rings all the time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors

from mediator.nats import NatsDoorbell, open_doorbell
from tests.adapters.nats.offline import OfflineClient, OfflineConnection
from tests.unit.virtual_time import in_virtual_time, settle

SUBJECT = "mediator-wake.shop"


@asynccontextmanager
async def opened(connection: OfflineConnection) -> AsyncIterator[NatsDoorbell]:
    async with open_doorbell(connection, "shop") as doorbell:  # type: ignore[arg-type]
        await settle()
        yield doorbell


def rings(client: OfflineClient) -> list[bytes]:
    return [body for _, _, body, _, _ in client.sent_to(SUBJECT) if not body.endswith(b"opened")]


@in_virtual_time
async def test_rings_in_quick_succession_are_sent_as_one_and_later_ones_separately() -> None:
    connection = OfflineConnection()
    async with opened(connection) as doorbell:
        for _ in range(1000):
            doorbell.ring()
        await asyncio.sleep(0.1)
        assert len(rings(connection.current)) == 1
        for _ in range(200):
            doorbell.ring()
            await asyncio.sleep(0.001)
        assert 30 <= len(rings(connection.current)) <= 45  # every 5 ms
        before = len(rings(connection.current))
        await asyncio.sleep(0.1)
        for _ in range(3):
            doorbell.ring()
            await asyncio.sleep(1)
        assert len(rings(connection.current)) in (before + 3, before + 4)


@in_virtual_time
async def test_a_doorbell_sends_and_receives_rings_after_an_outage() -> None:
    connection, heard = OfflineConnection(), list[int]()
    before, tasks = connection.counts(), asyncio.all_tasks()
    async with opened(connection) as doorbell:
        doorbell.on_ring(lambda: heard.append(1))
        for _ in range(3):
            connection.lose()
            doorbell.ring()
            await asyncio.sleep(60)
            assert len(connection.asked) < 100
            connection.asked.clear()
            connection.reconnect()
            await asyncio.sleep(0.1)
            assert len(connection.current.subscriptions) == 1
            connection.current.published.clear()
            doorbell.ring()
            await asyncio.sleep(1)
            assert len(rings(connection.current)) == 1
            heard.clear()
            await connection.current.deliver(SUBJECT, b"another process...")
            assert heard == [1]
    connection.current.subscriptions.clear()
    assert connection.counts() == before
    assert asyncio.all_tasks() == tasks


@in_virtual_time
async def test_a_doorbell_resubscribes_on_a_new_client_and_wakes_its_listeners() -> None:
    connection, heard = OfflineConnection(), list[int]()
    async with opened(connection) as doorbell:
        doorbell.on_ring(lambda: heard.append(1))
        doorbell.on_ring(lambda: heard.append(2))
        for _ in range(2):
            connection.lose()
            connection.reconnect(client=OfflineClient())
            await asyncio.sleep(1)
            client = connection.current
            [subscription] = client.subscriptions.values()
            assert subscription.subject == SUBJECT
            [told] = [body for _, _, body, _, _ in client.published if body.endswith(b"opened")]
            heard.clear()
            await client.deliver(SUBJECT, told)  # its own ring comes back: from now on it listens
            assert heard == [1, 2]
            own = told.removesuffix(b"opened")
            await client.deliver(SUBJECT, own)
            assert heard == [1, 2]  # it ignores its own rings
            await client.deliver(SUBJECT, b"another process.")
            assert heard == [1, 2, 1, 2]
            await client.deliver(SUBJECT, b"another process.opened")
            assert heard == [1, 2, 1, 2]


@in_virtual_time
async def test_a_doorbell_subscribes_before_it_announces_itself() -> None:
    connection, listening = OfflineConnection(), list[int]()
    client = connection.current

    async def on_publish(_subject: str, _data: bytes, _reply: str, _headers: dict[str, str]) -> None:
        listening.append(len(client.subscriptions))

    client.on_publish = on_publish
    async with opened(connection):
        assert listening == [1]


@in_virtual_time
async def test_a_doorbell_retries_a_failed_subscription() -> None:
    connection = OfflineConnection()
    async with opened(connection):
        for _ in range(2):
            client = OfflineClient()
            client.subscribe_error = nats.errors.ConnectionClosedError()
            connection.lose()
            connection.reconnect(client=client)
            await asyncio.sleep(1)
            assert client.subscriptions == {}
            client.subscribe_error = None
            await asyncio.sleep(1)
            assert [each.subject for each in client.subscriptions.values()] == [SUBJECT]


@in_virtual_time
async def test_a_doorbell_with_a_closed_connection_does_not_spin() -> None:
    connection = OfflineConnection()
    connection.closed = True
    async with opened(connection) as doorbell:
        for _ in range(100):
            doorbell.ring()
            await asyncio.sleep(0.01)
        assert len(connection.asked) <= 420


@in_virtual_time
async def test_a_ring_during_the_sending_of_another_one_is_sent() -> None:
    connection = OfflineConnection()
    async with opened(connection) as doorbell:

        async def ring_again(*_: object) -> None:
            if len(rings(connection.current)) == 1:
                doorbell.ring()

        connection.current.on_publish = ring_again
        doorbell.ring()
        await asyncio.sleep(1)
        assert len(rings(connection.current)) == 2


@in_virtual_time
async def test_a_doorbell_resubscribes_on_a_client_that_is_replaced_during_its_subscription() -> None:
    connection, told = OfflineConnection(), list[bytes]()

    async def reconnect_once(_subject: str, data: bytes, *_: object) -> None:
        told.append(data)
        if len(told) == 1:
            connection.reconnect()

    connection.current.on_publish = reconnect_once
    async with opened(connection):
        await asyncio.sleep(1)
    assert [data.endswith(b"opened") for data in told] == [True, True]


@in_virtual_time
async def test_a_doorbell_survives_a_ring_that_the_client_refuses() -> None:
    connection = OfflineConnection()
    async with opened(connection) as doorbell:
        for error in (nats.errors.OutboundBufferLimitError(), OSError("broken pipe")):
            connection.current.error = error
            doorbell.ring()
            await asyncio.sleep(1)
            connection.current.error = None
            connection.current.published.clear()
            doorbell.ring()
            await asyncio.sleep(1)
            assert len(rings(connection.current)) == 1


@in_virtual_time
async def test_a_failing_listener_does_not_keep_rings_from_other_listeners() -> None:
    connection, heard = OfflineConnection(), list[int]()

    def fail() -> None:
        raise LookupError

    async with opened(connection) as doorbell:
        doorbell.on_ring(fail)
        doorbell.on_ring(lambda: heard.append(1))
        for _ in range(2):
            await connection.current.deliver(SUBJECT, b"another process.")
    assert heard == [1, 1]
