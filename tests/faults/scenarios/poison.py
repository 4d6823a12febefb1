"""Poison events and their successors are parked, other keys continue, and a replay handles all in order."""

import itertools
from collections.abc import Awaitable, Callable

from mediator.dependency_injector import lifespan
from mediator.distributed.cloudevents import bucket_of
from tests.faults.scenarios import tables
from tests.faults.scenarios.application import Move, WriterContainer
from tests.faults.scenarios.checker import check_effects, check_stream
from tests.faults.scenarios.processes import Process
from tests.faults.scenarios.site import Site
from tests.faults.scenarios.stream import in_the_stream
from tests.faults.scenarios.tables import Seen
from tests.faults.scenarios.writer import names_of_keys

_PARTITIONS = 16
_PARKING_SECONDS = 10.0
_SUCCESSORS = 5
_TARGET = "tests.faults.scenarios.application:keeper"

Send = Callable[..., Awaitable[None]]


async def run(site: Site) -> None:
    """Run the scenario on a site."""
    relay, keeper = await site.start_relay(), await site.start_keeper()
    await site.ended(await site.start_writers("--share", -(-site.options.events // site.options.writers), tasks=2))
    await _effects(site, await site.written())
    broken, deadly, hanging = names_of_keys(3)
    config = {"database": site.publisher[0], "nats": site.urls, "max_pending": None}
    container, numbers = WriterContainer(config=config), itertools.count()
    async with lifespan(container, relay_elsewhere=True):

        async def send(key: str, action: str = "") -> None:
            await container.mediator().send(Move((key,), 99, next(numbers), action=action))

        await _park_with_successors(site, send, broken)
        await _park_deadly_event(site, send, deadly, keeper)
        await _deploy_while_handling(site, send, hanging, keeper)
        await _replay(site, send, (broken, deadly), keeper)
    await site.stop([relay, keeper])
    findings, committed, _ = await check_stream(site.publisher[1], site.urls)
    site.report.findings("in the stream", findings)
    site.report.findings("in effect", await check_effects(site.publisher[1], site.keeper[1]))
    site.report.figure("events", len(committed))


async def _effects(site: Site, number: int) -> None:
    async def kept() -> bool:
        return await tables.count(site.keeper[1], "effects") >= number

    await site.until(kept, f"{number} effects", 300)
    site.report.progress(f"{number:,} events took effect")


async def _parked(site: Site, number: int) -> list[Seen]:
    """Wait until this many events are parked, and return them."""

    async def parked() -> bool:
        return await tables.count(site.keeper[1], "mediator_parked") >= number

    await site.until(parked, f"{number} parked events", 120, 0.05)
    return await tables.parked(site.keeper[1])


def elsewhere(key: str, keys: list[str]) -> list[str]:
    """Return a key of each other partition."""
    of = {bucket_of(each, "") % _PARTITIONS: each for each in keys}
    return [each for partition, each in of.items() if partition != bucket_of(key, "") % _PARTITIONS]


def neighbour(key: str, keys: list[str]) -> str:
    """Return another key of the same partition."""
    partition = bucket_of(key, "") % _PARTITIONS
    return next(each for each in keys if each != key and bucket_of(each, "") % _PARTITIONS == partition)


async def _park_with_successors(site: Site, send: Send, key: str) -> None:
    """Check the parking of an event whose handler fails each time."""
    before = await tables.count(site.keeper[1], "effects")
    beside = neighbour(key, names_of_keys(site.options.keys))
    await send(key, "broken")
    for _ in range(_SUCCESSORS):
        await send(key)
        await send(beside)
    await _effects(site, before + _SUCCESSORS)
    parked = await _parked(site, 1 + _SUCCESSORS)
    reasons = [each.detail for each in parked]
    wanted = [f"handler-failed {site.options.attempts}", *["key-parked 0"] * _SUCCESSORS]
    site.report.promise(f"{reasons} instead of {wanted}", kept=reasons == wanted)
    stored = {each.id: each.at for each in await in_the_stream(site.urls)}
    site.report.within("parked with its successors after", max(p.at - stored[p.id] for p in parked), _PARKING_SECONDS)
    others = [each for each in await tables.in_commit_order(site.keeper[1], "effects") if each.key == beside]
    waited = max(each.at - stored[each.id] for each in others[-_SUCCESSORS:])
    site.report.within("in effect beside it after", waited, _PARKING_SECONDS)


async def _park_deadly_event(site: Site, send: Send, key: str, keeper: Process) -> None:
    """Check the parking of an event whose handler kills its process each time; the process is restarted each time."""
    before, deaths = await tables.count(site.keeper[1], "mediator_parked"), 0
    await send(key, "deadly")
    for each in elsewhere(key, names_of_keys(site.options.keys)):
        await send(each, "slow")
    await send(key)

    async def parked() -> bool:
        nonlocal deaths
        if not keeper.runs:
            deaths += 1
            site.report.progress(f"the process died, {deaths}")
            await keeper.start()
        return await tables.count(site.keeper[1], "mediator_parked") >= before + 2

    await site.until(parked, "parking of what kills the process", 300)
    reasons = [each.detail for each in (await tables.parked(site.keeper[1]))[before:]]
    wanted = [f"process-died {site.options.attempts}", "key-parked 0"]
    site.report.promise(f"{reasons} instead of {wanted}", kept=reasons == wanted)
    site.report.figure("deaths until it was parked", deaths)


async def _deploy_while_handling(site: Site, send: Send, key: str, keeper: Process) -> None:
    """Check an event whose handler is at work each time its process is stopped."""
    before = await tables.count(site.keeper[1], "mediator_parked")
    await send(key, "hanging")
    await send(key)
    for number in range(1, site.options.deployments + 1):
        await site.until_logged(keeper, "] hanging", number)
        await site.stop([keeper])
        await keeper.start()
    await site.until_logged(keeper, "] hanging", site.options.deployments + 1)
    parked = await tables.count(site.keeper[1], "mediator_parked") - before
    site.report.figure("deployments while handling", site.options.deployments)
    site.report.promise(f"{parked} events parked by deployments", kept=parked == 0)


async def _replay(site: Site, send: Send, keys: tuple[str, ...], keeper: Process) -> None:
    """Deploy the fix, and check that all parked events take effect in order with the later ones."""
    await site.stop([keeper])
    keeper.environment = site.environment(site.keeper[0], name="keeper", repaired=True)
    await keeper.start()
    for key in keys:
        await send(key)
    await _parked(site, 1 + _SUCCESSORS + 2 + len(keys))
    arguments = ("-m", "mediator.cli", "parked", "replay", _TARGET, "--all", "--yes")
    replay = await site.processes.start("replay", *arguments, environment=keeper.environment)
    await site.ended([replay])
    site.report.figure("replayed", replay.logged("load.moved.v1 replayed"))
    for key in keys:
        await send(key)
    await _effects(site, await site.written())
