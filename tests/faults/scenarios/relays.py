"""Two relays, of which the active one is killed and frozen while writers write: nothing lost, doubled or inverted."""

import asyncio
import time
from pathlib import Path

from sqlalchemy import text

from tests.faults.scenarios.checker import check_stream, resumed
from tests.faults.scenarios.processes import Process
from tests.faults.scenarios.site import Site

_TAKE_OVER_SECONDS = {"kill": 1.0, "freeze": 15.0}
_MAX_PENDING = 2000
"""Writers wait when so many events do: how fast events go out at all is not what is measured."""
_HOLDING = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND state = 'idle in transaction'")


async def run(site: Site) -> None:
    """Run the scenario on a site."""
    relays = [await site.start_relay(name) for name in ("relay-1", "relay-2")]
    await site.until(_publishing(site), "relays that are ready", 60)
    writers = await site.start_writers(max_pending=_MAX_PENDING)
    moments: list[tuple[str, float, float]] = []
    for number in range(site.options.accidents):
        for kind in ("kill", "freeze"):
            await _enough(site, (number + (kind == "freeze") / 2) / site.options.accidents)
            moments.append((kind, *await _accident(site, relays, kind)))
    await _enough(site, 1.0)
    for writer in writers:
        status = await writer.stop()
        site.report.promise(f"{writer.name} ended with {status}", kept=status == 0)
    written = time.monotonic()
    await site.until_relayed()
    site.report.figure("emptied after the last commit (s)", time.monotonic() - written)
    for relay in relays:
        await relay.stop()
    await _conclude(site, relays, moments)


def _publishing(site: Site):  # noqa: ANN202
    async def ready() -> bool:
        return all((site.folder / f"relay-{number}.log").read_text().count("relay started") for number in (1, 2))

    return ready


async def _enough(site: Site, share: float) -> None:
    """Wait until that share of the events was written since."""

    async def written() -> bool:
        return await site.written() >= share * site.options.events

    await site.until(written, f"{share:.0%} of the events")
    site.report.progress(f"{await site.written():,} events written, {await site.waiting():,} wait")


async def _accident(site: Site, relays: list[Process], kind: str) -> tuple[float, float]:
    """Kill or freeze the relay that has events in hand, and let it go on later; when, and when it was over."""
    relay, moment = await _freeze_active(site, relays)
    site.report.progress(f"{kind}: {relay.name}")
    if kind == "kill":
        await relay.kill()
        moment = time.time()
        await asyncio.sleep(_TAKE_OVER_SECONDS["kill"] + 1)
        await relay.start()
    else:
        await asyncio.sleep(_frozen(site))
        relay.resume()
    return moment, time.time()


def _frozen(site: Site) -> float:
    """How long a relay is frozen: on PostgreSQL until others must have its events; on SQLite they wait for it."""
    longest = site.options.frozen_seconds + 5.0
    return longest * site.report.patience if site.options.database == "postgresql" else 3.0


async def _freeze_active(site: Site, relays: list[Process]) -> tuple[Process, float]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for relay in relays:
            moment = time.time()
            relay.freeze()
            if await _is_holding(site, relay) and await site.waiting():
                return relay, moment
            relay.resume()
            await asyncio.sleep(0.02)
    raise AssertionError("no relay was caught with events in hand")


async def _is_holding(site: Site, relay: Process) -> bool:
    """Whether a frozen relay has claimed events."""
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
    for kind, bound in _TAKE_OVER_SECONDS.items():
        longest = [resumed(committed, stored, end if sqlite and kind == "freeze" else at) for k, at, end in moments if k == kind]
        report.figure(f"{kind}s", len(longest))
        times = [each for each in longest if each is not None]
        what = "going on after SIGCONT" if sqlite and kind == "freeze" else f"taken over after a {kind}"
        if kind == "freeze" and not sqlite:
            bound = site.options.frozen_seconds + 5.0
        report.promise(f"{what}: events waited", kept=bool(times))
        report.within(what, max(times, default=None), 5.0 if sqlite and kind == "freeze" else bound)
        report.figure(f"{what}, each (s)", [round(each, 3) for each in times])
    report.figure("claims lost", sum(relay.logged("ClaimLostError") for relay in relays))
