"""HeaderScan: the headers of every message of a stream up to a sequence, in order, none left out.

An ephemeral consumer without acknowledgements is pulled from in batches. Its messages are numbered without gaps, so that
one that is lost on the way is noticed; then, and after every other trouble, a new consumer goes on where the last ended.
A consumer may sit on a replica that lags behind, hence its end is only believed when the leader of the stream agrees.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from mediator.errors import PublisherUnavailableError
from mediator.nats.api import NANOSECONDS, ApiError, JetStreamApi
from mediator.nats.link import listen

_BATCH = 2000
"""How many messages are asked for at a time: about 1.5 MB of headers."""
_SILENCE_SECONDS = 3.0
_INACTIVE_SECONDS = 30
_TRIES = 6
_PAUSE = 0.5
_NOT_FOUND = 404
_PLAIN_TOKENS = 9  # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>


class HeaderScan:
    """Reads a stream once.

    Args:
        api: The API of the broker, through the connection as it is now.
        stream: The name of the stream.
        after: Only what has a higher sequence.
        last: The sequence with which it ends; messages that come later are not read.
        since: Where it begins, when that is later.
    """

    def __init__(
        self,
        api: Callable[[], Awaitable[JetStreamApi]],
        stream: str,
        *,
        after: int,
        last: int,
        since: datetime | None,
    ) -> None:
        self._api = api
        self._stream = stream
        self._seen = after
        self._last = last
        self._since = since

    async def pages(self) -> AsyncGenerator[list[Mapping[str, str]]]:
        """The headers, in parts; what the consumer was disturbed in is read again.

        Raises:
            PublisherUnavailableError: It was disturbed several times without getting any further.
        """
        tries, trouble = 0, PublisherUnavailableError("", "")
        while tries < _TRIES:
            before = self._seen
            try:
                async with aclosing(self._once(await self._api())) as pages:
                    async for page in pages:
                        yield page
                if self._seen >= self._last or not await self._is_more():
                    return
                trouble = PublisherUnavailableError(
                    (await self._api()).broker, f"replicas of {self._stream} lag behind"
                )
            except (PublisherUnavailableError, nats.errors.Error, OSError) as error:
                trouble = error if isinstance(error, PublisherUnavailableError) else _unavailable(self._stream, error)
            tries = 0 if self._seen > before else tries + 1
            await asyncio.sleep(_PAUSE)
        raise trouble

    async def _once(self, api: JetStreamApi) -> AsyncGenerator[list[Mapping[str, str]]]:
        """What one consumer gives, until it has no more or is disturbed."""
        async with self._consumer(api) as (name, waiting):
            pending = waiting
            inbox = _Inbox(api.client)
            async with inbox.opened():
                while pending and self._seen < self._last:
                    page, pending = await inbox.pull(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}")
                    kept = [headers for sequence, headers in page if self._seen < sequence <= self._last]
                    if page:
                        self._seen = max(self._seen, page[-1][0])
                    yield kept

    @asynccontextmanager
    async def _consumer(self, api: JetStreamApi) -> AsyncGenerator[tuple[str, int]]:
        """A new consumer, as its name and how many messages it has, until the end of the block."""
        name = f"mediator-verify-{uuid.uuid4().hex}"
        try:
            request = {"stream_name": self._stream, "config": self._config(name), "action": "create"}
            created = await api.call(f"CONSUMER.CREATE.{self._stream}.{name}", request)
        except ApiError as error:
            if error.code == _NOT_FOUND:  # the stream was deleted meanwhile
                self._seen = self._last
                yield name, 0
                return
            raise PublisherUnavailableError(api.broker, f"{self._stream} cannot be read: {error}") from error
        try:
            yield name, created["num_pending"]
        finally:
            await _forget(api, self._stream, name)

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
        """Whether the leader of the stream has a message that was to be read and was not."""
        if self._since is not None and not self._seen:  # it cannot be asked by time: read from the beginning instead
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
    """Where the messages of one consumer arrive."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._subject = client.new_inbox()
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
        """The next batch, as sequences and headers, and how many messages are left after it.

        Raises:
            nats.errors.Error: The broker went silent, or a message was lost on the way.
        """
        request = json.dumps({"batch": _BATCH, "no_wait": True}).encode()
        await self._client.publish(subject, request, self._subject)
        page: list[tuple[int, Mapping[str, str]]] = []
        pending = 0
        while len(page) < _BATCH:
            message = await self._next()
            if "Status" in (message.headers or {}) and not message.reply:
                if not page:
                    pending = 0
                break
            sequence, number, pending = _place(message)
            self._number += 1
            if number != self._number:
                raise nats.errors.Error("a message was lost on the way")
            page.append((sequence, message.headers or {}))
            if pending == 0:
                break
        return page, pending

    async def _next(self) -> Msg:
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                return await self._messages.get()
        except TimeoutError:
            raise nats.errors.TimeoutError from None


def _place(message: Msg) -> tuple[int, int, int]:
    """The place of a message in its stream, in its consumer, and how many are left."""
    tokens = message.reply.split(".")
    place = (tokens if len(tokens) == _PLAIN_TOKENS else tokens[2:])[5:9]
    return int(place[0]), int(place[1]), int(place[3])


async def _forget(api: JetStreamApi, stream: str, name: str) -> None:
    """Delete the consumer; one that cannot be deleted now goes by itself."""
    try:
        await api.call(f"CONSUMER.DELETE.{stream}.{name}")
    except (ApiError, PublisherUnavailableError):
        return


def _unavailable(stream: str, error: Exception) -> PublisherUnavailableError:
    return PublisherUnavailableError(stream, str(error) or type(error).__name__)
