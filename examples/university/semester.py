"""Semester: one run of both applications, with the accidents that were planned for it."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.university.ledger import Ledger
from examples.university.process import Process
from examples.university.progress import Progress
from examples.university.stream import Stream
from mediator.nats import NatsServer

ENROLLMENT = "examples.university.enrollment"
ADVISING = ("mediator.cli", "run", "examples.university.advising.container:create")
OUTAGE_SECONDS = 0.5
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    commands: int
    seed: int
    kill: bool
    restart_broker: bool


class Semester:
    """Starts both applications, keeps what enrollment reports, causes accidents, and waits for the last effect."""

    def __init__(
        self, plan: Plan, data: Path, stream: Stream, *, prefix: str, server: NatsServer | None, progress: Progress
    ) -> None:
        self.plan = plan
        self.reports: dict[int, str] = {}
        self.ledger = Ledger(data / "enrollment.sqlite3", data / "advising.sqlite3")
        self._stream = stream
        self._server = server
        self._progress = progress
        shared = {"NATS_URL": stream.url, "EVENTS_PREFIX": prefix}
        self._enrollment = Process(
            "enrollment", shared | {"DATABASE_URL": f"sqlite:///{self.ledger.enrollment}"}, data / "enrollment.log"
        )
        self._advising = Process(
            "advising", shared | {"DATABASE_URL": f"sqlite:///{self.ledger.advising}"}, data / "advising.log"
        )
        self._accidents = self._planned()

    async def run(self, seconds: float) -> bool:
        """Run to the last effect; False when that takes longer than `seconds`.

        Raises:
            ProcessDiedError: An application ended that should not have (in a group).
        """
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                watches = [group.create_task(self._keep_advising()), group.create_task(self._count_effects())]
                await self._enroll(group)
                await self._stream.settle()
                self._show_effects()
                for watch in watches:
                    watch.cancel()
        except TimeoutError:
            return False
        finally:
            try:
                await self._enrollment.stop()
            finally:
                await self._advising.stop()
        return True

    async def _enroll(self, group: asyncio.TaskGroup) -> None:
        """Send all commands; after a crash, go on with the first one of which no outcome is known."""
        killed = True
        while killed:
            first, last = len(self.reports) + 1, self.plan.commands
            await self._enrollment.start(
                *(ENROLLMENT, "--first", str(first), "--last", str(last), "--seed", str(self.plan.seed)), reports=True
            )
            async for line in self._enrollment.lines():
                report = json.loads(line)
                self.reports[report["number"]] = report["outcome"]
                self._progress.sent(len(self.reports))
                if self._accidents and len(self.reports) >= self._accidents[0][0]:
                    group.create_task(self._accidents.pop(0)[1]())
            killed = await self._enrollment.ended()

    async def _keep_advising(self) -> None:
        killed = True
        while killed:
            await self._advising.start(*ADVISING)
            killed = await self._advising.ended()

    async def _count_effects(self) -> None:
        while True:
            self._show_effects()
            await asyncio.sleep(POLL_SECONDS)

    def _show_effects(self) -> None:
        committed = sum(outcome == "committed" for outcome in self.reports.values())
        self._progress.effects(self.ledger.count_effects(), 2 * committed)

    def _planned(self) -> list[tuple[int, Callable[[], Coroutine[Any, Any, None]]]]:
        commands, planned = self.plan.commands, []
        if self.plan.kill:
            planned += [(commands // 4, self._kill_enrollment), (commands * 3 // 4, self._kill_advising)]
        if self.plan.restart_broker and self._server is not None:
            planned.append((commands // 2, self._restart_broker))
        return sorted(planned, key=lambda accident: accident[0])

    async def _kill_enrollment(self) -> None:
        self._progress.note("enrollment is killed and started again")
        await self._enrollment.kill()

    async def _kill_advising(self) -> None:
        self._progress.note("advising is killed and started again")
        await self._advising.kill()

    async def _restart_broker(self) -> None:
        if self._server is not None:
            self._progress.note("nats-server is killed and started again")
            await self._server.kill()
            await asyncio.sleep(OUTAGE_SECONDS)
            await self._server.start()
