"""Flight: the events of one publish call on their way to the broker, and what became of each."""

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client

from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import DuplicateDroppedError, EventHeldBackError, EventRefusedError, PublisherUnavailableError

WINDOW = 500
"""How many events are on their way at the same time, at most."""

WINDOW_BYTES = 8 * 1024**2
"""How many bytes are on their way at the same time, at most, before one more event is sent."""

BATCH = 1000
"""How many events one atomic batch holds, at most: the limit of nats-server."""

_BATCH_HEADER_BYTES = 128
"""What the headers of a batch add to each of its messages, at most, in bytes."""

_MAX_HEADER_BYTES = 65_535
"""What JetStream takes in headers, in bytes."""

_FRAME_BYTES = len(b"NATS/1.0\r\n\r\n")
_HEADER_BYTES = len(b": \r\n")


@dataclass(frozen=True, slots=True)
class Letter:
    """One event as a NATS message."""

    event: CloudEvent
    context: str
    subject: str
    headers: dict[str, str]

    def header_size(self) -> int:
        """How large the headers are, in bytes; `max_payload` limits them and the body together. All of them are ASCII."""
        headers = self.headers
        text = sum(map(len, headers)) + sum(map(len, headers.values()))
        return _FRAME_BYTES + text + _HEADER_BYTES * len(headers)


class Flight:
    """Sends letters in order, at most `WINDOW` and at most one of each partition key at a time.

    nats-py buffers without a limit here (a limit makes it swallow cancellations), hence the limits of our own.

    A letter whose predecessor of the same key was not stored is not sent, so that an order survives partial failure.

    Args:
        letters: What to send; an `EventRefusedError` stands for an event that cannot be sent.
        keys: The partition key of each; `None` for one without order.
        broker: The name of the broker, for errors.
        refills: Whether a letter that the broker knows is one that it only remembers, and has to be sent otherwise.

    Attributes:
        duplicates: Those that the broker knew.
    """

    def __init__(
        self,
        letters: Sequence[Letter | EventRefusedError],
        keys: Sequence[str | None],
        broker: str,
        *,
        refills: bool = False,
    ) -> None:
        self.duplicates: set[int] = set()
        self._refills = refills
        self._letters = letters
        self._broker = broker
        self._errors: dict[int, Exception | None] = {}
        self._flying: dict[int, int] = {}
        self._flying_bytes = 0
        self._ready: deque[int] = deque()
        self._next: dict[int, int] = {}
        self._previous: dict[int, int] = {}
        self._expected: dict[str, asyncio.Future[bytes | None]] = {}
        self._wake = asyncio.Event()
        self._line_up(keys)
        for index, letter in enumerate(letters):
            if isinstance(letter, EventRefusedError):
                self.settle(index, letter)

    @property
    def done(self) -> bool:
        """Whether the fate of every letter is known."""
        return len(self._errors) == len(self._letters)

    @property
    def errors(self) -> list[Exception | None]:
        """What became of each letter, in order; `None` is stored."""
        return [self._errors[index] for index in range(len(self._letters))]

    def contexts(self) -> list[str]:
        """The contexts of the letters that are to be sent."""
        open_letters = (letter for index, letter in enumerate(self._letters) if index not in self._errors)
        return sorted({letter.context for letter in open_letters if isinstance(letter, Letter)})

    def settle_context(self, context: str, error: Exception) -> None:
        """Settle every letter of a context."""
        for index, letter in enumerate(self._letters):
            if isinstance(letter, Letter) and letter.context == context:
                self.settle(index, error)

    def context(self, index: int) -> str:
        """The context of a letter."""
        letter = self._letters[index]
        return letter.context if isinstance(letter, Letter) else ""

    async def run(self, client: Client, inbox: str) -> None:
        """Send everything; acknowledgements go to `<inbox>.<index>` and come back through `settle`."""
        while not self.done:
            self._wake.clear()
            while self._ready and len(self._flying) < WINDOW and self._flying_bytes < WINDOW_BYTES:
                await self._send(client, inbox, self._ready.popleft())
            if not self.done:
                await self._wake.wait()

    def in_line(self, contexts: Collection[str], max_payload: int) -> dict[str, list[int]]:
        """What could be stored now of each of these contexts, at most one batch of it, in order.

        That is what has no predecessor of the same key, except such as are stored or in the same line.
        """
        lines: dict[str, list[int]] = {context: [] for context in contexts}
        sizes = dict.fromkeys(contexts, 0)
        chosen: dict[int, str] = {}
        for index, letter in enumerate(self._letters):
            if index in self._errors or not isinstance(letter, Letter) or letter.context not in lines:
                continue
            context, line = letter.context, lines[letter.context]
            if len(line) >= BATCH or sizes[context] >= WINDOW_BYTES or not self._may_follow(index, context, chosen):
                continue
            header_size = letter.header_size() + _BATCH_HEADER_BYTES
            size = header_size + len(letter.event.data)
            if size <= max_payload and header_size <= _MAX_HEADER_BYTES:
                line.append(index)
                chosen[index] = context
                sizes[context] += size
        return lines

    def expect(self, number: str) -> asyncio.Future[bytes | None]:
        """What will be answered to `<inbox>.<number>`; `None` when the flight ends before."""
        future = self._expected[number] = asyncio.get_running_loop().create_future()
        if self.done:
            future.set_result(None)
        return future

    def answer(self, number: str, data: bytes) -> None:
        """Pass on what was answered to an expected number."""
        future = self._expected.pop(number, None)
        if future is not None and not future.done():
            future.set_result(data)

    def settle_all(self, indexes: Sequence[int], error: Exception | None) -> None:
        """Note what became of several letters at a time."""
        self._errors.update(dict.fromkeys((index for index in indexes if index not in self._errors), error))
        for index in indexes:
            self._release_successor(index, error)
        self._wake.set()

    def settle(self, index: int, error: Exception | None) -> None:
        """Note what became of a letter, and let its successor go, or not."""
        if index in self._errors or not 0 <= index < len(self._letters):
            return
        self._errors[index] = error
        self._flying_bytes -= self._flying.pop(index, 0)
        self._wake.set()
        self._release_successor(index, error)

    def _release_successor(self, index: int, error: Exception | None) -> None:
        successor = self._next.get(index)
        if error is not None:
            self._hold_back(successor)
        elif successor is not None and successor not in self._errors:
            self._ready.append(successor)

    def known(self, index: int) -> None:
        """Settle a letter of which the broker says that it is a duplicate."""
        letter = self._letters[index]
        self.duplicates.add(index)
        if self._refills and isinstance(letter, Letter):
            reason = "it remembers the id, and does not hold the event any more"
            self.settle(index, DuplicateDroppedError(self._broker, reason, letter.event.id))
        else:
            self.settle(index, None)

    def refuse(self, index: int, reason: str) -> None:
        """Settle a letter as one that the broker will refuse every time."""
        letter = self._letters[index]
        if isinstance(letter, Letter):
            self.settle(index, refusal(letter.event, reason))

    def give_up(self, error: Exception) -> None:
        """Settle everything that is still open."""
        for index in range(len(self._letters)):
            self._errors.setdefault(index, error)
        self._flying.clear()
        self._ready.clear()
        self._wake.set()
        for future in self._expected.values():
            if not future.done():
                future.set_result(None)
        self._expected.clear()

    def _line_up(self, keys: Sequence[str | None]) -> None:
        last: dict[str, int] = {}
        for index, key in enumerate(keys):
            if key is not None and key in last:
                self._next[last[key]] = index
                self._previous[index] = last[key]
            else:
                self._ready.append(index)
            if key is not None:
                last[key] = index

    def _hold_back(self, index: int | None) -> None:
        while index is not None:
            self._errors.setdefault(index, _held_back(self._letters[index]))
            index = self._next.get(index)

    def _may_follow(self, index: int, context: str, chosen: Mapping[int, str]) -> bool:
        previous = self._previous.get(index)
        if previous is None or chosen.get(previous) == context:
            return True
        return previous in self._errors and self._errors[previous] is None

    async def _send(self, client: Client, inbox: str, index: int) -> None:
        letter = self._letters[index]
        if index in self._errors or not isinstance(letter, Letter):
            return
        header_size = letter.header_size()
        size = header_size + len(letter.event.data)
        if size > client.max_payload:  # the server would close the connection for good
            text = f"with its headers it is {size:,} bytes, and the broker takes at most {client.max_payload:,}"
            self.settle(index, refusal(letter.event, text))
        elif header_size > _MAX_HEADER_BYTES:
            text = f"its headers are {header_size:,} bytes, and JetStream takes at most {_MAX_HEADER_BYTES:,}"
            self.settle(index, refusal(letter.event, text))
        elif await self.launch(client, index, f"{inbox}.{index}", {}):
            self._flying[index] = size
            self._flying_bytes += size

    async def launch(self, client: Client, index: int, reply: str, headers: Mapping[str, str]) -> bool:
        """Send one letter with more headers; whether it is on its way. `in_line` and `run` have checked its size."""
        letter = self._letters[index]
        if index in self._errors or not isinstance(letter, Letter):
            return False
        try:
            await client.publish(letter.subject, letter.event.data, reply, letter.headers | dict(headers))
        except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            self.settle(index, refusal(letter.event, str(error)))
        except (nats.errors.Error, OSError) as error:
            self.give_up(PublisherUnavailableError(self._broker, str(error) or type(error).__name__))
        else:
            return True
        return False


def refusal(event: CloudEvent, reason: str) -> EventRefusedError:
    """The error of an event that the broker will refuse every time."""
    return EventRefusedError(event.id, event.type, reason)


def _held_back(letter: Letter | EventRefusedError) -> EventHeldBackError:
    """The error of a letter that would overtake; one that cannot be sent is refused when its turn comes."""
    if isinstance(letter, Letter):
        return EventHeldBackError(letter.event.id, letter.event.type)
    return EventHeldBackError(letter.event_id, letter.event_type)
