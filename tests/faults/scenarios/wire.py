"""The NATS protocol of a stranger: bytes that are sent unchecked."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.faults.scenarios.foreign import MAX_PAYLOAD, Message

_LONGEST_LINE = 4096
_READ_BYTES = 2**20


class Arrived(NamedTuple):
    """A message of the broker for a subscription."""

    subject: bytes
    reply: bytes
    headers: bytes
    body: bytes


class Wire:
    """One connection, which reconnects after the broker has ended it.

    Args:
        url: The URL of the broker.

    Attributes:
        closed: The number of connections that the broker has ended.
        refused: The number of errors that the broker has reported.
    """

    def __init__(self, url: str) -> None:
        self.closed = 0
        self.refused = 0
        self._url = urlsplit(url)
        self._subscriptions: list[bytes] = []
        self._arrived: asyncio.Queue[Arrived] = asyncio.Queue()
        self._ponged = asyncio.Event()
        self._ended = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        reader, self._writer = await asyncio.open_connection(self._url.hostname, self._url.port, limit=2**24)
        await reader.readline()
        self._write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n')
        for number, subject in enumerate(self._subscriptions, 1):
            self._write(b"SUB %s %d\r\n" % (subject, number))
        self._ended.clear()
        self._reading = asyncio.create_task(self._read(reader))

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))
        if self._writer is not None:
            self._writer.close()

    async def subscribe(self, subject: bytes) -> None:
        self._subscriptions.append(subject)
        self._write(b"SUB %s %d\r\n" % (subject, len(self._subscriptions)))
        await self.flush()

    @property
    def unread(self) -> int:
        """The number of messages that have arrived and were not taken yet."""
        return self._arrived.qsize()

    async def next(self) -> Arrived:
        return await self._arrived.get()

    async def flush(self) -> None:
        """Wait until the broker has received everything, or reconnect if it has ended the connection."""
        self._ponged.clear()
        self._write(b"PING\r\n")
        waits = [asyncio.ensure_future(each.wait()) for each in (self._ponged, self._ended)]
        try:
            async with asyncio.timeout(60):
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        if self._ended.is_set():
            self.closed += 1
            await self.close()
            await self.connect()

    async def send(self, message: Message) -> None:
        """Publish a message; the broker ends the connection after a too large one."""
        words = [message.subject, *([message.reply] if message.reply else [])]
        words = [b"HPUB", *words, b"%d" % len(message.headers)] if message.headers else [b"PUB", *words]
        line = b" ".join([*words, b"%d\r\n" % message.size])
        self._write(line + message.headers + message.body + b"\r\n")
        if message.size > MAX_PAYLOAD or len(line) > _LONGEST_LINE:
            await self.flush()

    def _write(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    self._write(b"PONG\r\n")
                elif line.startswith(b"PONG"):
                    self._ponged.set()
                elif line.startswith(b"-ERR"):
                    self.refused += 1
                elif line.startswith((b"MSG ", b"HMSG ")):
                    self._arrived.put_nowait(await _message(reader, line))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._ended.set()


async def _message(reader: asyncio.StreamReader, line: bytes) -> Arrived:
    words = line.rstrip(b"\r\n").split(b" ")
    headed = words[0] == b"HMSG"
    size, head = int(words[-1]), int(words[-2]) if headed else 0
    reply = words[3] if len(words) == 5 + headed else b""
    data = (await reader.readexactly(size + 2))[:-2]
    return Arrived(words[1], reply, data[:head], data[head:])


@asynccontextmanager
async def opened_wire(url: str) -> AsyncIterator[Wire]:
    wire = Wire(url)
    await wire.connect()
    try:
        yield wire
    finally:
        await wire.close()


async def asked(wire: Wire, inbox: bytes, subject: bytes, body: object, *, headers: bytes = b"") -> Any:
    """Send a request, and return its answer; `inbox` must receive no other answers."""
    await wire.send(Message(subject, inbox, headers, json.dumps(body).encode()))
    async with asyncio.timeout(60):
        while True:
            answer = await wire.next()
            if answer.subject == inbox:
                return json.loads(answer.body) if answer.body else None
