"""Stream: what stands in JetStream, read from the outside with a client of our own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import Error, NotFoundError

CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.05


class NoBrokerError(Exception):
    """No NATS server with JetStream answers."""


class Stream:
    def __init__(self, url: str, name: str, group: str, client: Client) -> None:
        self.url = url
        self._name = name
        self._group = group
        self._jetstream: JetStreamContext = client.jetstream()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, name: str, group: str) -> AsyncGenerator[Self, None]:
        """Connect, and delete the stream in the end."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                client = await nats.connect(url, error_cb=_ignore, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
                await client.jetstream().account_info()
        except (TimeoutError, OSError, ValueError, nats.errors.Error) as error:
            raise NoBrokerError("No NATS server with JetStream answers at the given URL.") from error
        stream = cls(url, name, group, client)
        try:
            yield stream
        finally:
            await stream.delete()
            await client.close()

    async def settle(self) -> None:
        """Wait until every event was delivered to the group and acknowledged: none can come (again) after that."""
        while not await self._is_settled():  # noqa: ASYNC110  (the broker tells nobody when a group has caught up)
            await asyncio.sleep(POLL_SECONDS)

    async def ids(self) -> list[str]:
        """The id of every message in the stream."""
        try:
            last = (await self._jetstream.stream_info(self._name)).state.last_seq
        except NotFoundError:
            return []
        messages = [await self._jetstream.get_msg(self._name, number, direct=True) for number in range(1, last + 1)]
        return [(message.headers or {})["Nats-Msg-Id"] for message in messages]

    async def delete(self) -> None:
        try:
            await self._jetstream.delete_stream(self._name)
        except (Error, nats.errors.Error):
            return  # it was never created, or its server is gone

    async def _is_settled(self) -> bool:
        try:
            group = await self._jetstream.consumer_info(self._name, self._group)
        except (Error, nats.errors.Error):
            return False  # the broker is on its way back
        return bool(group.num_pending == 0 and group.num_ack_pending == 0)


async def _ignore(error: Exception) -> None:
    """An outage of the broker is part of the play."""
