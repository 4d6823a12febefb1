"""NatsStreamContents: which events the streams of a publisher hold, read from the headers of their messages."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from mediator.distributed.stream_contents import HeldStream, StreamContents
from mediator.errors import PublisherUnavailableError
from mediator.nats.api import NANOSECONDS, JetStreamApi
from mediator.nats.binding import decoded, stream_name
from mediator.nats.connection import NatsConnection
from mediator.nats.header_scan import HeaderScan

_PATIENCE = 10.0
"""Seconds for which a broker may be away, or without a leader."""

_PAUSE = 0.2


class NatsStreamContents(StreamContents):
    """Reads through a consumer of its own that is sent headers only, and vanishes with the reading.

    Its user must be allowed to create, pull from and delete consumers of the stream, and to ask for its state.

    Args:
        connection: Where the broker is. The connection for consuming is used.
        application: The source of the events that count.
        prefix: The first token of streams and subjects.
    """

    def __init__(self, connection: NatsConnection, application: str, *, prefix: str) -> None:
        self._connection = connection
        self._application = application
        self._prefix = prefix

    def stream(self, context: str, /) -> str:
        """See `StreamContents.stream`."""
        return stream_name(self._prefix, context)

    async def state(self, context: str, /) -> HeldStream | None:
        """See `StreamContents.state`."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                info = await (await self._api()).stream(self.stream(context))
            except PublisherUnavailableError:  # so does a cluster answer that elects a leader
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return None if info is None else _held(info)

    async def ids(
        self, context: str, /, *, since: datetime | None = None, after: int = 0
    ) -> AsyncGenerator[Sequence[str]]:
        """See `StreamContents.ids`."""
        state = await self.state(context)
        if state is None or state.oldest_at is None or state.last_sequence <= after:
            return
        scan = HeaderScan(self._api, state.name, after=after, last=state.last_sequence, since=since)
        async with aclosing(scan.pages()) as pages:
            async for page in pages:
                yield [identity for headers in page if (identity := self._own_id(headers))]

    async def _api(self) -> JetStreamApi:
        client = await self._connection.client("consume", timeout=_PATIENCE)
        return JetStreamApi(client, self._connection.broker)

    def _own_id(self, headers: Mapping[str, str]) -> str:
        """The id in the headers, when the event is this application's; foreign producers may write anything."""
        try:
            if decoded(headers.get("ce-source", "")) != self._application:
                return ""
            return decoded(headers.get("ce-id", ""))
        except ValueError:
            return ""


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
