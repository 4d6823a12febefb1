"""Requests over NATS: no request leaves anything behind, and every wait is bounded, each time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mediator.distributed.requests import IncomingCalls, RemoteCall, RemoteReply, ReplyStatus
from mediator.errors import PublisherUnavailableError
from mediator.nats import NatsRequestChannel
from tests.adapters.nats.offline import OfflineClient, OfflineConnection
from tests.unit.virtual_time import in_virtual_time, now, settle


def call(timeout: float = 5.0, data: bytes = b"{}") -> RemoteCall:
    return RemoteCall("tools.echo", data, timeout)


def channel_of(connection: OfflineConnection) -> NatsRequestChannel:
    return NatsRequestChannel(connection, "tools")  # type: ignore[arg-type]


def answering(connection: OfflineConnection, **said: str) -> None:
    client = connection.current

    async def on_publish(_subject: str, _data: bytes, reply: str, _headers: dict[str, str]) -> None:
        if reply:
            await client.deliver(reply, b'"x"', headers={"mediator-status": "ok", **said})

    client.on_publish = on_publish


@pytest.mark.parametrize("how", ["answered", "nobody", "late", "lost", "refused", "cancelled", "closed"])
@in_virtual_time
async def test_a_request_leaves_no_listener_and_no_subscription_in_any_outcome(how: str) -> None:
    connection = OfflineConnection()
    channel, before = channel_of(connection), connection.counts()
    tasks = asyncio.all_tasks()
    for _ in range(3):
        if how == "answered":
            answering(connection)
        elif how == "nobody":
            connection.current.on_publish = _nobody(connection.current)
        elif how == "closed":
            connection.current.error = OSError("closed")
        asking = asyncio.create_task(channel.call(call(data=b"x" * (2_000_000 if how == "refused" else 1))))
        await settle()
        began = now()
        if how == "lost":
            connection.lose()
        elif how == "cancelled":
            asking.cancel()
        await asyncio.wait((asking,))
        assert now() - began == (5.0 if how == "late" else 0.0)
        if how == "lost":
            connection.reconnect()
        assert connection.counts() == before
        expected = {
            "nobody": PublisherUnavailableError,
            "late": TimeoutError,
            "lost": TimeoutError,
            "refused": ValueError,
            "closed": PublisherUnavailableError,
        }
        if how == "answered":
            assert asking.result().status is ReplyStatus.OK
        elif how != "cancelled":
            assert isinstance(asking.exception(), expected[how])
        assert asyncio.all_tasks() == tasks


def _nobody(client: OfflineClient) -> Any:
    async def on_publish(_subject: str, _data: bytes, reply: str, _headers: dict[str, str]) -> None:
        if reply:
            await client.deliver(reply, b"", headers={"Status": "503"})

    return on_publish


@in_virtual_time
async def test_a_request_ends_at_its_timeout_and_sends_the_timeout_along() -> None:
    connection = OfflineConnection()
    channel = channel_of(connection)
    for timeout in (0.25, 7.0, 600.0):
        began = now()
        with pytest.raises(TimeoutError):
            await channel.call(call(timeout))
        assert now() - began == pytest.approx(timeout)
        assert connection.current.published[-1][4]["mediator-timeout"] == f"{timeout:.3f}"
    connection.lose()
    for timeout, waited in ((0.25, 0.25), (60.0, 1.0)):  # a missing connection is noticed after a second
        began = now()
        with pytest.raises(PublisherUnavailableError):  # the error must say that the request was not sent
            await channel.call(call(timeout))
        assert now() - began == pytest.approx(waited)


@pytest.mark.parametrize(("timeout", "told"), [(5.0, "4.250"), (0.7505, "0.001")])
@in_virtual_time
async def test_the_sent_timeout_excludes_the_time_spent_waiting_for_a_connection(timeout: float, told: str) -> None:
    connection = OfflineConnection()
    channel = channel_of(connection)
    for _ in range(2):
        connection.lose()
        began = now()
        asking = asyncio.create_task(channel.call(call(timeout)))
        await asyncio.sleep(0.75)
        connection.reconnect()
        with pytest.raises(TimeoutError):
            await asking
        assert now() - began == pytest.approx(timeout)
        assert connection.current.published[-1][4]["mediator-timeout"] == told


@in_virtual_time
async def test_the_first_answer_counts_and_a_second_one_does_no_harm() -> None:
    connection = OfflineConnection()
    client, channel = connection.current, channel_of(connection)

    async def twice(_subject: str, _data: bytes, reply: str, _headers: dict[str, str]) -> None:
        for data in (b'"first"', b'"second"'):
            await client.deliver(reply, data, headers={"mediator-status": "ok"})

    client.on_publish = twice
    assert (await channel.call(call())).data == b'"first"'


@asynccontextmanager
async def serving(connection: OfflineConnection, *, waiting: int = 2) -> AsyncIterator[IncomingCalls]:
    async with channel_of(connection).serve(["tools.echo", "tools.other"], waiting=waiting) as calls:
        await settle()
        yield calls


async def ask(client: OfflineClient, number: int, name: str = "echo", **headers: str) -> None:
    assert await client.deliver(f"requests.tools.{name}", b"%d" % number, reply=inbox(number), headers=headers)


def replies(client: OfflineClient) -> list[tuple[str, str]]:
    return [(subject, headers["mediator-status"]) for _, subject, _, _, headers in client.sent_to("_INBOX.*")]


def inbox(number: int) -> str:
    return f"_INBOX.22characters0fNoM0re1d.{number}"


@in_virtual_time
async def test_a_limited_number_of_requests_waits_in_order_and_further_ones_are_answered_busy() -> None:
    connection = OfflineConnection()
    client = connection.current
    async with serving(connection, waiting=3) as calls:
        for first in (0, 10):
            client.published.clear()
            for number in range(first, first + 5):
                await ask(client, number)
            assert replies(client) == [(inbox(first + 3), "busy"), (inbox(first + 4), "busy")]
            for number in range(first, first + 3):
                incoming = await calls.next()
                assert (incoming.call.name, incoming.call.data) == ("tools.echo", b"%d" % number)
                await incoming.reply(RemoteReply(ReplyStatus.OK))
        await ask(client, 99)
    assert replies(client)[-1] == (inbox(99), "busy")
    assert client.subscriptions == {}


@in_virtual_time
async def test_an_incoming_request_knows_its_waiting_time_and_the_timeout_of_its_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = OfflineConnection()
    monkeypatch.setattr("mediator.nats.requests.time", Clock)
    async with serving(connection) as calls:
        await ask(connection.current, 1, **{"Mediator-Timeout": "12.5"})
        await asyncio.sleep(4)
        incoming = await calls.next()
        assert (incoming.waited, incoming.call.timeout, incoming.call.headers) == (4.0, 12.5, {})
        await asyncio.sleep(3)
        assert incoming.waited == 7.0
        for wrong in ("0", "-1", "3601", "3600.001", "nan", "soon"):
            await ask(connection.current, 2, **{"mediator-timeout": wrong})
        assert replies(connection.current) == [(inbox(2), "refused")] * 6
        told: tuple[tuple[dict[str, str], float], ...] = (({"mediator-timeout": "3600"}, 3600.0), ({}, 5.0))
        for given, seconds in told:  # a foreign sender may omit the header
            await ask(connection.current, 3, **given)
            async with asyncio.timeout(1):
                assert (await calls.next()).call.timeout == seconds


class Clock:
    monotonic = staticmethod(now)


@in_virtual_time
async def test_a_responder_subscribes_once_on_each_new_client_and_leaves_nothing_behind() -> None:
    connection = OfflineConnection()
    before = connection.counts()
    tasks = asyncio.all_tasks()
    async with serving(connection) as calls:
        names = ["requests.tools.echo", "requests.tools.other"]
        for _ in range(2):
            assert sorted(each.subject for each in connection.current.subscriptions.values()) == names
            assert {each.queue for each in connection.current.subscriptions.values()} == {"tools"}
            connection.lose()
            await asyncio.sleep(30)
            connection.reconnect()  # the client reconnects without replacement and keeps its subscriptions
            await settle()
            assert len(connection.current.subscriptions) == 2
            connection.lose()
            connection.current.is_closed = True
            client = OfflineClient()
            connection.reconnect(client=client)
            await asyncio.sleep(1)
            await ask(client, 5)
            incoming = await calls.next()
            await incoming.reply(RemoteReply(ReplyStatus.OK))
            assert replies(client) == [(inbox(5), "ok")]
    assert connection.counts() == before
    assert asyncio.all_tasks() == tasks


@in_virtual_time
async def test_a_responder_without_a_connection_does_not_spin() -> None:
    connection = OfflineConnection()
    connection.lose()
    async with serving(connection):
        await asyncio.sleep(60)
        assert 10 <= len(connection.asked) <= 15
        assert {timeout for _, timeout in connection.asked} == {5.0}
        connection.reconnect()
        await settle()
        assert len(connection.current.subscriptions) == 2


@in_virtual_time
async def test_a_failed_subscription_is_retried_at_intervals() -> None:
    connection = OfflineConnection()
    connection.current.subscribe_error = OSError("closed")
    async with serving(connection):
        for _ in range(2):
            connection.asked.clear()
            await asyncio.sleep(10)
            assert 50 <= len(connection.asked) <= 110
        connection.current.subscribe_error = None
        await asyncio.sleep(0.2)
        assert len(connection.current.subscriptions) == 2


@in_virtual_time
async def test_successful_subscriptions_are_not_repeated_when_others_are_retried() -> None:
    connection = OfflineConnection()
    client = connection.current
    subscribe = client.subscribe

    async def only_the_first(subject: str, **options: Any) -> Any:
        if subject.endswith("other"):
            raise OSError("closed")
        return await subscribe(subject, **options)

    client.subscribe = only_the_first  # type: ignore[method-assign]
    async with serving(connection):
        await asyncio.sleep(10)
        assert len(client.subscriptions) == 1
        client.subscribe = subscribe  # type: ignore[method-assign]
        await asyncio.sleep(0.2)
        assert sorted(each.subject for each in client.subscriptions.values()) == [
            "requests.tools.echo",
            "requests.tools.other",
        ]
    assert client.subscriptions == {}


@in_virtual_time
async def test_leaving_ends_within_about_a_second() -> None:
    connection = OfflineConnection()
    client = connection.current
    async with serving(connection) as calls:
        began = now()
        del calls
        for each in client.subscriptions.values():
            each.pending_msgs = 0
    assert now() - began <= 1.0
    assert client.requests != []


@in_virtual_time
async def test_a_request_that_arrives_during_leaving_is_answered_busy() -> None:
    connection = OfflineConnection()
    client = connection.current
    async with serving(connection):
        subscriptions = dict(client.subscriptions)

        async def late(_subject: str, _body: bytes) -> dict[str, Any]:
            client.subscriptions.update(subscriptions)  # the request was already on its way
            await ask(client, 1)
            client.subscriptions.clear()
            return {}

        client.answer = late
    assert [status for _, status in replies(client)] == ["busy"]


@in_virtual_time
async def test_the_reason_of_an_answer_is_shortened_to_fit_into_a_header() -> None:
    connection = OfflineConnection()
    async with serving(connection) as calls:
        await ask(connection.current, 1)
        await (await calls.next()).reply(RemoteReply(ReplyStatus.FAILED, reason="x" * 100_000))
        [(_, _, _, _, headers)] = connection.current.sent_to("_INBOX.*")
        assert len(headers["mediator-reason"]) == 2000
