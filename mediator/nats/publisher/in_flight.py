"""InFlight: sends the events of one `publish` call, one by one or in batches, and records the result of each event."""

import asyncio
import itertools
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client

from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import (
    DuplicateDroppedError,
    EventHeldBackError,
    EventRefusedError,
    PublisherUnavailableError,
    StreamUnavailableError,
)
from mediator.nats.binding import stream_name
from mediator.nats.topology import read_answer

MAX_IN_FLIGHT = 500
"""Maximum number of events of one domain in flight. An event in flight was sent, but not yet stored or refused."""

MAX_BYTES_IN_FLIGHT = 8 * 1024**2
"""While this many bytes of one domain are in flight, no further event of the domain is sent."""

BATCH = 1000
"""Maximum number of events in one atomic batch, as limited by nats-server."""

_BATCH_HEADER_BYTES = 128
"""Maximum number of bytes that the headers for a batch add to one message."""

_MAX_HEADER_BYTES = 65_535
"""Maximum size of a message's headers in JetStream, in bytes."""

_FRAME_BYTES = len(b"NATS/1.0\r\n\r\n")
_HEADER_BYTES = len(b": \r\n")


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One event as a NATS message."""

    event: CloudEvent
    domain: str
    subject: str
    headers: dict[str, str]

    def header_size(self) -> int:
        """Return the size of the headers in bytes. All characters are ASCII."""
        headers = self.headers
        text = sum(map(len, headers)) + sum(map(len, headers.values()))
        return _FRAME_BYTES + text + _HEADER_BYTES * len(headers)


class SendWindow:
    """Limits how many messages of one domain are in flight.

    Attributes:
        open: Whether messages may be sent one by one; true after the stream was checked and batches were sent.
        ready: The indexes of the messages that may be sent next.
    """

    def __init__(self) -> None:
        self.open: bool = False
        self.ready: deque[int] = deque()
        self._sizes: dict[int, int] = {}
        self._bytes = 0

    def next(self) -> int | None:
        """Remove and return the index of the next message to send; `None` when no message may be sent now."""
        may_send = self.open and self.ready and len(self._sizes) < MAX_IN_FLIGHT and self._bytes < MAX_BYTES_IN_FLIGHT
        return self.ready.popleft() if may_send else None

    def sent(self, index: int, size: int) -> None:
        """Record that a message of `size` bytes is in flight."""
        self._sizes[index] = size
        self._bytes += size

    def completed(self, index: int) -> None:
        """Record that a message is no longer in flight."""
        self._bytes -= self._sizes.pop(index, 0)


class InFlight:
    """Sends messages in order, and keeps at most one message of each partition key in flight.

    The number and size of the messages in flight are limited for each domain. nats-py's own buffer limit is not used:
    with this limit, nats-py swallows cancellations. A stream that does not answer delays only its own messages, and
    later messages that have the same partition keys.

    When a message was not stored, later messages with the same key are not sent: they would overtake this message.

    Args:
        messages: A message for each event; an `EventRefusedError` for an event that cannot be sent.
        keys: The partition key of each message; `None` for a message without a key.
        too_large: Returns the error for an event that is too large. The arguments are the event, the event's size in
            bytes, and the server's limit in bytes.
        refills: Whether the events are missing in their stream and are sent again with their old ids. If so, a
            duplicate is an error: the broker still remembers the id, and has not stored the event again.

    Attributes:
        duplicates: The indexes of the messages whose ids the broker already knew.
    """

    def __init__(
        self,
        messages: Sequence[OutgoingMessage | EventRefusedError],
        keys: Sequence[str | None],
        broker: str,
        *,
        too_large: Callable[[CloudEvent, int, int], Exception],
        refills: bool = False,
    ) -> None:
        self.duplicates: set[int] = set()
        self._too_large = too_large
        self._refills = refills
        self._given = messages
        self._messages = {index: each for index, each in enumerate(messages) if isinstance(each, OutgoingMessage)}
        self._broker = broker
        self._errors: dict[int, Exception | None] = {}
        self._windows: defaultdict[str, SendWindow] = defaultdict(SendWindow)
        self._next: dict[int, int] = {}
        self._previous: dict[int, int] = {}
        self._expected: dict[str, tuple[str, asyncio.Future[bytes | None]]] = {}
        self._wake = asyncio.Event()
        self._find_successors(keys)
        for index, message in enumerate(messages):
            if isinstance(message, EventRefusedError):
                self.settle(index, message)

    @property
    def done(self) -> bool:
        """Whether every message has a result."""
        return len(self._errors) == len(self._given)

    @property
    def errors(self) -> list[Exception | None]:
        """The result of each message, in order; `None` when the message was stored."""
        return [self._errors[index] for index in range(len(self._given))]

    def domains(self) -> list[str]:
        """Return the domains of the messages that have no result yet."""
        return sorted({message.domain for index, message in self._messages.items() if index not in self._errors})

    def settle_domain(self, domain: str, error: Exception) -> None:
        """Record an error as the result of each message of a domain."""
        for index, message in self._messages.items():
            if message.domain == domain:
                self.settle(index, error)

    def domain(self, index: int) -> str:
        """Return the domain of a message; an empty text for an event that cannot be sent."""
        return self._messages[index].domain if index in self._messages else ""

    def size(self, index: int) -> int:
        """Return the size of a message in bytes, including headers."""
        message = self._messages[index]
        return message.header_size() + len(message.event.data)

    def open(self, domain: str) -> None:
        """Allow the messages of a domain to be sent one by one."""
        self._windows[domain].open = True
        self._wake.set()

    async def run(self, client: Client, inbox: str) -> None:
        """Send messages until all have a result. The caller receives the answers on `<inbox>.<index>`."""
        while not self.done:
            self._wake.clear()
            while chosen := [index for window in self._windows.values() if (index := window.next()) is not None]:
                for index in chosen:
                    await self._send(client, inbox, index)
            if not self.done:
                await self._wake.wait()

    def next_batch(self, domain: str, max_payload: int) -> list[int]:
        """Return the indexes of the domain's next messages, in order, until one batch is full.

        A message is included only if the previous message with the same key is stored or included as well.
        """
        batch: list[int] = []
        batch_size = 0
        predecessors: set[int | None] = {None, *(index for index, error in self._errors.items() if error is None)}
        for index, message in self._messages.items():
            if len(batch) >= BATCH or batch_size >= MAX_BYTES_IN_FLIGHT:
                break
            if message.domain != domain or index in self._errors or self._previous.get(index) not in predecessors:
                continue
            header_size = message.header_size() + _BATCH_HEADER_BYTES
            size = header_size + len(message.event.data)
            if size <= max_payload and header_size <= _MAX_HEADER_BYTES:
                batch.append(index)
                batch_size += size
                predecessors.add(index)
        return batch

    def expect(self, number: str, domain: str) -> asyncio.Future[bytes | None]:
        """Return a future for the answer on `<inbox>.<number>`. The result is `None` when no answer will arrive."""
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._expected[number] = domain, future
        if self.done:
            future.set_result(None)
        return future

    def answer(self, number: str, data: bytes | None) -> None:
        """Set the result of the future that `expect` returned for `number`."""
        _, future = self._expected.pop(number, ("", None))
        if future is not None and not future.done():
            future.set_result(data)

    def deny(self, subject: str, error: Callable[[str], Exception]) -> None:
        """Record an error for each message on `subject` (in lower case), because the application may not publish there.

        The broker never answers a batch from which a message is missing. Therefore each batch of the message's domain
        gets the answer `None`.
        """
        for index, message in self._messages.items():
            if index not in self._errors and message.subject.lower() == subject:
                self.settle(index, error(message.domain))
                for number in [number for number, (domain, _) in self._expected.items() if domain == message.domain]:
                    self.answer(number, None)

    def settle_all(self, indexes: Sequence[int], error: Exception | None) -> None:
        """Record one result for several messages."""
        self._errors.update(dict.fromkeys((index for index in indexes if index not in self._errors), error))
        for index in indexes:
            self._release_successor(index, error)
        self._wake.set()

    def settle(self, index: int, error: Exception | None) -> None:
        """Record the result of a message.

        Without an error, the next message with the same key may be sent. After an error, all later messages with the
        same key are held back.
        """
        if index in self._errors or not 0 <= index < len(self._given):
            return
        self._errors[index] = error
        self._windows[self.domain(index)].completed(index)
        self._wake.set()
        self._release_successor(index, error)

    def _release_successor(self, index: int, error: Exception | None) -> None:
        successor = self._next.get(index)
        if error is None and successor is not None and successor not in self._errors:
            self._windows[self.domain(successor)].ready.append(successor)
        while error is not None and successor is not None:
            self._errors.setdefault(successor, _held_back(self._given[successor]))
            successor = self._next.get(successor)

    def known(self, index: int) -> None:
        """Record the result of a message that the broker reports as a duplicate."""
        self.duplicates.add(index)
        if self._refills:
            reason = "it remembers the id, but no longer holds the event"
            self.settle(index, DuplicateDroppedError(self._broker, reason, self._messages[index].event.id))
        else:
            self.settle(index, None)

    def refuse(self, index: int, reason: str) -> None:
        """Record that the broker refuses a message and would refuse it again."""
        self.settle(index, refusal(self._messages[index].event, reason))

    def give_up(self, error: Exception) -> None:
        """Record an error as the result of all messages that have no result yet."""
        for index in range(len(self._given)):
            self._errors.setdefault(index, error)
        self._wake.set()
        for number in [*self._expected]:
            self.answer(number, None)

    def _find_successors(self, keys: Sequence[str | None]) -> None:
        last: dict[str, int] = {}
        for index, key in enumerate(keys):
            if key is not None and key in last:
                self._next[last[key]] = index
                self._previous[index] = last[key]
            else:
                self._windows[self.domain(index)].ready.append(index)
            if key is not None:
                last[key] = index

    async def _send(self, client: Client, inbox: str, index: int) -> None:
        if index in self._errors:
            return
        message = self._messages[index]
        header_size, size = message.header_size(), self.size(index)
        if size > client.max_payload:  # the server would close the connection
            self.settle(index, self._too_large(message.event, size, client.max_payload))
        elif header_size > _MAX_HEADER_BYTES:
            text = f"its headers are {header_size:,} bytes, and JetStream takes at most {_MAX_HEADER_BYTES:,}"
            self.settle(index, refusal(message.event, text))
        else:
            self._windows[message.domain].sent(index, size)
            await self.send_one(client, index, f"{inbox}.{index}", {})

    async def send_one(self, client: Client, index: int, reply: str, headers: Mapping[str, str]) -> bool:
        """Send a message with further headers; return whether the message was sent. The caller checks the message's size."""
        if index in self._errors:
            return False
        message = self._messages[index]
        try:
            await client.publish(message.subject, message.event.data, reply, message.headers | dict(headers))
        except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            self.settle(index, refusal(message.event, str(error)))
        except (nats.errors.Error, OSError) as error:
            self.give_up(PublisherUnavailableError(self._broker, str(error) or type(error).__name__))
        else:
            return True
        return False


def refusal(event: CloudEvent, reason: str) -> EventRefusedError:
    """Return the error for an event that the broker would refuse at each attempt."""
    return EventRefusedError(event.id, event.type, reason)


def _held_back(message: OutgoingMessage | EventRefusedError) -> EventHeldBackError:
    """Return the error for an event whose predecessor was not stored."""
    if isinstance(message, OutgoingMessage):
        return EventHeldBackError(message.event.id, message.event.type)
    return EventHeldBackError(message.event_id, message.event_type)


SMALLEST = 16
"""Minimum number of messages in a batch.

Each batch costs the broker about 3 ms for writing the batch's files. With `sync_interval: always`, a batch of
this size is faster than single messages. With other settings, batches are never faster than single messages.
"""

_UNABLE = frozenset({10174, 10175, 10177, 10179, 10199})
"""Error codes for a batch when the stream accepts no batches, no message ids in batches, or only smaller batches."""

_COMMIT = {"Nats-Batch-Commit": "1"}


class AtomicBatches:
    """Sends the messages of an `InFlight` in atomic batches: the broker stores all messages of a batch or none."""

    def __init__(self, in_flight: InFlight, client: Client, inbox: str, broker: str, prefix: str) -> None:
        self._in_flight = in_flight
        self._client = client
        self._inbox = inbox
        self._broker = broker
        self._prefix = prefix
        self._numbers = itertools.count()
        self.unable: set[str] = set()
        """The domains whose streams accept no batches."""

    async def run(self, domain: str) -> None:
        """Send the messages of a domain in batches. Messages that fit in no batch are left without a result."""
        while not self._in_flight.done:
            batch = self._in_flight.next_batch(domain, self._client.max_payload)
            if len(batch) < SMALLEST or not await self._store(domain, batch):
                return

    async def _store(self, domain: str, indexes: list[int]) -> bool:
        """Send a batch and record its result; return whether the next batch may be sent."""
        number, identity = f"b{next(self._numbers)}", uuid.uuid4().hex
        answer = self._in_flight.expect(number, domain)
        for sequence, index in enumerate(indexes, 1):
            headers = {"Nats-Batch-Id": identity, "Nats-Batch-Sequence": str(sequence)}
            last = sequence == len(indexes)
            reply = f"{self._inbox}.{number}" if last else ""
            if not await self._in_flight.send_one(self._client, index, reply, headers | _COMMIT if last else headers):
                self._in_flight.answer(number, None)  # the broker drops the incomplete batch without an answer
                break
        return self._settle(domain, identity, indexes, await answer)

    def _settle(self, domain: str, identity: str, indexes: list[int], data: bytes | None) -> bool:
        if data is None:  # all messages have a result, or a message of the batch was refused
            return False
        answer = read_answer(data) if data else {"error": None}
        if "error" not in answer:
            fits = (answer.get("batch"), answer.get("count")) == (identity, len(indexes))
            error = None if fits else PublisherUnavailableError(self._broker, f"the answer to a batch is {answer}")
            self._in_flight.settle_all(indexes, error)
            return fits
        refused = answer["error"]
        if refused is None:
            stream = stream_name(self._prefix, domain)
            error = StreamUnavailableError(self._broker, "no stream answers (503)", stream)
            self._in_flight.settle_all(indexes, error)
        elif refused.get("err_code") in _UNABLE:
            self.unable.add(domain)
        return False
