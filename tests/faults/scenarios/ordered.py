"""Three consumers of an ordered group, one of which is killed repeatedly: effects happen in key order and once each."""

import asyncio
import random
import time

from tests.faults.scenarios import tables
from tests.faults.scenarios.checker import check_effects, check_stream
from tests.faults.scenarios.processes import Process
from tests.faults.scenarios.site import Site

_CONSUMERS = 3


async def run(site: Site) -> None:
    """Run the scenario on a site."""
    relay = await site.start_relay()
    keepers = [await site.start_keeper(f"keeper-{number}") for number in range(_CONSUMERS)]
    writers = await site.start_writers("--share", -(-site.options.events // site.options.writers), tasks=2)
    async with asyncio.TaskGroup() as group:
        killing = group.create_task(kill_repeatedly(site, keepers[0]))
        started = time.monotonic()
        await site.ended(writers)
        await site.until_relayed()
        site.report.progress("all events are in the stream")
        await until_kept(site)
        seconds = time.monotonic() - started
        killing.cancel()
    await site.stop([relay, *keepers[1:]])
    await keepers[0].stop()
    await _conclude(site, seconds)


async def kill_repeatedly(site: Site, keeper: Process) -> None:
    rng, kills = random.Random(site.options.seed), 0
    while True:
        await site.until_logged(keeper, "consumer started", kills + 1)
        await asyncio.sleep(rng.uniform(0.2, 1.0) * site.options.kill_pause)
        await keeper.kill()
        kills += 1
        site.report.figure("kills", kills)
        await keeper.start()


async def until_kept(site: Site, *, share: float = 1.0) -> None:
    """Wait until this share of the written events has taken effect and the consumer was killed often enough."""
    told = 0.0
    total, kills = await site.written(), site.options.accidents

    async def kept() -> bool:
        nonlocal told
        effects = await tables.count(site.keeper[1], "effects")
        if time.monotonic() - told > 5:
            told = time.monotonic()
            site.report.progress(f"{effects:,} of {total:,} took effect, {site.report.figures.get('kills', 0)} kills")
        return effects >= share * total and site.report.figures.get("kills", 0) >= kills

    try:
        await site.until(kept, "all effects", 600)
    except AssertionError as error:
        site.report.promise(str(error), kept=False)


async def _conclude(site: Site, seconds: float) -> None:
    report, publisher, keeper = site.report, site.publisher[1], site.keeper[1]
    findings, committed, _ = await check_stream(publisher, site.urls)
    report.findings("in the stream", findings)
    report.findings("in effect", await check_effects(publisher, keeper))
    report.figure("events", len(committed))
    report.figure("effects/s", len(committed) / seconds)
    again = [each for each in await tables.in_commit_order(keeper, "effects") if each.detail != "1"]
    report.figure("effects of a later attempt", len(again))
