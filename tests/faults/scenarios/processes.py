"""The processes of a scenario: started with their logs in files, killed, frozen, and always ended."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
_STOP_SECONDS = 60.0


class Process:
    """One process, which can be restarted.

    Args:
        name: The name of the process and of its log.
        arguments: The arguments of the Python interpreter.
        log: The file to which its output is appended.
        environment: Environment variables in addition to those of this process.
    """

    def __init__(self, name: str, arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self.environment = dict(environment)
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *self._arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=ROOT, env={**os.environ, "PYTHONASYNCIODEBUG": "", **self.environment},
            )  # fmt: skip

    async def ended(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        assert self._process is not None
        return await self._process.wait()

    async def kill(self) -> None:
        """Send SIGKILL, even to a frozen process; an ended process is ignored."""
        if self.runs:
            self.signal(signal.SIGKILL)
            await self.ended()

    async def stop(self) -> int:
        """Send SIGTERM, and return the exit status."""
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(_STOP_SECONDS):
            return await self.ended()

    def freeze(self) -> None:
        """Send SIGSTOP, and wait until the process has stopped."""
        self.signal(signal.SIGSTOP)
        if sys.platform == "linux":
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Send SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.runs and self._process is not None:
                self._process.send_signal(number)

    def resident(self) -> int:
        """Return the bytes of memory in use."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def computed(self) -> float:
        """Return the CPU time in seconds."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def has_open(self, file: Path) -> bool:
        with contextlib.suppress(psutil.Error):
            return any(each.path == str(file) for each in psutil.Process(self.pid).open_files())
        return False

    def logged(self, words: str = "") -> int:
        """Return the number of lines of its log that contain these words."""
        return sum(words in line for line in self.log.read_text("utf-8", "replace").splitlines())


class Processes:
    """All processes of a scenario, with their logs in one folder."""

    def __init__(self, folder: Path, kind: type[Process] = Process) -> None:
        self._folder = folder
        self._kind = kind
        self._all: list[Process] = []

    async def start(self, name: str, *arguments: object, environment: Mapping[str, str]) -> Process:
        process = self._kind(name, [*map(str, arguments)], self._folder / f"{name}.log", environment)
        self._all.append(process)
        await process.start()
        return process

    async def run(self, target: str, name: str, environment: Mapping[str, str], module: str = "application") -> Process:
        """Start `mediator run` with one of the scenarios' applications."""
        arguments = ("-m", "mediator.cli", "run", f"tests.faults.scenarios.{module}:{target}")
        return await self.start(name, *arguments, environment=environment)

    async def kill(self) -> None:
        for process in self._all:
            await process.kill()

    def errors(self) -> str:
        """Return the ends of all logs, for the report of a failure."""
        return "\n".join(f"== {each.name}\n{each.log.read_text('utf-8', 'replace')[-1000:]}" for each in self._all)


@asynccontextmanager
async def processes_in(folder: Path, kind: type[Process] = Process) -> AsyncIterator[Processes]:
    """Yield processes, all of which are killed in the end."""
    processes = Processes(folder, kind)
    try:
        yield processes
    finally:
        await asyncio.shield(processes.kill())
