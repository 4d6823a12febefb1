"""The active one of two relays is killed and frozen while writers write: no event is lost, doubled or inverted."""

import asyncio
import contextlib
import time
from pathlib import Path

from sqlalchemy import text

from tests.faults.scenarios import tables
from tests.faults.scenarios.checker import check_stream, resumed
from tests.faults.scenarios.processes import Process
from tests.faults.scenarios.report import Report
from tests.faults.scenarios.site import Site

_KILL_SECONDS = 1.0
_FREEZE_MARGIN = 5.0
"""Seconds; together with PostgreSQL's 10 s for an idle transaction, the limit is 15 s."""
_FROZEN_SECONDS = 2.0
"""Seconds for which a relay is frozen on SQLite, where its events wait for it."""
_THAW_SECONDS = 5.0
_WRITING_SECONDS = 1.0
_MAX_PENDING = 2000
"""The number of pending events at which writers pause, because the scenario does not measure throughput."""
_HOLDING = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE application_name = :name AND state = 'idle in transaction' AND backend_xid IS NOT NULL"
)
"""Counts transactions with an id, because a transaction that has locked a row has one."""


async def run(site: Site) -> None:
    """Run the scenario on a site."""
    relays = [await site.start_relay(name) for name in ("relay-1", "relay-2")]
    for relay in relays:
        await site.until_logged(relay, "relay started")
    writers = await site.start_writers(max_pending=_MAX_PENDING)
    moments: list[tuple[str, float, float]] = []
    for number in range(site.options.accidents):
        for kind in ("kill", "freeze"):
            await site.until_written((number + (kind == "freeze") / 2) / site.options.accidents)
            moments.append((kind, *await _accident(site, relays, kind)))
    await site.until_written(1.0)
    await site.stop(writers)
    written = time.monotonic()
    await site.until_relayed()
    site.report.figure("emptied after the last commit (s)", time.monotonic() - written)
    await site.stop(relays)
    await _conclude(site, relays, moments)


async def _accident(site: Site, relays: list[Process], kind: str) -> tuple[float, float]:
    """Kill or freeze the relay that holds events, continue it later, and return both times."""
    relay, moment = await _freeze_active(site, relays)
    last = max(map(int, await tables.ids(site.publisher[1], "mediator_outbox", "sequence")), default=0)
    site.report.progress(f"{kind}: {relay.name}")
    if kind == "kill":
        moment = time.time()
        await relay.kill()
        await _until_gone(site, last, _KILL_SECONDS)
        started = relay.logged("relay started")
        await relay.start()
        await site.until_logged(relay, "relay started", started + 1)
    elif site.options.database == "postgresql":
        await _until_gone(site, last, site.options.frozen_seconds + _FREEZE_MARGIN)
    else:
        await asyncio.sleep(_FROZEN_SECONDS)
    over = time.time()
    if kind == "freeze":
        relay.resume()
    return moment, over


async def _until_gone(site: Site, last: int, seconds: float) -> None:
    """Wait until the pending events are stored by the broker; the times of storing show a delay."""

    async def gone() -> bool:
        return (
            min(map(int, await tables.ids(site.publisher[1], "mediator_outbox", "sequence")), default=last + 1) > last
        )

    with contextlib.suppress(AssertionError):
        await site.until(gone, "taking over", 2 * seconds * site.report.patience)


async def _freeze_active(site: Site, relays: list[Process]) -> tuple[Process, float]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for relay in relays:
            moment = time.time()
            relay.freeze()
            if await _is_holding(site, relay) and await site.waiting() and await _writers_commit(site):
                return relay, moment
            relay.resume()
            await asyncio.sleep(0.02)
    raise AssertionError("no relay was caught with events in hand")


async def _writers_commit(site: Site) -> bool:
    """Return whether the writers commit events while a relay is frozen.

    They do not if the relay was frozen with the write lock of SQLite, while it removed events that are in the stream:
    then no event waits for a relay.
    """
    before = await site.written()
    deadline = time.monotonic() + _WRITING_SECONDS
    while time.monotonic() < deadline:
        if await site.written() > before:
            return True
        await asyncio.sleep(0.02)
    return False


async def _is_holding(site: Site, relay: Process) -> bool:
    """Return whether a frozen relay has claimed events."""
    url, engine = site.publisher
    if site.options.database == "sqlite":
        return relay.has_open(Path(f"{url.removeprefix('sqlite:///')}.relay"))
    async with engine.connect() as connection:
        return bool((await connection.execute(_HOLDING, {"name": relay.name})).scalar_one())


async def _conclude(site: Site, relays: list[Process], moments: list[tuple[str, float, float]]) -> None:
    report, sqlite = site.report, site.options.database == "sqlite"
    findings, committed, stored = await check_stream(site.publisher[1], site.urls)
    report.figure("events", len(committed))
    report.figure("events/s written", len(committed) / (committed[-1].at - committed[0].at))
    report.findings("in the stream", findings)
    report.figure("late words of relays that were frozen", sum(relay.logged("relay waits") for relay in relays))
    kills = [resumed(committed, stored, at, end) for kind, at, end in moments if kind == "kill"]
    _take_over(report, "going on after a kill", kills, _KILL_SECONDS)
    if sqlite:
        freezes = [resumed(committed, stored, end) for kind, _, end in moments if kind == "freeze"]
        _take_over(report, "going on after SIGCONT", freezes, _THAW_SECONDS)
    else:
        freezes = [resumed(committed, stored, at, end) for kind, at, end in moments if kind == "freeze"]
        _take_over(report, "taken over after a freeze", freezes, site.options.frozen_seconds + _FREEZE_MARGIN)


def _take_over(report: Report, what: str, waits: list[float | None], bound: float) -> None:
    times = [round(wait, 3) for wait in waits if wait is not None]
    report.promise(f"{what}: no event waited, nothing was shown", kept=bool(times))
    report.within(what, max(times, default=None), bound)
    report.figure(f"{what}, each (s)", times)
