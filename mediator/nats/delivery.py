"""NatsDelivery: one message of a durable consumer, until it is acknowledged."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from nats.aio.msg import Msg

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.remnant import Remnant
from mediator.distributed.subscription import Delivery
from mediator.errors import EventNotDecodableError
from mediator.nats.binding import from_message, partition_of, remnant_of

_PLAIN_TOKENS = 9  # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>
_NANOSECONDS = 1_000_000_000
_LONGEST_REASON = 200

Reply = Callable[[str, bytes], Awaitable[None]]


class NatsDelivery(Delivery):
    """A message that was pulled. Settling it twice does nothing; settling it offline leads to a redelivery.

    Args:
        message: The message.
        reply: Sends a body to a subject.
        settled: Called once, when the delivery was acknowledged or handed back.

    Attributes:
        unread: Whether it still waits to be taken.
        consumer: The durable consumer that it is of.
        remaining: How many more the consumer had for this group when it was sent.
        seen: When the broker last heard that it is in work, in seconds of the monotonic clock.
    """

    def __init__(self, message: Msg, reply: Reply, settled: Callable[["NatsDelivery"], None]) -> None:
        self.unread: bool = True
        self.seen: float = time.monotonic()
        self.subject: str = message.subject
        self.partition: int | None = partition_of(message.subject)
        self.headers: Mapping[str, str] = message.headers or {}
        self.data: bytes = message.data
        self._address = message.reply
        self._reply = reply
        self._on_settled = settled
        self._open = True
        tokens = message.reply.split(".")
        place = (tokens if len(tokens) == _PLAIN_TOKENS else tokens[2:])[2:9]
        stream, consumer, attempt, sequence, _, stored, remaining = place
        self.consumer: str = consumer
        self.remaining: int = int(remaining)
        self.attempt: int = int(attempt)
        self.sequence: int = int(sequence)
        self.stored_at: datetime = datetime.fromtimestamp(int(stored) / _NANOSECONDS, UTC)
        self.event: CloudEvent | None
        self.problem: str
        self.event, self.problem = _read(message, f"{stream}:{sequence}", self.stored_at)
        if self.event is None:
            self.remnant: Remnant = remnant_of(self.headers, self.data)

    async def ack(self) -> None:
        """Tell the broker that the event has taken effect."""
        await self._settle(b"+ACK")

    async def nak(self, delay: float) -> None:
        """Ask for the event again after `delay` seconds."""
        body = b"-NAK " + json.dumps({"delay": round(delay * _NANOSECONDS)}).encode() if delay > 0 else b"-NAK"
        await self._settle(body)

    async def term(self, reason: str) -> None:
        """Tell the broker never to deliver the event to this group again; the reason stands in its advisory."""
        await self._settle(f"+TERM {' '.join(reason.split())[:_LONGEST_REASON]}".rstrip().encode(errors="replace"))

    async def in_progress(self) -> None:
        """Ask the broker to wait longer before it delivers the event again."""
        if self._open:
            self.seen = time.monotonic()
            await self._reply(self._address, b"+WPI")

    async def _settle(self, body: bytes) -> None:
        if self._open:
            self._open = False
            self._on_settled(self)
            await self._reply(self._address, body)


def _read(message: Msg, fallback_id: str, stored_at: datetime) -> tuple[CloudEvent | None, str]:
    try:
        return from_message(message.headers, message.data, fallback_id=fallback_id, stored_at=stored_at), ""
    except EventNotDecodableError as error:
        return None, error.reason
