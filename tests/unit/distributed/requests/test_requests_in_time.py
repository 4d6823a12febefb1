"""Requests to other applications: every wait counts against the sender's timeout."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from mediator import Query
from mediator.distributed.requests import (
    IncomingCall,
    IncomingCalls,
    RemoteCall,
    RemoteReply,
    RemoteSender,
    ReplyStatus,
    RequestChannel,
    RequestResponder,
    trust_broker,
)
from mediator.errors import RemoteFailedError, RemoteTimeoutError, RemoteUnavailableError, SettingError
from mediator.msgspec import MsgspecRequestCodec
from tests.unit.virtual_time import in_virtual_time, now, settle
from tests.unit.wiring import handles, wire


@dataclass(frozen=True)
class Work(Query[str]):
    request_type: ClassVar[str] = "tools.work"
    name: str
    seconds: float = 0.0


class Call(IncomingCall):
    def __init__(self, call: RemoteCall, channel: "Channel") -> None:
        self.call = call
        self.arrived = now()
        self.answer: asyncio.Future[RemoteReply] = asyncio.get_running_loop().create_future()
        self._channel = channel

    @property
    def waited(self) -> float:
        return now() - self.arrived

    async def reply(self, reply: RemoteReply, /) -> None:
        await asyncio.sleep(self._channel.reply_seconds)
        if not self.answer.done():
            self.answer.set_result(reply)


class Channel(RequestChannel, IncomingCalls):
    """A channel between a sender and a responder on the clock of the loop. Records every call."""

    def __init__(self) -> None:
        self.codec = MsgspecRequestCodec()
        self.place = "here"
        self.calls: list[RemoteCall] = []
        self.reply_seconds = 0.0
        self.waiting: list[int] = []
        self._waiting: deque[Call] = deque()
        self._news = asyncio.Event()

    async def call(self, call: RemoteCall, /) -> RemoteReply:
        self.calls.append(call)
        incoming = Call(call, self)
        self._waiting.append(incoming)
        self._news.set()
        async with asyncio.timeout(call.timeout):
            return await incoming.answer

    @asynccontextmanager
    async def serve(self, _names: Collection[str], /, *, waiting: int) -> AsyncGenerator[IncomingCalls]:
        self.waiting.append(waiting)
        yield self

    async def next(self) -> IncomingCall:
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


class Server:
    """A handler that takes the seconds of each request, and records when each request began and ended."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.cancelled: dict[str, float] = {}

    async def work(self, request: Work) -> str:
        self.began[request.name] = now()
        try:
            await asyncio.sleep(request.seconds)
        except asyncio.CancelledError:
            self.cancelled[request.name] = now()
            raise
        self.ended[request.name] = now()
        return request.name

    @asynccontextmanager
    async def serving(self, channel: Channel, **options: Any) -> AsyncGenerator[None]:
        given: dict[str, Any] = {"authenticate": trust_broker, **options}
        responder = RequestResponder(channel, wire(handles(Work, self.work)), exposes=[Work], **given)
        task = asyncio.create_task(responder.run())
        await settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))


async def failed(sender: RemoteSender, request: Work, timeout: float) -> float:
    with pytest.raises(RemoteTimeoutError):
        await sender.send(request, timeout=timeout)
    return now()


@in_virtual_time
async def test_a_handler_is_cancelled_when_its_sender_gives_up_however_long_the_request_had_waited() -> None:
    channel, server = Channel(), Server()
    sender = RemoteSender(channel)
    async with server.serving(channel, concurrency=1):
        first = asyncio.create_task(sender.send(Work("first", 3.0), timeout=10))
        await settle()
        assert await failed(sender, Work("second", 60.0), 5.0) == 5.0
        await settle()
        assert server.cancelled == {"second": 5.0}
        assert await first == "first"
        assert await sender.send(Work("third"), timeout=5) == "third"


@in_virtual_time
async def test_a_waiting_request_whose_sender_has_given_up_is_not_started() -> None:
    channel, server = Channel(), Server()
    sender = RemoteSender(channel)
    with capture_logs() as logs:
        async with server.serving(channel, concurrency=1):
            first = asyncio.create_task(sender.send(Work("first", 6.0), timeout=10))
            await settle()
            assert await failed(sender, Work("second"), 5.0) == 5.0
            await first
            assert await sender.send(Work("third"), timeout=5) == "third"
    assert list(server.began) == ["first", "third"]
    [line] = [line for line in logs if line["event"] == "request given up"]
    assert (line["request"], line["log_level"]) == (Work.request_type, "warning")


@in_virtual_time
async def test_authentication_shares_the_remaining_time_with_the_handler() -> None:
    channel, server = Channel(), Server()

    async def slow(call: RemoteCall) -> None:
        await asyncio.sleep(4.0 if b"slow" in call.data else 100.0)

    sender = RemoteSender(channel)
    async with server.serving(channel, concurrency=1, authenticate=slow):
        with capture_logs() as logs:
            assert await failed(sender, Work("slow", 60.0), 10.0) == 10.0
            assert await failed(sender, Work("never"), 10.0) == 20.0
            await settle()
        assert server.began == {"slow": 4.0}
        assert server.cancelled == {"slow": 10.0}
    assert [line["event"] for line in logs] == ["request failed", "request refused"]


@in_virtual_time
async def test_authentication_and_handling_together_take_no_longer_than_the_limit_of_the_responder() -> None:
    channel, server = Channel(), Server()

    async def slow(_call: RemoteCall) -> None:
        await asyncio.sleep(4.0)

    sender = RemoteSender(channel, timeout=1000)
    async with server.serving(channel, concurrency=1, authenticate=slow, handler_timeout=10.0):
        for name in ("a", "b"):  # the second request waits for ten seconds, which do not count for its handler
            with pytest.raises(RemoteFailedError):
                await asyncio.gather(*(sender.send(Work(f"{name}{number}", 60.0)) for number in range(2)))
            await asyncio.sleep(10)
    assert server.began == {"a0": 4.0, "a1": 14.0, "b0": 24.0, "b1": 34.0}
    assert server.cancelled == {"a0": 10.0, "a1": 20.0, "b0": 30.0, "b1": 40.0}


@in_virtual_time
async def test_fetching_credentials_shortens_the_timeout_that_is_sent() -> None:
    channel, server = Channel(), Server()

    async def credentials() -> dict[str, str]:
        await asyncio.sleep(seconds)
        return {}

    sender = RemoteSender(channel, timeout=5.0, credentials=credentials)
    async with server.serving(channel):
        seconds = 2.0
        assert await sender.send(Work("a")) == "a"
        assert channel.calls[-1].timeout == pytest.approx(3.0)
        assert await sender.send(Work("b"), timeout=8.0) == "b"
        assert channel.calls[-1].timeout == pytest.approx(6.0)
        began = now()
        assert await failed(sender, Work("c", 100.0), 8.0) - began == pytest.approx(8.0)
        seconds, began = 30.0, now()
        for timeout, given in ((None, 5.0), (8.0, 8.0)):
            with pytest.raises(RemoteUnavailableError):
                await sender.send(Work("d"), timeout=timeout)
            assert now() - began == pytest.approx(given)
            began = now()


@in_virtual_time
async def test_the_timeout_of_one_request_is_checked_and_reported_like_the_default_timeout() -> None:
    channel = Channel()
    sender = RemoteSender(channel, timeout=5.0)
    for wrong in (0.0, -1.0, 3600.5):
        with pytest.raises(SettingError):
            await sender.send(Work("a"), timeout=wrong)
    assert channel.calls == []
    for timeout, told in ((None, "5 s"), (8.0, "8 s")):
        with pytest.raises(RemoteTimeoutError, match=told):
            await sender.send(Work("a"), timeout=timeout)


@in_virtual_time
async def test_an_answer_that_cannot_be_sent_blocks_a_worker_for_five_seconds_only() -> None:
    channel, server = Channel(), Server()
    sender = RemoteSender(channel)
    async with server.serving(channel, concurrency=1):
        for number in range(2):
            channel.reply_seconds = 1000.0
            with capture_logs() as logs:
                await failed(sender, Work(f"lost {number}"), 4.0)
                channel.reply_seconds = 0.0
                began = now()
                assert await sender.send(Work(f"next {number}"), timeout=60) == f"next {number}"
            assert now() - began == pytest.approx(1.0)
            assert [line["event"] for line in logs] == ["answer not sent"]


@pytest.mark.parametrize("concurrency", [1, 3])
@in_virtual_time
async def test_requests_are_handled_up_to_the_concurrency_and_wait_up_to_the_configured_number(
    concurrency: int,
) -> None:
    channel, server = Channel(), Server()
    sender = RemoteSender(channel, timeout=100)
    async with server.serving(channel, concurrency=concurrency, waiting=7), asyncio.TaskGroup() as group:
        for number in range(2 * concurrency):
            group.create_task(sender.send(Work(f"{number}", 10.0)))
    assert sorted(server.began.values()) == [0.0] * concurrency + [10.0] * concurrency
    assert channel.waiting == [7]


@in_virtual_time
async def test_a_stopping_responder_waits_for_running_requests_no_longer_than_its_drain_timeout() -> None:
    channel, server = Channel(), Server()
    sender = RemoteSender(channel, timeout=1000)
    async with server.serving(channel, drain_timeout=25.0):
        sending = [asyncio.create_task(sender.send(Work(name, seconds))) for name, seconds in (("a", 24), ("b", 900))]
        await settle()
    assert now() == pytest.approx(25.0, abs=0.1)
    assert await sending[0] == "a"
    assert server.cancelled == {"b": 25.0}
    sending[1].cancel()
    await asyncio.wait(sending)


@in_virtual_time
async def test_excess_requests_and_those_waiting_at_the_stop_are_answered_busy_at_once() -> None:
    channel, server = Channel(), Server()
    sender = RemoteSender(channel, timeout=1000)
    async with server.serving(channel, concurrency=1, waiting=2, drain_timeout=5.0):
        sending = [asyncio.create_task(sender.send(Work(f"{number}", 900.0))) for number in range(5)]
        await asyncio.sleep(1.0)
        turned_away = [each for each in sending if each.done()]
        assert len(turned_away) == 2
        assert server.began == {"0": 0.0}
    await asyncio.wait(sending, timeout=1.0)
    errors = [each.exception() for each in sending if each.done()]
    assert [type(each) for each in errors] == [RemoteUnavailableError] * 4
    assert now() <= 7.0
    sending[0].cancel()  # its handler was cancelled, so the outcome is unknown
    await asyncio.wait(sending)


@in_virtual_time
async def test_a_busy_answer_raises_remote_unavailable_and_credentials_cannot_replace_the_ids_of_a_call() -> None:
    channel = Channel()

    async def credentials() -> dict[str, str]:
        return {"messageid": "forged", "correlationid": "forged", "authorization": "x"}

    async def busy(call: RemoteCall, /) -> RemoteReply:
        channel.calls.append(call)
        return RemoteReply(ReplyStatus.BUSY)

    channel.call = busy  # type: ignore[method-assign]
    sender = RemoteSender(channel, credentials=credentials, ids=iter("abc").__next__)
    for name in "ab":
        with pytest.raises(RemoteUnavailableError, match="busy"):
            await sender.send(Work("x"))
        headers = channel.calls[-1].headers
        assert (headers["messageid"], headers["correlationid"], headers["authorization"]) == (name, name, "x")
