"""The broker returns after a backlog has built up: all events go out in order, in flat memory, and no attempt is counted."""

import asyncio
import time
from dataclasses import dataclass, field

from tests.faults.scenarios import tables
from tests.faults.scenarios.checker import alone, check_effects, check_stream
from tests.faults.scenarios.processes import Process
from tests.faults.scenarios.site import Site

_SIZE = 100
_GROWTH = 1.15
_LOG_LINES = 10
"""The maximum number of log lines of the relay and of its connections per outage, however long the outage is."""
_FIRST = 0.1


async def run(site: Site) -> None:
    """Run the scenario on a site."""
    report = site.report
    relay, keeper = await site.start_relay(), await site.start_keeper()
    await site.until_logged(relay, "relay started")
    await site.until_logged(keeper, "consumer started")
    await _publish_first_events(site)
    before = {each: each.logged() for each in (relay, keeper)}
    for broker in site.brokers:
        await broker.kill()
    report.progress("the broker is down")
    down = time.monotonic()
    await _build_backlog(site)
    report.figure("down (s)", time.monotonic() - down)
    for each in (relay, keeper):
        lines = each.logged() - before[each]
        report.figure(f"log lines of the {each.name} in the outage", lines)
        report.promise(
            f"{lines} log lines of the {each.name} in the outage", kept=lines <= _LOG_LINES * len(site.brokers)
        )
    await asyncio.gather(*(broker.start() for broker in site.brokers))
    report.progress("the broker is back")
    await _drain(site, relay)
    await site.stop([relay])
    await _conclude(site, keeper)


async def _publish_first_events(site: Site) -> None:
    """Publish one event before the outage and await its effect, so that the stream and its consumers exist."""
    hello = await site.processes.start(
        "hello", "-m", "tests.faults.scenarios.writer", "--number", 99, "--share", 1,
        environment=site.environment(site.publisher[0]),
    )  # fmt: skip
    await site.ended([hello])

    async def kept() -> bool:
        return await tables.count(site.keeper[1], "effects") == 1

    await site.until(kept, "the first effect", 60)


async def _build_backlog(site: Site) -> None:
    share = -(-site.options.events // site.options.writers)
    writers = await site.start_writers("--share", share, "--size", _SIZE, tasks=2)
    while any(writer.runs for writer in writers):
        await asyncio.wait([asyncio.ensure_future(writer.ended()) for writer in writers], timeout=5)
        site.report.progress(f"{await site.waiting():,} events wait")
    await site.ended(writers)


@dataclass
class Memory:
    """The memory of the relay while it drains: its peaks in bytes, during the first tenth of the events and after it."""

    total: int
    first: int = 0
    later: int = 0
    samples: list[int] = field(default_factory=list)

    def note(self, resident: int, left: int) -> None:
        if left > self.total * (1 - _FIRST):
            self.first = max(self.first, resident)
        else:
            self.later = max(self.later, resident)

    @property
    def growth(self) -> float:
        """The later peak divided by the first one; 1 if the drain was too short to measure."""
        return self.later / self.first if self.first and self.later else 1.0


async def _drain(site: Site, relay: Process) -> None:
    report, total = site.report, await site.waiting()
    memory, back, told, started = Memory(total), time.monotonic(), time.monotonic(), 0.0
    while left := await site.waiting():
        if left < total and not started:
            started = time.monotonic()
            report.figure("first published after the broker was back (s)", started - back)
        if left < total:
            memory.note(relay.resident(), left)
        if time.monotonic() - told > 5:
            told = time.monotonic()
            report.progress(f"{left:,} events wait, the relay has {relay.resident() / 2**20:.0f} MiB")
        if told - back > 1800:
            raise AssertionError(f"{left} events wait after half an hour\n{site.processes.errors()}")
        await asyncio.sleep(0.1)
    seconds = time.monotonic() - (started or back)
    report.figure("events drained", total)
    report.figure("events/s drained", total / seconds)
    report.figure("MiB of the relay at first", memory.first / 2**20)
    report.figure("MiB of the relay later", memory.later / 2**20)
    report.promise(f"the relay's memory grew to {memory.growth:.0%}", kept=memory.growth < _GROWTH)


async def _conclude(site: Site, keeper: Process) -> None:
    report, (publisher, keeping) = site.report, (site.publisher[1], site.keeper[1])
    findings, committed, _ = await check_stream(publisher, site.urls)
    report.findings("in the stream", findings)
    singles = len(alone(committed))

    async def kept() -> bool:
        return await tables.count(keeping, "effects") >= singles

    report.progress(f"{singles:,} events are to take effect")
    try:
        await site.until(kept, "all effects", 300)
    finally:
        report.findings("in effect", await check_effects(publisher, keeping, singles=True))
    report.figure("effects", singles)
    await site.stop([keeper])
    for name, engine in (("publisher", publisher), ("keeper", keeping)):
        for table in ("mediator_parked", "mediator_attempts"):
            rows = await tables.count(engine, table)
            report.promise(f"{rows} rows in {table} of the {name}", kept=rows == 0)
