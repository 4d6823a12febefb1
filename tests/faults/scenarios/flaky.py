"""One event in ten fails twice and is tried later, and one of two consumers is killed again and again: none is parked."""

import asyncio

from tests.faults.scenarios import tables
from tests.faults.scenarios.checker import check_effects, check_stream
from tests.faults.scenarios.ordered import kill_repeatedly, until_kept
from tests.faults.scenarios.site import Site

_SHARE = 0.1
_RETRY_DELAYS = [0.0]
_HANDLER_TIMEOUT = 5.0
"""Seconds. On SQLite, an event whose process was killed in a later try is claimed again a minute after this time."""
_LATER_DELAYS = [0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0]


async def run(site: Site) -> None:
    """Run the scenario on a site."""
    relay = await site.start_relay()
    settings = {"retry_delays": _RETRY_DELAYS, "later_delays": _LATER_DELAYS, "handler_timeout": _HANDLER_TIMEOUT}
    keepers = [await site.start_keeper(f"keeper-{number}", **settings) for number in range(2)]
    share = -(-site.options.events // site.options.writers)
    writers = await site.start_writers("--share", share, "--flaky", _SHARE, tasks=2)
    async with asyncio.TaskGroup() as group:
        killing = group.create_task(kill_repeatedly(site, keepers[0]))
        await site.ended(writers)
        await site.until_relayed()
        site.report.progress("all events are in the stream")
        await until_kept(site, share=0.9)
        killing.cancel()
    if not keepers[0].runs:
        await keepers[0].start()
    await until_kept(site)
    parked = await tables.parked(site.keeper[1])
    site.report.promise(f"{len(parked)} events are parked", kept=not parked)
    await site.stop([relay, keepers[1]])
    await keepers[0].stop()
    findings, committed, _ = await check_stream(site.publisher[1], site.urls)
    site.report.findings("in the stream", findings)
    site.report.findings("in effect", await check_effects(site.publisher[1], site.keeper[1]))
    site.report.figure("events", len(committed))
    again = [each for each in await tables.in_commit_order(site.keeper[1], "effects") if int(each.detail) > 2]
    site.report.figure("effects of a third or later attempt", len(again))
