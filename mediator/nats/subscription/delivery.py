"""NatsDelivery: one message of a durable consumer, until the message is acknowledged or handed back."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from nats.aio.msg import Msg

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Delivery, UnreadableMessage
from mediator.errors import EventNotDecodableError
from mediator.nats.binding import from_message, partition_of, unreadable_from
from mediator.nats.subjects import AckAddress
from mediator.nats.topology import NANOSECONDS

_LONGEST_REASON = 200

Reply = Callable[[str, bytes], Awaitable[None]]


class NatsDelivery(Delivery):
    """A message that was pulled from a durable consumer.

    The first call of `ack`, `nak` or `term` settles the delivery and calls `settled`; later calls do nothing. Without a
    connection, the broker is not informed of the call and delivers the message again.

    Attributes:
        unread: True until the application has fetched the delivery.
        remaining: The number of further messages that waited in the consumer when this message was delivered.
        seen: When the message arrived, or when its progress was last reported, in seconds of the monotonic clock.
    """

    def __init__(
        self, message: Msg, address: AckAddress, reply: Reply, settled: Callable[["NatsDelivery"], None]
    ) -> None:
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
        self.consumer: str = address.consumer
        self.remaining: int = address.remaining
        self.attempt: int = address.attempt
        self.sequence: int = address.sequence
        self.stored_at: datetime = datetime.fromtimestamp(address.stored / NANOSECONDS, UTC)
        self.event: CloudEvent | None = None
        self.problem: str = ""
        self.former_id: str | None = None
        former = f"{address.stream}:{address.sequence}"
        own = f"{former}@{address.stored}"  # a recreated stream uses the same sequences again
        try:
            self.event = from_message(self.headers, self.data, fallback_id=own, stored_at=self.stored_at)
            self.former_id = former if self.event.id == own else None
        except EventNotDecodableError as error:
            self.problem = error.reason
            self.unreadable: UnreadableMessage = unreadable_from(self.headers, self.data)

    async def ack(self) -> None:
        await self._settle(b"+ACK")

    async def nak(self, delay: float) -> None:
        body = b"-NAK " + json.dumps({"delay": round(delay * NANOSECONDS)}).encode() if delay > 0 else b"-NAK"
        await self._settle(body)

    async def term(self, reason: str) -> None:
        """Prevent further deliveries of the message. The broker's advisory shows 200 characters of the reason."""
        await self._settle(f"+TERM {' '.join(reason.split())[:_LONGEST_REASON]}".rstrip().encode(errors="replace"))

    async def in_progress(self) -> None:
        if self._open:
            self.seen = time.monotonic()
            await self._reply(self._address, b"+WPI")

    async def _settle(self, body: bytes) -> None:
        if self._open:
            self._open = False
            self._on_settled(self)
            await self._reply(self._address, body)
