"""NatsRequestChannel: outages, sizes and strangers on the subjects of requests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar

import nats
import pytest

from mediator import Query
from mediator.distributed.requests import RemoteCall, RemoteSender, RequestResponder, trust_broker
from mediator.errors import (
    PublisherUnavailableError,
    RemoteFailedError,
    RemoteRefusedError,
    RemoteResponseError,
    RemoteTimeoutError,
    RemoteUnavailableError,
    SettingError,
)
from mediator.nats import NatsRequestChannel, NatsServer, open_connection
from tests.unit.wiring import handles, wire


@dataclass(frozen=True)
class Echo(Query[str]):
    request_type: ClassVar[str] = "tools.echo"
    text: str


async def echo(request: Echo) -> str:
    if request.text.startswith("repeat:"):
        return request.text[7] * int(request.text[8:])
    return request.text


@contextlib.asynccontextmanager
async def echoing(url: str, work: Any = echo, **options: Any) -> AsyncIterator[RemoteSender]:
    async with open_connection(url) as there, open_connection(url) as here:
        channel = NatsRequestChannel(there, "tools")
        responder = RequestResponder(
            channel, wire(handles(Echo, work)), exposes=[Echo], authenticate=trust_broker, drain_timeout=0.5, **options
        )
        running = asyncio.create_task(responder.run())
        sender = RemoteSender(NatsRequestChannel(here, "client"))
        try:
            await answered(sender)
            yield sender
        finally:
            running.cancel()
            await asyncio.wait({running})


async def answered(sender: RemoteSender) -> None:
    """Wait until the responder listens, again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await sender.send(Echo("?"), timeout=1)
            except (RemoteUnavailableError, RemoteTimeoutError):
                await asyncio.sleep(0.02)
            else:
                return


async def test_any_text_is_answered_unchanged(shared_server: NatsServer):
    async with echoing(shared_server.url) as sender:
        for text in ("", "\x1b[31mrot\r\nX: y", "grüße 😀", "x" * 100_000):
            assert await sender.send(Echo(text)) == text


async def test_a_responder_answers_again_after_a_crash_and_restart_of_the_broker(server: NatsServer):
    async with echoing(server.url) as sender:
        await server.kill()
        with pytest.raises((RemoteUnavailableError, RemoteTimeoutError)):
            await sender.send(Echo("away"), timeout=0.5)
        await server.start()
        await answered(sender)


async def test_a_connection_lost_while_waiting_ends_the_wait_without_saying_whether_it_was_handled(server: NatsServer):
    begun = asyncio.Event()

    async def never(request: Echo) -> str:
        if request.text != "?":
            begun.set()
            await asyncio.Event().wait()
        return ""

    async with echoing(server.url, never) as sender:
        waiting = asyncio.create_task(sender.send(Echo("wait"), timeout=60))
        await begun.wait()
        await server.kill()
        with pytest.raises(RemoteTimeoutError):
            async with asyncio.timeout(10):
                await waiting


async def test_a_request_to_a_frozen_broker_ends_at_its_timeout(server: NatsServer):
    async with echoing(server.url) as sender:
        server.suspend()
        try:
            with pytest.raises((RemoteTimeoutError, RemoteUnavailableError)):
                async with asyncio.timeout(5):
                    await sender.send(Echo("x"), timeout=0.5)
        finally:
            server.resume()


async def test_a_too_large_request_is_refused_by_the_sender_and_a_too_large_response_by_the_responder(
    shared_server: NatsServer,
):
    async with echoing(shared_server.url) as sender:
        with pytest.raises(RemoteRefusedError, match="the broker takes at most"):
            await sender.send(Echo("x" * 1_100_000))
        with pytest.raises(
            RemoteResponseError, match=r"was handled .* the broker takes at most .* has logged it as \S+"
        ):
            await sender.send(Echo("repeat:x1100000"))
        assert await sender.send(Echo("still there")) == "still there"


async def test_invalid_requests_of_a_stranger_are_refused_and_requests_without_a_reply_subject_dropped(
    shared_server: NatsServer,
):
    async with echoing(shared_server.url) as sender:
        stranger = await nats.connect(shared_server.url)
        try:
            await stranger.publish("requests.tools.echo", b"no reply wanted")
            for headers, data in (
                (None, b"\xff\xfe"),
                ({"mediator-timeout": "soon"}, b'{"text": "x"}'),
                ({"mediator-timeout": "-1"}, b'{"text": "x"}'),
                ({"mediator-timeout": "nan"}, b'{"text": "x"}'),
                ({"correlationid": "%0d%0aX: y"}, b'{"text": "x"}'),
                (None, b'{"text": ' + b"[" * 100_000),
                (None, b""),
            ):
                answer = await stranger.request("requests.tools.echo", data, timeout=5, headers=headers)
                assert (answer.headers or {})["mediator-status"] == "refused"
            plain = await stranger.request("requests.tools.echo", b'{"text": "x"}', timeout=5)
            assert (plain.data, (plain.headers or {})["mediator-status"]) == (b'"x"', "ok")
        finally:
            await stranger.close()
        assert await sender.send(Echo("still there")) == "still there"


async def test_an_answer_of_another_program_is_not_taken_for_a_response(shared_server: NatsServer):
    stranger = await nats.connect(shared_server.url)

    async def answer(message: Any) -> None:
        await message.respond(b'"mine"')

    await stranger.subscribe("requests.tools.echo", cb=answer)
    await stranger.flush()
    try:
        async with open_connection(shared_server.url) as connection:
            with pytest.raises(RemoteFailedError, match="not sent by this library"):
                await RemoteSender(NatsRequestChannel(connection, "client")).send(Echo("x"))
    finally:
        await stranger.close()


async def test_credentials_are_in_no_representation_of_a_call():
    assert "t0ken" not in repr(RemoteCall("tools.echo", b"secret", 1.0, {"authorization": "t0ken"}))
    assert "secret" not in repr(RemoteCall("tools.echo", b"secret", 1.0))


async def test_invalid_names_are_refused(shared_server: NatsServer):
    async with open_connection(shared_server.url) as connection:
        with pytest.raises(SettingError, match="application"):
            NatsRequestChannel(connection, "")
        with pytest.raises(SettingError, match="prefix"):
            NatsRequestChannel(connection, "tools", prefix="a.b")


async def test_a_failure_with_a_too_large_text_is_reported_without_it_and_not_as_handled() -> None:
    async def work(request: Echo) -> str:
        if request.text == "fail":
            raise LookupError("x" * 2000)
        return "fine"

    small = NatsServer(settings="max_payload: 1024")
    async with small as server, echoing(server.url, work, shown_errors=(LookupError,)) as sender:
        with pytest.raises(RemoteFailedError) as caught:
            await sender.send(Echo("fail"))
        assert caught.value.reference
        assert await sender.send(Echo("?")) == "fine"


async def test_a_forbidden_request_fails_at_once() -> None:
    settings = 'authorization { users = [{ user: u, password: p, permissions: { publish: { deny: "requests.>" } } }] }'
    async with NatsServer(settings=settings) as server:
        url = server.url.replace("nats://", "nats://u:p@")
        async with open_connection(url) as connection, asyncio.timeout(20):
            sender = RemoteSender(NatsRequestChannel(connection, "client"), timeout=60)
            for _ in range(2):
                with pytest.raises(
                    RemoteUnavailableError, match=r"this application's user may not publish to requests\.tools\.echo"
                ):
                    await sender.send(Echo("x"))


async def test_no_listener_for_refusals_remains_after_many_requests(shared_server: NatsServer):
    async with open_connection(shared_server.url) as connection:
        client: Any = await connection.client("publish", timeout=5)
        before = len(client._on_denied)
        for _ in range(3):
            with pytest.raises(PublisherUnavailableError):
                await NatsRequestChannel(connection, "tools").call(RemoteCall("tools.nobody", b"{}", 5.0))
        assert len(client._on_denied) == before
