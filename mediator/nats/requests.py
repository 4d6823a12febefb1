"""NatsRequestChannel: sends requests to other applications over core NATS, with one subject for each request class.

The broker stores neither requests nor answers. A request is ignored unless its reply subject is an inbox. The processes
of one application form a queue group: each request reaches only one process of the group. When no application serves a
request, the server answers at once with status 503 (https://docs.nats.io/nats-concepts/core-nats/reqreply).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mediator.blocks import asynccontextmanager
from mediator.distributed.cloudevents import LONGEST_APPLICATION
from mediator.distributed.requests import (
    IncomingCall,
    IncomingCalls,
    RemoteCall,
    RemoteReply,
    ReplyStatus,
    RequestChannel,
    RequestCodec,
)
from mediator.errors import PublisherUnavailableError
from mediator.logger import Logger, RateLimitedLogger
from mediator.msgspec import MsgspecRequestCodec
from mediator.nats.binding import checked_prefix, decoded, encoded
from mediator.nats.connection import AuthenticatedClient, NatsConnection, end, keep_subscribed, listen, withdraw
from mediator.nats.subjects import answerable, new_inbox
from mediator.owner import start_detached
from mediator.printable import shown
from mediator.settings import check_texts

_TIMEOUT = "mediator-timeout"
_STATUS = "mediator-status"
_REASON = "mediator-reason"
_ERROR = "mediator-error"
_REFERENCE = "mediator-reference"
_CONNECT_SECONDS = 1.0
_LEAVE_SECONDS = 1.0
_LONGEST_TIMEOUT = 3600.0
_SHORTEST_TIMEOUT = 0.001
_LONGEST_REASON = 2000


class NatsRequestChannel(RequestChannel):
    """Sends and serves requests: `channel = providers.Singleton(NatsRequestChannel, nats, application="advising")`.

    Args:
        connection: The connection to the broker.
        application: The name of this application, which is also the name of its queue group.
        prefix: The first token of the subjects `<prefix>.<domain>.<name>`. Events must have another prefix.
        inbox_prefixes: The `inbox_prefix` of each requester. A request whose reply subject has none of these prefixes
            is ignored. By default, `_INBOX` and every `_INBOX_<name>` are accepted.
        codec: Encodes requests and responses. The default codec writes JSON with msgspec.

    Raises:
        SettingError: The application or a prefix is not valid.
    """

    def __init__(
        self,
        connection: NatsConnection,
        application: str,
        *,
        prefix: str = "requests",
        inbox_prefixes: Collection[str] | None = None,
        codec: RequestCodec | None = None,
    ) -> None:
        check_texts(longest=LONGEST_APPLICATION, application=application)
        self.codec: RequestCodec = codec or MsgspecRequestCodec()
        self.place: str = connection.broker
        self._connection = connection
        self._queue = encoded(application).replace(".", "_").replace("*", "_").replace(">", "_")
        self._prefix = checked_prefix(prefix)
        self._is_answerable = answerable(inbox_prefixes)
        self._log = RateLimitedLogger(Logger(worker="responder", broker=connection.broker))

    async def call(self, call: RemoteCall, /) -> RemoteReply:
        headers = {name: encoded(value) for name, value in call.headers.items()}
        clock = asyncio.get_running_loop().time
        deadline = clock() + call.timeout
        client = await self._connection.client("publish", timeout=min(_CONNECT_SECONDS, call.timeout))
        async with asyncio.timeout_at(deadline):
            left = max(deadline - clock(), _SHORTEST_TIMEOUT)  # waiting for a connection may have taken time
            headers[_TIMEOUT] = f"{left:.3f}"
            if (size := _size(headers, call.data)) > client.max_payload:
                raise ValueError(f"it is {size:,} bytes, and the broker takes at most {client.max_payload:,}")
            message = await self._ask(client, f"{self._prefix}.{call.name}", call.data, headers)
        return _read_reply(message)

    async def _ask(self, client: Client, subject: str, data: bytes, headers: dict[str, str]) -> Msg:
        """Send a request with a new inbox as its reply subject; return the first message that arrives in the inbox.

        nats-py's own `request` is not used, because `request` would keep waiting after the connection was lost.
        """
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        forget = self._connection.on_disconnect(
            "publish", lambda: _fail(answer, TimeoutError("the connection was lost"))
        )
        denied = PublisherUnavailableError(self.place, f"this application's user may not publish to {subject}")
        forget_denial = _on_denied(client, subject, lambda: _fail(answer, denied))
        inbox = new_inbox(client)

        async def arrived(message: Msg) -> None:
            if not answer.done():
                answer.set_result(message)

        try:
            subscription = await listen(client, inbox, arrived)
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
            raise PublisherUnavailableError(self.place, "no application serves requests of this name")
        return message

    def serve(self, names: Collection[str], /, *, waiting: int) -> AbstractAsyncContextManager[IncomingCalls]:
        subjects = {name: f"{self._prefix}.{name}" for name in names}
        return self._serve(_Calls(subjects, self._queue, asyncio.Queue(waiting), self._is_answerable, self._log))

    @asynccontextmanager
    async def _serve(self, calls: "_Calls") -> AsyncGenerator[IncomingCalls]:
        task = start_detached(
            keep_subscribed(self._connection, "consume", calls.subscribe), name="mediator nats requests"
        )
        try:
            yield calls
        finally:
            await end(task)
            await calls.leave()


@dataclass(eq=False, repr=False)
class _Calls(IncomingCalls):
    """Subscribes to requests, and queues the calls until `next` returns them."""

    _subjects: Mapping[str, str]
    _queue: str
    _waiting: "asyncio.Queue[_Call]"
    _is_answerable: Callable[[str], bool]
    _log: RateLimitedLogger
    _client: Client | None = None
    _subscriptions: list[Subscription] = field(default_factory=list[Subscription])

    async def next(self) -> IncomingCall:
        return await self._waiting.get()

    async def subscribe(self, client: Client) -> None:
        """Subscribe a client to all subjects to which the client is not subscribed yet."""
        if client is not self._client:
            self._client, self._subscriptions = client, []
        for name, subject in [*self._subjects.items()][len(self._subscriptions) :]:
            arrived = partial(self._arrived, client, name)  # the name comes from the subscription, not the message
            self._subscriptions.append(await listen(client, subject, arrived, queue=self._queue))

    async def leave(self) -> None:
        """Unsubscribe. Reject the waiting calls, and the calls that still arrive within about a second."""
        if self._client is not None and self._client.is_connected:
            await withdraw(self._client, self._subscriptions, _LEAVE_SECONDS)
        while not self._waiting.empty():
            await self._waiting.get_nowait().reply(RemoteReply(ReplyStatus.BUSY, reason="the responder is stopping"))

    async def _arrived(self, client: Client, name: str, message: Msg) -> None:
        if not self._is_answerable(message.reply):
            self._log.warning("request without an inbox ignored", request=name, reply=shown(message.reply))
            return
        try:
            call = _Call(_read_call(message, name), client, message.reply)
        except ValueError as error:
            self._log.warning("request refused", request=name, error=type(error).__name__, reason=shown(str(error)))
            await _send(client, message.reply, RemoteReply(ReplyStatus.REFUSED, reason=str(error)))
            return
        if self._waiting.full():
            self._log.warning("request turned away", request=name, waiting=self._waiting.maxsize)
            await call.reply(RemoteReply(ReplyStatus.BUSY, reason="too many requests already wait at the responder"))
        else:
            self._waiting.put_nowait(call)


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
    if not answer.done():
        answer.set_exception(error)


async def _send(client: Client, address: str, reply: RemoteReply) -> None:
    """Send a reply; raise a `ValueError` when the reply is larger than the broker accepts."""
    texts = {_REASON: reply.reason[:_LONGEST_REASON], _ERROR: reply.error, _REFERENCE: reply.reference}
    headers = {_STATUS: reply.status.value} | {name: encoded(value) for name, value in texts.items() if value}
    if (size := _size(headers, reply.data)) > client.max_payload:
        raise ValueError(f"it is {size:,} bytes, and the broker takes at most {client.max_payload:,}")
    with contextlib.suppress(nats.errors.Error, OSError):  # without a reply, the requester waits until its timeout
        await client.publish(address, reply.data, headers=headers)


def _read_call(message: Msg, name: str) -> RemoteCall:
    headers = {name.lower(): value for name, value in (message.headers or {}).items()}
    try:
        seconds = float(headers.pop(_TIMEOUT, "5"))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise ValueError(f"its header {_TIMEOUT} is not a number of seconds up to {_LONGEST_TIMEOUT:g}")
    return RemoteCall(name, message.data, seconds, _texts(headers))


def _read_reply(message: Msg) -> RemoteReply:
    headers = {name.lower(): value for name, value in (message.headers or {}).items()}
    try:
        status = ReplyStatus(headers.get(_STATUS, ""))
        texts = _texts(headers)
    except ValueError:
        reason = "the answer was not sent by this library"
        return RemoteReply(ReplyStatus.FAILED, reason=reason, error="ForeignReply")
    return RemoteReply(status, message.data, texts.get(_REASON, ""), texts.get(_ERROR, ""), texts.get(_REFERENCE, ""))


def _texts(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: decoded(value) for name, value in headers.items()}


def _size(headers: Mapping[str, str], data: bytes) -> int:
    """Return the number of bytes that the server counts against `max_payload`."""
    return 16 + sum(len(name) + len(value) + 4 for name, value in headers.items()) + len(data)
