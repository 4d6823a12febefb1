"""The proxy of the campaign simulates each fault of the network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.campaign.proxy import Proxy


class Echo:
    """A server that echoes its input, and counts ended connections."""

    def __init__(self) -> None:
        self.ended = asyncio.Semaphore(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(1000):
                writer.write(chunk)
        except ConnectionError:
            pass
        writer.close()
        self.ended.release()


@asynccontextmanager
async def through_a_proxy() -> AsyncIterator[tuple[Proxy, Echo, asyncio.StreamReader, asyncio.StreamWriter]]:
    echo = Echo()
    async with (
        await asyncio.start_server(echo.serve, "127.0.0.1", 0) as server,
        Proxy(server.sockets[0].getsockname()[1]) as proxy,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await ask(reader, writer, b"one") == b"one"
        yield proxy, echo, reader, writer
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    writer.write(data)
    async with asyncio.timeout(5):
        return await reader.read(1000)


async def silence(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)


async def test_dropped_bytes_are_held_back_and_arrive_when_the_network_heals():
    async with through_a_proxy() as (proxy, _, reader, writer):
        proxy.drop()
        writer.write(b"two")
        await silence(reader)
        proxy.heal()
        assert await ask(reader, writer, b"") == b"two"


async def test_a_connection_opened_while_dropping_is_held_back():
    async with through_a_proxy() as (proxy, *_):
        proxy.drop()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"new")
        await silence(reader)
        proxy.heal()
        assert await ask(reader, writer, b"") == b"new"
        writer.close()


async def test_delayed_bytes_take_the_delay_in_each_direction():
    async with through_a_proxy() as (proxy, _, reader, writer):
        proxy.delay(0.05)
        begin = asyncio.get_running_loop().time()
        assert await ask(reader, writer, b"two") == b"two"
        assert asyncio.get_running_loop().time() - begin >= 0.1


async def test_a_reset_ends_the_connection_on_both_sides():
    async with through_a_proxy() as (proxy, echo, reader, _):
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        async with asyncio.timeout(5):
            await echo.ended.acquire()


async def test_a_half_open_connection_is_closed_for_the_server_and_silent_for_the_client():
    async with through_a_proxy() as (proxy, echo, reader, writer):
        proxy.half_open()
        async with asyncio.timeout(5):
            await echo.ended.acquire()
        writer.write(b"anybody?")
        await silence(reader)


async def test_new_connections_pass_after_others_were_cut():
    async with through_a_proxy() as (proxy, *_):
        proxy.half_open()
        proxy.reset()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await ask(reader, writer, b"new") == b"new"
        writer.close()


async def test_connections_to_an_unreachable_server_are_refused():
    async with Proxy(1) as proxy:
        reader, _ = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
