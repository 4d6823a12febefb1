"""The command line on event loops without signal handlers, with limited encodings, and with closed outputs."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mediator.cli import main

ROOT = Path(__file__).parents[3]

WITHOUT_SIGNALS = """
import asyncio, asyncio.unix_events, sys

def unknown(*_):
    raise NotImplementedError  # like the event loops of Windows

asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = unknown
asyncio.unix_events._UnixSelectorEventLoop.remove_signal_handler = unknown
from mediator.cli import main
sys.argv = ["mediator", *sys.argv[1:]]
main()
"""

WORKER = """
import asyncio
from dependency_injector import containers, providers
from mediator import OutboxRelay
from mediator.dependency_injector import MediatorProvider

class Relay(OutboxRelay):
    def __init__(self): pass
    async def run(self):
        print("working", flush=True)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            {stopping}
            print("stopped", flush=True)
            raise

class Container(containers.DeclarativeContainer):
    mediator = MediatorProvider(behaviors=providers.List())
    relay = providers.Singleton(Relay)

create = Container
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "worker.py").write_text(WORKER.format(stopping="pass"))
    (tmp_path / "stuck.py").write_text(WORKER.format(stopping="await asyncio.Event().wait()"))
    return tmp_path


async def started(folder: Path, program: str, **options: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WITHOUT_SIGNALS, "run", f"{program}:create", "--relay-elsewhere"),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        **options,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"working" not in (line := await process.stdout.readline()):
            assert line, (await process.communicate())[1].decode()
    return process


@pytest.mark.thorough("waits in real time, or does much work")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_workers_drain_on_event_loops_without_signal_handlers(folder: Path, number: signal.Signals):
    process = await started(folder, "worker")
    process.send_signal(number)
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert "stopped" in output.decode()
    assert errors.decode() == "Stopping. Ctrl-C stops at once.\n"


async def test_a_second_ctrl_c_ends_workers_at_once_on_event_loops_without_signal_handlers(folder: Path):
    process = await started(folder, "stuck")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    async with asyncio.timeout(60):
        assert (await process.stderr.readline()).decode() == "Stopping. Ctrl-C stops at once.\n"
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (130, "Stopped at once.\n")


@pytest.mark.thorough("waits in real time, or does much work")
async def test_workers_stop_although_nobody_reads_their_output(folder: Path):
    process = await started(folder, "worker")
    assert process.stderr is not None
    process.stderr._transport.close()  # type: ignore[attr-defined]  # asyncio gives no other way
    await asyncio.sleep(0)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        assert process.stdout is not None
        assert b"stopped" in await process.stdout.read()
        assert await process.wait() == 0


NAMES = """
from dependency_injector import containers, providers
from mediator import Command, RequestHandler
from mediator.dependency_injector import MediatorProvider

class Übung_学生(Command[None]):
    pass

class Handler_学生(RequestHandler[Übung_学生, None]):
    async def handle(self, command: Übung_学生) -> None: ...

class Container(containers.DeclarativeContainer):
    mediator = MediatorProvider(behaviors=providers.List())
    handler = providers.Factory(Handler_学生)
"""


@pytest.fixture
def names(tmp_path: Path) -> Path:
    (tmp_path / "unusual_names.py").write_text(NAMES, encoding="utf-8")
    return tmp_path


class Terminal:
    """An output with a given encoding."""

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._written = [io.BytesIO(), io.BytesIO()]
        for name, written in zip(("stdout", "stderr"), self._written, strict=True):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding=encoding, write_through=True))

    def run(self, *arguments: str) -> tuple[int, bytes, bytes]:
        """Run the command, and return its exit status and its outputs."""
        self._monkeypatch.setattr(sys, "argv", ["mediator", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output, errors = (written.getvalue() for written in self._written)
        return int(ended.value.code or 0), output, errors


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "iso8859-5"])
@pytest.mark.parametrize("form", ["text", "mermaid"])
def test_characters_that_the_output_encoding_lacks_are_escaped(
    names: Path, encoding: str, form: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(names)
    status, output, errors = Terminal(encoding, monkeypatch).run(
        "describe", "unusual_names:Container", "--format", form
    )
    assert (status, errors) == (0, b"")
    assert b"\\u5b66" in output
    assert "Übung".encode(encoding, "backslashreplace") in output


@pytest.mark.parametrize("arguments", [("describe", "gibt_es_nicht_学生:x"), ("describe", "--nö_学生"), ("学生",)])
def test_errors_and_usage_are_printed_in_every_encoding(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    status, _, errors = Terminal("cp1252", monkeypatch).run(*arguments)
    assert status == 2
    assert b"\\u5b66" in errors


@pytest.mark.thorough("waits in real time, or does much work")
def test_a_closed_output_causes_no_traceback(names: Path):
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "mediator.cli", "describe", "unusual_names:Container", "--format", "mermaid"],
        cwd=names,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{names}", "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    _, errors = process.communicate(timeout=100)
    assert b"Traceback" not in errors
    assert process.returncode == 1
