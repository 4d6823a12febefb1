"""Starting and stopping a real nats-server."""

import asyncio
import os
import shutil
from pathlib import Path

import nats
import nats.js.api
import pytest

from mediator.errors import ServerStartError
from mediator.nats import NatsServer


async def stored_messages(url: str) -> int:
    client = await nats.connect(url)
    try:
        return (await client.jetstream().stream_info("s")).state.messages
    finally:
        await client.close()


async def store_one(url: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().add_stream(name="s", subjects=["s"])
    await client.jetstream().publish("s", b"")
    await client.close()


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_port_and_store_survive_kill_and_restart(server: NatsServer) -> None:
    url = server.url
    await store_one(url)
    await server.restart()
    assert (server.url, await stored_messages(url)) == (url, 1)
    await server.kill()
    assert server.pid is None
    await server.start()
    assert (server.url, await stored_messages(url)) == (url, 1)


async def test_a_store_of_ones_own_outlives_the_server(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        await store_one(server.url)
    async with NatsServer(tmp_path) as server:
        assert await stored_messages(server.url) == 1


async def test_leaving_ends_the_process_even_when_it_is_frozen() -> None:
    async with NatsServer() as server:
        pid = server.pid
        server.suspend()
    assert pid is not None
    assert not runs(pid)


async def test_a_start_that_fails_tells_the_log_and_leaves_no_process() -> None:
    server = NatsServer(settings="no_such_setting: 1")
    with pytest.raises(ServerStartError, match="exit code 1"):
        await server.start()
    assert server.pid is None
    await server.stop()


async def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    server = NatsServer()
    start = asyncio.create_task(server.start())
    while server.pid is None:
        await asyncio.sleep(0)
    pid = server.pid
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not runs(pid)
    await server.stop()


async def test_a_missing_binary_is_told_with_the_extra_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    server = NatsServer()
    with pytest.raises(ServerStartError, match=r"mediator\[server\]"):
        await server.start()
    await server.stop()


async def test_settings_reach_the_server() -> None:
    async with NatsServer(settings="max_payload: 4096", name="tiny") as server:
        client = await nats.connect(server.url)
        assert client.max_payload == 4096
        await client.close()
