"""The stream of the scenarios, read from its start to its end."""

import asyncio
from collections.abc import Sequence

import nats
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

from tests.faults.scenarios.application import STREAM
from tests.faults.scenarios.tables import Seen


async def in_the_stream(urls: Sequence[str], subject: str = "events.load.>", stream: str = STREAM) -> list[Seen]:
    """Return id, key and time of storing of each event, in the order of the stream."""
    client = await nats.connect(list(urls))
    try:
        jetstream = client.jetstream()
        try:
            info = await jetstream.stream_info(stream)
        except NotFoundError:
            return []
        last, found, complete = info.state.last_seq, list[Seen](), asyncio.Event()

        async def take(message: Msg) -> None:
            headers = message.headers or {}
            metadata = message.metadata
            key = headers.get("ce-partitionkey", "")
            found.append(Seen(headers.get("ce-id", ""), key, metadata.timestamp.timestamp(), message.subject))
            if metadata.num_pending == 0 or metadata.sequence.stream >= last:
                complete.set()

        config = ConsumerConfig(headers_only=True)
        await jetstream.subscribe(
            subject, stream=stream, cb=take, ordered_consumer=True, config=config, pending_bytes_limit=-1
        )
        if last:
            async with asyncio.timeout(300):
                await complete.wait()
        return found
    finally:
        await client.close()


async def last_sequence(urls: Sequence[str]) -> int:
    """Return the number of events that were ever stored."""
    client = await nats.connect(list(urls))
    try:
        return (await client.jetstream().stream_info(STREAM)).state.last_seq
    finally:
        await client.close()
