"""Run: a campaign from its start to its verdict."""

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from mediator.errors import MediatorError
from tests.faults.campaign.checker import count, gathered
from tests.faults.campaign.faults import Faults
from tests.faults.campaign.schedule import lasting
from tests.faults.campaign.site import Options, Site, opened_site
from tests.faults.campaign.supervisor import Supervisor
from tests.faults.campaign.troubles import read_journals
from tests.faults.campaign.verdict import Verdict, events_needed
from tests.faults.scenarios import tables

_TELL_SECONDS = 5.0
_STILL_SECONDS = 60.0
"""Seconds without an effect after which the pending events count as stuck."""
_POLL = 0.2
_AWAY = (SQLAlchemyError, MediatorError, OSError)
"""Errors of a database during a fault."""


def tell(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201  (a program)


class Campaign:
    """One run on a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._supervisor = Supervisor(site)
        self._faults = Faults(site, self._supervisor)
        self._started = time.monotonic()

    async def run(self) -> Verdict:
        """Apply faults, wait until everything is at rest, and check the result."""
        site, options = self._site, self._site.options
        await site.start()
        supervising = asyncio.create_task(self._supervisor.run())
        telling = asyncio.create_task(self._tell())
        try:
            await self._apply_faults()
            await self._repair()
            await self._come_to_rest()
        finally:
            for task in (supervising, telling):
                task.cancel()
            await asyncio.wait((supervising, telling))
        ended_badly = await self._stop(*site.running)
        journals = read_journals(site.folder)
        evidence = await gathered(site.engines, site.broker_urls, ended_badly, journals.told)
        return Verdict(
            count(evidence), self._faults.done, options.seconds, options.seed, options.database,
            troubles=journals.troubles,
            told=Counter(each.outcome for each in journals.told),
            wanted=options.troubles,
        )  # fmt: skip

    async def _apply_faults(self) -> None:
        options, begin = self._site.options, time.monotonic()
        async with asyncio.TaskGroup() as group:
            async for fault in lasting(options.seed, options.database, options.seconds, self._did_enough):
                await asyncio.sleep(max(0.0, begin + fault.at - time.monotonic()))
                group.create_task(self._faults.run(fault))
            await asyncio.sleep(max(0.0, begin + options.seconds - time.monotonic()))

    async def _did_enough(self) -> bool:
        try:
            return await self._effects() >= events_needed(self._site.options.seconds)
        except _AWAY:
            return False

    async def _repair(self) -> None:
        """Restore all servers and processes, stop the writers, and restart the consumers with repaired handlers."""
        await self._site.heal()
        tell(f"{self._elapsed()} no more faults; what was broken is repaired")
        await self._stop("writer")
        for name in ("keeper", "auditor"):
            await self._restart_repaired(name)

    async def _stop(self, *names: str) -> list[str]:
        """Send SIGTERM to the processes, and return the name and exit status of each that did not stop properly."""
        processes = [each for name in names for each in self._site.running.pop(name)]
        outcomes = await asyncio.gather(*(each.stop() for each in processes), return_exceptions=True)
        return [f"{each.name} ({was!r})" for each, was in zip(processes, outcomes, strict=True) if was != 0]

    async def _restart_repaired(self, name: str) -> None:
        """Restart consumers like a deployment. The death of an old process by a deadly event is no fault."""
        processes = list(self._site.running[name])
        await self._stop(name)
        for process in processes:
            first = process.name.endswith("-0")
            process.environment = self._site.environment("keeper", repaired=True, first=first)
            await process.start()
        self._site.running[name] = processes

    async def _come_to_rest(self) -> None:
        """Replay parked events and wait until no event is pending, as long as there is progress."""
        moved, last = time.monotonic(), -1
        while not await self._is_at_rest() and time.monotonic() - moved < _STILL_SECONDS:
            if await self._count("keeper", "mediator_parked"):
                await self._replay()
            effects = await self._effects()
            if effects != last:
                moved, last = time.monotonic(), effects
            await asyncio.sleep(_POLL)
        tell(f"{self._elapsed()} at rest" if await self._is_at_rest() else f"{self._elapsed()} NOT at rest")

    async def _is_at_rest(self) -> bool:
        waiting = [await self._count(name, "mediator_outbox") for name in self._site.engines]
        parked = [await self._count(name, "mediator_parked") for name in self._site.engines]
        if any(waiting) or any(parked):
            return False
        entries, keyed = await self._count("ledger", "entries"), await self._count("ledger", "entries WHERE key <> ''")
        effects, audits = await self._count("keeper", "effects"), await self._count("keeper", "audits")
        return effects >= keyed and audits >= entries - keyed + effects

    async def _replay(self) -> None:
        for name in ("keeper", "auditor"):
            target = f"tests.faults.campaign.containers:{name}"
            arguments = ("-m", "mediator.cli", "parked", "replay", target, "--consumer", name, "--yes")
            environment = self._site.environment("keeper", repaired=True)
            await (await self._site.processes.start(f"replay-{name}", *arguments, environment=environment)).ended()

    async def _count(self, application: str, table: str) -> int:
        return await tables.count(self._site.engines[application], table)

    async def _effects(self) -> int:
        return await self._count("keeper", "effects") + await self._count("keeper", "audits")

    async def _tell(self) -> None:
        """Print a line every few seconds."""
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            try:
                written = await self._count("ledger", "entries")
                counted = f"{written:,} events written, {await self._effects():,} effects"
            except _AWAY:
                counted = "the database is away"
            done = sum(self._faults.done.values())
            tell(f"{self._elapsed()} {counted}, {done} faults, {self._supervisor.restarts} restarts")

    def _elapsed(self) -> str:
        return f"[{time.monotonic() - self._started:6.1f} s]"


async def run(options: Options, folder: Path) -> Verdict:
    """Run a campaign with its files in a folder."""
    async with opened_site(options, folder) as site:
        return await Campaign(site).run()
