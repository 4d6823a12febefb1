"""Proxy: forwards connections between clients and a local server, and simulates faults of the network."""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

_CHUNK = 65536
_RESET_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of zero, so that closing sends RST instead of FIN."""


class Proxy:
    """Forwards connections: `async with Proxy(server_port) as proxy: connect_to(proxy.port)`.

    Args:
        target: The port of the server.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._delay = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._silent: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.heal()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port to which clients connect."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._pairs)

    def delay(self, seconds: float) -> None:
        """Delay each piece of data from now on, in each direction."""
        self._delay = seconds

    def drop(self) -> None:
        """Hold back all data from now on, in both directions, even the end of a connection."""
        self._flowing.clear()

    def heal(self) -> None:
        """Forward held-back and new data again; cut connections stay cut."""
        self._delay = 0.0
        self._flowing.set()

    def reset(self) -> None:
        """Reset each connection on both sides."""
        for writer in [*(each for pair in self._pairs for each in pair), *self._silent]:
            _reset(writer)

    def half_open(self) -> None:
        """End each connection for the server; for the client it stays open and silent."""
        for client, server in list(self._pairs):
            self._silent.add(client)
            _reset(server)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await self._flowing.wait()
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        pair = (writer, server_writer)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server_writer))
                group.create_task(self._pump(server_reader, writer))
        finally:
            self._pairs.discard(pair)
            await self._end(writer, server_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._flowing.wait()
                if writer.transport.is_closing():
                    continue  # a half-open connection discards the data of its client
                writer.write(chunk)
                await writer.drain()
        await self._flowing.wait()
        if writer not in self._silent and not writer.transport.is_closing():
            with contextlib.suppress(OSError):
                writer.write_eof()

    async def _end(self, *writers: asyncio.StreamWriter) -> None:
        for writer in writers:
            self._silent.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
    writer.transport.abort()
