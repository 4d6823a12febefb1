"""Forked: a process of a campaign, forked from one that has imported everything, because imports take a second."""

import asyncio
import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import psutil

from tests.faults.scenarios.processes import Process

_PRELOADED = [
    "tests.faults.campaign.clock",  # before modules that store the clock
    "tests.faults.campaign.containers",
    "tests.faults.campaign.writer",
    "mediator.cli.commands",
]


class Forked(Process):
    """A `Process` that is forked; its arguments have the form `-m module ...`."""

    def __init__(self, name: str, arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, arguments, log, environment)
        self._forked: ForkServerProcess | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int:
        assert self._forked is not None
        assert self._forked.pid is not None
        return self._forked.pid

    @property
    def runs(self) -> bool:
        return self._forked is not None and self._forked.exitcode is None

    async def start(self) -> None:
        async with self._starting:
            made = _context().Process(target=_main, args=(self._arguments, self.log, self.environment))
            await asyncio.to_thread(made.start)
            self._forked = made

    async def ended(self) -> int:
        """Wait for the end of the current process, even if another one replaces it at once."""
        forked = self._forked
        assert forked is not None
        while forked.exitcode is None:
            await asyncio.sleep(0.02)
        return forked.exitcode

    async def stop(self) -> int:
        async with self._starting:  # a starting process must end, too
            return await super().stop()

    def freeze(self) -> None:
        """Send SIGSTOP; the process stops shortly afterwards."""
        self.signal(signal.SIGSTOP)

    def signal(self, number: int) -> None:
        if self.runs:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(self.pid).send_signal(number)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _main(arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
    """Run the process like `python -m module ...`, with its output in a log file."""
    os.setsid()
    with log.open("ab") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    os.environ.update(environment)
    _, module, *rest = arguments
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
