"""NatsStreamContents: lists the ids of the events in a publisher's streams, from the headers of the messages."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from mediator.blocks import asynccontextmanager
from mediator.distributed.outbox import HeldStream, StreamContents
from mediator.errors import PublisherUnavailableError
from mediator.nats.binding import decoded, stream_name
from mediator.nats.connection import NatsConnection, listen
from mediator.nats.subjects import AckAddress, ack_address, new_inbox
from mediator.nats.topology import NANOSECONDS, ApiError, JetStreamApi

_BATCH = 2000
"""The number of messages that one pull request asks for. The headers of these messages are about 1.5 MB."""
_SILENCE_SECONDS = 3.0
_INACTIVE_SECONDS = 30
_TRIES = 6
_SCAN_PAUSE = 0.5
_NOT_FOUND = 404


class HeaderScan:
    """Reads the headers of a stream's messages once, in the order of the stream.

    Only messages with `after` < sequence <= `last` are read. If `after` is 0, messages that were stored before `since`
    may be left out. `api` returns the broker's API through the current connection.
    """

    def __init__(
        self, api: Callable[[], Awaitable[JetStreamApi]], stream: str, *, after: int, last: int, since: datetime | None
    ) -> None:
        self._api = api
        self._stream = stream
        self._seen = after
        self._last = last
        self._since = since

    async def pages(self) -> AsyncGenerator[list[Mapping[str, str]]]:
        """Yield the headers in pages. After an error, reading continues with the first message that was not read.

        When reading fails several times in a row without any progress, a `PublisherUnavailableError` is raised.
        """
        tries, failure = 0, PublisherUnavailableError("", "")
        while tries < _TRIES:
            before = self._seen
            try:
                async with aclosing(self._once(await self._api())) as pages:
                    async for page in pages:
                        yield page
                if self._seen >= self._last or not await self._is_more():
                    return
                failure = PublisherUnavailableError(
                    (await self._api()).broker, f"replicas of {self._stream} are not current"
                )
            except PublisherUnavailableError as error:
                failure = error
            except (nats.errors.Error, OSError) as error:
                failure = PublisherUnavailableError(self._stream, str(error) or type(error).__name__)
            tries = 0 if self._seen > before else tries + 1
            await asyncio.sleep(_SCAN_PAUSE)
        raise failure

    async def _once(self, api: JetStreamApi) -> AsyncGenerator[list[Mapping[str, str]]]:
        """Create a consumer, and yield the headers of the unread messages in pages."""
        async with self._consumer(api) as (name, waiting):
            pending = waiting
            inbox = _Inbox(api.client, self._stream, name)
            async with inbox.opened():
                while pending and self._seen < self._last:
                    page, pending = await inbox.pull(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}")
                    kept = [headers for sequence, headers in page if self._seen < sequence <= self._last]
                    if page:
                        self._seen = max(self._seen, page[-1][0])
                    yield kept

    @asynccontextmanager
    async def _consumer(self, api: JetStreamApi) -> AsyncGenerator[tuple[str, int]]:
        """Create a consumer; yield its name and the number of its messages. The consumer is deleted after the block."""
        name = f"mediator-verify-{uuid.uuid4().hex}"
        try:
            request = {"stream_name": self._stream, "config": self._config(name), "action": "create"}
            created = await api.call(f"CONSUMER.CREATE.{self._stream}.{name}", request)
        except ApiError as error:
            if error.code == _NOT_FOUND:  # the stream has been deleted: nothing is left to read
                self._seen = self._last
                yield name, 0
                return
            raise PublisherUnavailableError(api.broker, f"{self._stream} cannot be read: {error}") from error
        try:
            yield name, created["num_pending"]
        finally:
            with suppress(ApiError, PublisherUnavailableError):  # the server deletes inactive consumers itself
                await api.call(f"CONSUMER.DELETE.{self._stream}.{name}")

    def _config(self, name: str) -> dict[str, Any]:
        start: dict[str, Any] = {"deliver_policy": "all"}
        if self._seen:
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._seen + 1}
        elif self._since is not None:
            time = self._since.astimezone(UTC).isoformat().replace("+00:00", "Z")
            start = {"deliver_policy": "by_start_time", "opt_start_time": time}
        return start | {
            "name": name,
            "ack_policy": "none",
            "replay_policy": "instant",
            "headers_only": True,
            "inactive_threshold": _INACTIVE_SECONDS * NANOSECONDS,
            "mem_storage": True,
            "num_replicas": 1,
        }

    async def _is_more(self) -> bool:
        """Return whether the stream's leader has a message that was not read yet."""
        if self._since is not None and not self._seen:  # nothing was read: try again without `since`
            self._since = None
            return True
        api = await self._api()
        try:
            request = {"seq": self._seen + 1, "next_by_subj": ">"}
            answer = await api.call(f"STREAM.MSG.GET.{self._stream}", request)
        except ApiError as error:
            if error.code == _NOT_FOUND:
                return False
            raise PublisherUnavailableError(api.broker, f"{self._stream} cannot be read: {error}") from error
        found: dict[str, Any] = answer["message"]
        sequence: int = found["seq"]
        return sequence <= self._last


class _Inbox:
    """The inbox in which the messages of one consumer are received."""

    def __init__(self, client: Client, stream: str, consumer: str) -> None:
        self._client = client
        self._source = stream, consumer
        self._subject = new_inbox(client)
        self._messages: asyncio.Queue[Msg] = asyncio.Queue()
        self._number = 0

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        subscription = await listen(self._client, self._subject, self._messages.put)
        try:
            yield
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def pull(self, subject: str) -> tuple[list[tuple[int, Mapping[str, str]]], int]:
        """Return the next messages as pairs (sequence, headers), and the number of messages after them.

        Raises:
            nats.errors.Error: The broker did not answer, a message was lost, or somebody else published to the inbox.
        """
        request = json.dumps({"batch": _BATCH, "no_wait": True}).encode()
        await self._client.publish(subject, request, self._subject)
        page: list[tuple[int, Mapping[str, str]]] = []
        pending = 0
        while len(page) < _BATCH:
            message = await self._next()
            if "Status" in (message.headers or {}) and not message.reply:
                break
            address = self._checked_address(message)
            self._number += 1
            if address.number != self._number:
                raise nats.errors.Error("a message was lost between the broker and this process")
            pending = address.remaining
            page.append((address.sequence, message.headers or {}))
            if pending == 0:
                break
        return page, pending

    async def _next(self) -> Msg:
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                return await self._messages.get()
        except TimeoutError:
            raise nats.errors.TimeoutError from None

    def _checked_address(self, message: Msg) -> AckAddress:
        address = ack_address(message.reply)
        is_delivery = message.subject != self._subject  # a delivery has the subject of its event
        if address is None or not is_delivery or (address.stream, address.consumer) != self._source:
            raise nats.errors.Error("somebody else published to the inbox of the consumer")
        return address


_PATIENCE = 10.0
"""Seconds to wait for a connection to the broker, and for a stream's leader."""

_PAUSE = 0.2


class NatsStreamContents(StreamContents):
    """Lists the events of a stream from the headers of its messages.

    The headers are read through a consumer, which is deleted when reading ends. The application's user needs
    permission to create consumers of the stream, pull from them, delete them, and request the stream's state.
    """

    def __init__(self, connection: NatsConnection, *, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix

    def stream(self, domain: str, /) -> str:
        return stream_name(self._prefix, domain)

    async def state(self, domain: str, /) -> HeldStream | None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                info = await (await self._api()).stream(self.stream(domain))
            except PublisherUnavailableError:  # also raised while a cluster elects the stream's leader
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return None if info is None else _held(info)

    async def ids(
        self, domain: str, /, *, since: datetime | None = None, after: int = 0
    ) -> AsyncGenerator[Sequence[tuple[str, str]]]:
        state = await self.state(domain)
        if state is None or state.oldest_at is None or state.last_sequence <= after:
            return
        scan = HeaderScan(self._api, state.name, after=after, last=state.last_sequence, since=since)
        async with aclosing(scan.pages()) as pages:
            async for page in pages:
                yield [known for headers in page if (known := _identity(headers)) is not None]

    async def _api(self) -> JetStreamApi:
        client = await self._connection.client("consume", timeout=_PATIENCE)
        return JetStreamApi(client, self._connection.broker)


def _identity(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the source and the id of an event; `None` when the source or the id is missing or not valid."""
    try:
        return decoded(headers["ce-source"]), decoded(headers["ce-id"])
    except (KeyError, ValueError):
        return None


def _held(info: dict[str, Any]) -> HeldStream:
    config, state = info["config"], info["state"]
    age: int = config.get("max_age", 0)
    limited = any(config.get(name, -1) > 0 for name in ("max_bytes", "max_msgs"))
    return HeldStream(
        name=config["name"],
        created_at=datetime.fromisoformat(info["created"]).astimezone(UTC),
        last_sequence=state["last_seq"],
        oldest_at=datetime.fromisoformat(state["first_ts"]).astimezone(UTC) if state["messages"] else None,
        max_age=age / NANOSECONDS if age else None,
        drops_oldest=limited and config.get("discard") == "old",
    )
