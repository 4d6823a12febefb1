"""Process: one application, in a process of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

STOP_SECONDS = 20.0


class ProcessDiedError(Exception):
    """An application ended although nobody had asked it to, or not in good order."""


class Process:
    """Runs `python -m <arguments>`; what it writes on standard error goes to a log file."""

    def __init__(self, name: str, environment: dict[str, str], log: Path) -> None:
        self._name = name
        self._environment = os.environ | environment
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._killed = False

    async def start(self, *arguments: str, reports: bool = False) -> None:
        """Start it. What it prints is read with `lines()` when it reports, and is logged when not."""
        self._killed = False
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if reports else log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end the others in order
            )

    async def lines(self) -> AsyncIterator[bytes]:
        """The complete lines that it writes on standard output, until it ends."""
        stdout = self._running.stdout
        while stdout is not None and (line := await stdout.readline()).endswith(b"\n"):
            yield line

    async def kill(self) -> None:
        """SIGKILL: nothing in the process can prepare for it."""
        self._killed = True
        if self._running.returncode is None:
            self._running.kill()

    async def ended(self) -> bool:
        """Wait for its end; whether it was killed by us.

        Raises:
            ProcessDiedError: It ended with an error of its own.
        """
        status = await self._running.wait()
        if status != 0 and not self._killed:
            tail = self._log.read_text("utf-8", "replace")[-4000:]
            raise ProcessDiedError(f"{self._name} ended with status {status}. The end of its log:\n{tail}")
        return self._killed

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not end then.

        Raises:
            ProcessDiedError: It did not end in good order (to die of SIGTERM is).
        """
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.communicate()  # reads what is left, else a full pipe would keep it from ending
            if self._process.returncode != -signal.SIGTERM:
                await self.ended()
        except TimeoutError:
            raise ProcessDiedError(f"{self._name} did not stop within {STOP_SECONDS:g} s.") from None
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.communicate()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ProcessDiedError(f"{self._name} was not started.")
        return self._process
