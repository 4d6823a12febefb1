"""NatsRequestChannel: requests to other applications over core NATS, one subject a request class.

A request is answered or it is not: nothing is stored. Servers of one application share a queue group, and a request that
nobody takes is known at once by the server's 503 (https://docs.nats.io/nats-concepts/core-nats/reqreply).
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mediator.distributed.bounds import check_texts
from mediator.distributed.channel import (
    IncomingCall,
    IncomingCalls,
    RemoteCall,
    RemoteReply,
    ReplyStatus,
    RequestChannel,
)
from mediator.distributed.requests import RequestCodec
from mediator.errors import PublisherUnavailableError
from mediator.msgspec import MsgspecRequestCodec
from mediator.nats.binding import LONGEST_APPLICATION, checked_prefix, decoded, encoded
from mediator.nats.client import AuthenticatedClient
from mediator.nats.connection import NatsConnection
from mediator.nats.link import end, withdraw

_TIMEOUT = "mediator-timeout"
_STATUS = "mediator-status"
_REASON = "mediator-reason"
_ERROR = "mediator-error"
_REFERENCE = "mediator-reference"
_CONNECT_SECONDS = 1.0
_PATIENCE = 5.0
_PAUSE = 0.1
_LEAVE_SECONDS = 1.0
_LONGEST_TIMEOUT = 3600.0
_LONGEST_TEXT = 2000
_NO_RESPONDERS = "no application answers to its name"


class NatsRequestChannel(RequestChannel):
    """`channel = providers.Singleton(NatsRequestChannel, nats, application="advising")`.

    Args:
        connection: Where the broker is.
        application: The name of this application: the queue group of the processes that serve its requests.
        prefix: The first token of subjects, `<prefix>.<context>.<name>`; another one than that of the events.
        codec: How requests and responses are written; JSON through msgspec by default.

    Raises:
        SettingError: The application or the prefix cannot work.
    """

    def __init__(
        self,
        connection: NatsConnection,
        application: str,
        *,
        prefix: str = "requests",
        codec: RequestCodec | None = None,
    ) -> None:
        check_texts(longest=LONGEST_APPLICATION, application=application)
        self.codec: RequestCodec = codec or MsgspecRequestCodec()
        self.place: str = connection.broker
        self._connection = connection
        self._queue = encoded(application).replace(".", "_").replace("*", "_").replace(">", "_")
        self._prefix = checked_prefix(prefix)

    async def call(self, call: RemoteCall, /) -> RemoteReply:
        """See `RequestChannel.call`."""
        headers = {name: encoded(value) for name, value in call.headers.items()} | {_TIMEOUT: f"{call.timeout:.3f}"}
        async with asyncio.timeout(call.timeout):
            client = await self._connection.client("publish", timeout=min(_CONNECT_SECONDS, call.timeout))
            if (size := _size(headers, call.data)) > client.max_payload:
                raise ValueError(f"it is {size:,} bytes, and the broker takes at most {client.max_payload:,}")
            message = await self._ask(client, f"{self._prefix}.{call.name}", call.data, headers)
        return _read_reply(message)

    async def _ask(self, client: Client, subject: str, data: bytes, headers: dict[str, str]) -> Msg:
        """Ask, on an inbox of this request's own: one of nats-py's that is lost with a connection is never answered."""
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        forget = self._connection.on_disconnect(
            "publish", lambda: _fail(answer, TimeoutError("the connection was lost"))
        )
        denied = PublisherUnavailableError(self.place, f"its user may not publish to {subject}")
        forget_denial = _on_denied(client, subject, lambda: _fail(answer, denied))
        inbox = client.new_inbox()

        async def arrived(message: Msg) -> None:
            if not answer.done():
                answer.set_result(message)

        try:
            subscription = await client.subscribe(inbox, cb=arrived)  # pyright: ignore[reportUnknownMemberType]  # a Future
            try:
                try:
                    await client.publish(subject, data, inbox, headers)
                except (nats.errors.Error, OSError) as error:
                    raise PublisherUnavailableError(self.place, str(error) or type(error).__name__) from error
                message = await answer
            finally:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await subscription.unsubscribe()
        finally:
            forget()
            forget_denial()
        if not message.data and (message.headers or {}).get("Status") == "503":
            raise PublisherUnavailableError(self.place, _NO_RESPONDERS)
        return message

    def serve(self, names: Collection[str], /, *, waiting: int) -> AbstractAsyncContextManager[IncomingCalls]:
        """See `RequestChannel.serve`."""
        return self._serve(tuple(names), waiting)

    @contextlib.asynccontextmanager
    async def _serve(self, names: Collection[str], waiting: int) -> AsyncGenerator[IncomingCalls]:
        calls = _Calls(waiting, len(self._prefix) + 1)
        listener = _Listener(self._connection, [f"{self._prefix}.{name}" for name in names], self._queue, calls.arrived)
        task = asyncio.create_task(listener.run(), name="mediator nats requests")
        try:
            yield calls
        finally:
            await end(task)
            await listener.leave()
            await calls.turn_away()


class _Listener:
    """Keeps the subscriptions on whichever client is connected."""

    def __init__(
        self,
        connection: NatsConnection,
        subjects: Collection[str],
        queue: str,
        arrived: Callable[[Client, Msg], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._queue = queue
        self._arrived = arrived
        self._connected = asyncio.Event()
        self._client: Client | None = None
        self._subscriptions: list[Subscription] = []

    async def run(self) -> None:
        forget = self._connection.on_connect("consume", self._connected.set)
        try:
            while True:
                self._connected.clear()
                try:
                    client = await self._connection.client("consume", timeout=_PATIENCE)
                    await self._listen(client)
                except (PublisherUnavailableError, nats.errors.Error, OSError):  # the connection has logged it
                    await asyncio.sleep(_PAUSE)
        finally:
            forget()

    async def leave(self) -> None:
        """Take what is still coming, within about a second. `run` has ended before."""
        if self._client is not None and self._client.is_connected:
            await withdraw(self._client, self._subscriptions, _LEAVE_SECONDS)

    async def _listen(self, client: Client) -> None:
        async def arrived(message: Msg) -> None:
            await self._arrived(client, message)

        self._client, self._subscriptions = client, []
        for subject in self._subjects:
            taken = await client.subscribe(subject, queue=self._queue, cb=arrived)  # pyright: ignore[reportUnknownMemberType]
            self._subscriptions.append(taken)
        while not client.is_closed:  # nats-py subscribes anew when it reconnects by itself
            self._connected.clear()
            await self._connected.wait()


class _Calls(IncomingCalls):
    """What has arrived and was not taken yet."""

    def __init__(self, limit: int, prefix_length: int) -> None:
        self._limit = limit
        self._prefix_length = prefix_length
        self._waiting: deque[_Call] = deque()
        self._news = asyncio.Event()

    async def next(self) -> IncomingCall:
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    async def arrived(self, client: Client, message: Msg) -> None:
        if not message.reply:
            return  # nobody waits for an answer: it is no request
        try:
            call = _Call(_read_call(message, self._prefix_length), client, message.reply)
        except ValueError as error:
            await _send(client, message.reply, RemoteReply(ReplyStatus.REFUSED, reason=str(error)))
            return
        if len(self._waiting) >= self._limit:
            await call.reply(RemoteReply(ReplyStatus.BUSY, reason="too many requests wait there"))
            return
        self._waiting.append(call)
        self._news.set()

    async def turn_away(self) -> None:
        while self._waiting:
            await self._waiting.popleft().reply(RemoteReply(ReplyStatus.BUSY, reason="it is stopping"))


class _Call(IncomingCall):
    def __init__(self, call: RemoteCall, client: Client, address: str) -> None:
        self.call = call
        self._client = client
        self._address = address
        self._arrived = time.monotonic()

    @property
    def waited(self) -> float:
        return time.monotonic() - self._arrived

    async def reply(self, reply: RemoteReply, /) -> None:
        await _send(self._client, self._address, reply)


def _on_denied(client: Client, subject: str, act: Callable[[], None]) -> Callable[[], None]:
    return client.on_denied(subject, act) if isinstance(client, AuthenticatedClient) else lambda: None


def _fail(answer: "asyncio.Future[Msg]", error: Exception) -> None:
    """No answer comes, or if one was on its way it is lost."""
    if not answer.done():
        answer.set_exception(error)


async def _send(client: Client, address: str, reply: RemoteReply) -> None:
    """Raises `ValueError` for what the broker would not take."""
    said = {_REASON: reply.reason[:_LONGEST_TEXT], _ERROR: reply.error, _REFERENCE: reply.reference}
    headers = {_STATUS: reply.status.value} | {name: encoded(value) for name, value in said.items() if value}
    if (size := _size(headers, reply.data)) > client.max_payload:
        raise ValueError(f"it is {size:,} bytes, and the broker takes at most {client.max_payload:,}")
    with contextlib.suppress(nats.errors.Error, OSError):  # lost: the sender's time runs out
        await client.publish(address, reply.data, headers=headers)


def _read_call(message: Msg, prefix_length: int) -> RemoteCall:
    headers = {name.lower(): value for name, value in (message.headers or {}).items()}
    try:
        seconds = float(headers.pop(_TIMEOUT, "5"))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise ValueError(f"its header {_TIMEOUT} is no number of seconds")
    return RemoteCall(message.subject[prefix_length:], message.data, seconds, _texts(headers))


def _read_reply(message: Msg) -> RemoteReply:
    headers = {name.lower(): value for name, value in (message.headers or {}).items()}
    try:
        status = ReplyStatus(headers.get(_STATUS, ""))
        texts = _texts(headers)
    except ValueError:
        return RemoteReply(ReplyStatus.FAILED, reason="what answers to its name is no mediator", error="ForeignReply")
    return RemoteReply(status, message.data, texts.get(_REASON, ""), texts.get(_ERROR, ""), texts.get(_REFERENCE, ""))


def _texts(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: decoded(value) for name, value in headers.items()}


def _size(headers: Mapping[str, str], data: bytes) -> int:
    """What the server counts against `max_payload`, in bytes."""
    return 16 + sum(len(name) + len(value) + 4 for name, value in headers.items()) + len(data)
