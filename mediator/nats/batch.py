"""AtomicBatches: sends what is open of a flight in batches of which the broker stores all or nothing, one a stream.

The atomic batches of nats-server 2.12 (https://github.com/nats-io/nats-architecture-and-design, ADR-50). Only the last
message of a batch is answered. A refusal does not say which message it is about, hence a refused batch is left to be
sent one by one: the answers identify the message, and those that the broker has already are acknowledged as such.
"""

import asyncio
import itertools
import json
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client

from mediator.errors import PublisherUnavailableError, StreamUnavailableError
from mediator.nats.binding import stream_name
from mediator.nats.flight import Flight

SMALLEST = 16
"""How many letters are worth a batch. Each costs the broker about 3 ms, for files of its own: with `sync_interval: always`
one by one is slower from here on, and without it a batch is never faster, but still all or nothing."""

_UNABLE = frozenset({10174, 10175, 10177, 10179, 10199})
"""Error codes of streams and servers that take no batches like ours: disabled, no ids in batches, a smaller limit."""

_COMMIT = {"Nats-Batch-Commit": "1"}


@dataclass(slots=True)
class _Batch:
    identity: str
    indexes: list[int]
    answer: asyncio.Future[bytes | None]


class AtomicBatches:
    """The batches of one flight.

    Args:
        flight: What is to be sent.
        client: Through which connection.
        inbox: Where the flight's acknowledgements are addressed to.
        broker: The name of the broker, for errors.
        prefix: The first token of the names of the streams, for errors.
    """

    def __init__(self, flight: Flight, client: Client, inbox: str, broker: str, prefix: str) -> None:
        self._flight = flight
        self._client = client
        self._inbox = inbox
        self._broker = broker
        self._prefix = prefix
        self._numbers = itertools.count()
        self.unable: set[str] = set()
        """The contexts whose streams take no batches."""

    async def run(self, contexts: Collection[str]) -> None:
        """Send in batches what stands in line for these contexts. What is refused or not worth one stays open."""
        remaining = set(contexts)
        while remaining and not self._flight.done:
            lines = self._flight.in_line(remaining, self._client.max_payload)
            batches = [(context, await self._send(line)) for context, line in lines.items() if len(line) >= SMALLEST]
            if not batches:
                return
            for context, batch in batches:
                if not self._settle(context, batch, await batch.answer):
                    remaining.discard(context)

    async def _send(self, indexes: list[int]) -> _Batch:
        number = f"b{next(self._numbers)}"
        batch = _Batch(uuid.uuid4().hex, indexes, self._flight.expect(number))
        for place, index in enumerate(indexes, 1):
            headers = {"Nats-Batch-Id": batch.identity, "Nats-Batch-Sequence": str(place)}
            last = place == len(indexes)
            reply = f"{self._inbox}.{number}" if last else ""
            if not await self._flight.launch(self._client, index, reply, headers | _COMMIT if last else headers):
                break  # the broker forgets what it has of the batch; the answer is that everything is unknown
        return batch

    def _settle(self, context: str, batch: _Batch, data: bytes | None) -> bool:
        """Note what became of a batch; whether its stream may be sent another one."""
        if data is None:  # the flight is over
            return False
        answer: dict[str, Any] = json.loads(data) if data else {"error": None}
        if "error" not in answer:
            fits = (answer.get("batch"), answer.get("count")) == (batch.identity, len(batch.indexes))
            error = None if fits else PublisherUnavailableError(self._broker, f"the answer to a batch is {answer}")
            self._flight.settle_all(batch.indexes, error)
            return fits
        refusal = answer["error"]
        if refusal is None:
            stream = stream_name(self._prefix, context)
            error = StreamUnavailableError(self._broker, "no stream answers (503)", stream)
            self._flight.settle_all(batch.indexes, error)
        elif refusal.get("err_code") in _UNABLE:
            self.unable.add(context)
        return False
