"""The processes of a campaign are stopped and restarted exactly on request."""

import asyncio
import contextlib
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.faults.campaign.forked import Forked
from tests.faults.campaign.supervisor import Supervisor
from tests.faults.scenarios.processes import Process

pytestmark = pytest.mark.thorough("kills and freezes processes")

SECONDS = 30


@pytest.fixture
async def forked(tmp_path: Path):
    process = Forked("server", ["-m", "http.server", "0", "--bind", "127.0.0.1"], tmp_path / "log", {})
    async with asyncio.timeout(SECONDS):
        await process.start()
        yield process
        await process.kill()


async def test_the_end_of_a_process_is_noticed_although_another_one_has_replaced_it(forked: Forked):
    killed = psutil.Process(forked.pid)
    ending = asyncio.create_task(forked.ended())
    await asyncio.sleep(0)  # the supervisor waits for this process
    forked.signal(signal.SIGKILL)
    killed.wait(SECONDS)
    await forked.start()
    assert await ending == -signal.SIGKILL
    assert forked.runs


async def test_a_starting_process_is_stopped(forked: Forked):
    await forked.kill()
    starting = asyncio.create_task(forked.start())
    await asyncio.sleep(0)
    assert not forked.runs
    assert await forked.stop() == -signal.SIGTERM
    await starting
    assert not forked.runs


class Slow(Process):
    """A process whose start takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__("slow", [], Path(), {})
        self.alive = False
        self.starts = 0
        self.asked = asyncio.Event()
        self.may_start = asyncio.Event()

    @property
    def runs(self) -> bool:
        return self.alive

    async def start(self) -> None:
        self.starts += 1
        self.asked.set()
        await self.may_start.wait()
        self.alive = True


async def test_a_process_stopped_during_the_restart_of_another_one_is_not_restarted():
    dead, stopped, other = Slow(), Slow(), Slow()
    stopped.alive = True
    site: Any = SimpleNamespace(running={"writer": [dead, stopped], "relay": [other]})
    supervisor = Supervisor(site)
    supervising = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(SECONDS):
        await dead.asked.wait()
        del site.running["writer"]
        stopped.alive = False
        for each in (dead, other):
            each.may_start.set()
        await other.asked.wait()
    supervising.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await supervising
    assert (dead.starts, stopped.starts, other.starts) == (1, 0, 1)
