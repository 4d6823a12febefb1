"""Foreign events and requests among healthy ones: each takes effect, is parked or leaves a log line."""

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
from sqlalchemy import text

from mediator.dependency_injector import lifespan
from mediator.distributed.inbox.identity import identity_of, text_or_hash
from mediator.nats import NatsEventSubscription, open_connection
from tests.faults.scenarios import tables
from tests.faults.scenarios.answering import HEALTHY, ORDERED, UNORDERED, AskingContainer, Note
from tests.faults.scenarios.processes import Process
from tests.faults.scenarios.site import Site
from tests.faults.scenarios.tables import Seen

_BOUND = 1.0
_PAUSE = 0.2
_LONGEST_LINE = 10_000
_GROWTH = 1.05
_GROWTH_BYTES = 8 * 2**20
_ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""glibc gives each thread, and so each SQLite connection, an arena that keeps freed memory. The library does not hold
that memory, so the processes run with one arena for all threads."""
_NUMBER = 50
_HELLOS = 2
_STREAM = "events-load"
_TYPES = {ORDERED: "load.kept", UNORDERED: "load.told"}
_ENDS = {
    "request refused", "request failed", "request without an inbox ignored", "request turned away", "request given up",
}  # fmt: skip
"""Log events of the responder for a request without effect."""
_LEFT_OUT = "similar lines left out"
_SAID = {
    "event parked",
    "relay started",
    "relay stopped",
    "consumer started",
    "consumer stopped",
    "connected",
    "closed",
}
_SAID |= {
    "responder started",
    "responder stopped",
    "attributes dropped",
    "transaction committed",
    "transaction rolled back",
}
_SAID |= {"Stopping. Ctrl-C stops at once."}


@dataclass
class Memory:
    """The memory of the processes in bytes, from the start of the strangers to their end."""

    processes: Sequence[Process]
    samples: dict[str, list[int]] = field(default_factory=dict)

    async def sample(self) -> None:
        while True:
            for each in self.processes:
                if each.runs:
                    self.samples.setdefault(each.name, []).append(each.resident())
            await asyncio.sleep(0.25)

    def tell(self, site: Site) -> None:
        for name, samples in self.samples.items():
            fifth = max(1, len(samples) // 5)
            fifths = [statistics.median(samples[part * fifth : (part + 1) * fifth] or samples) for part in range(5)]
            for number, held in enumerate(fifths, 1):
                site.report.figure(f"MiB of {name}, fifth {number} of 5", held / 2**20)
            early, late = fifths[1], fifths[4]
            kept = late < max(early * _GROWTH, early + _GROWTH_BYTES)
            site.report.promise(f"{name} grew from {early / 2**20:.0f} to {late / 2**20:.0f} MiB", kept=kept)


@dataclass
class Asker:
    """Sends valid requests repeatedly, and records the waiting times."""

    site: Site
    sent: int = 0
    seconds: list[float] = field(default_factory=list)

    async def ask(self, sender: Any) -> None:
        began = time.monotonic()
        await sender.send(Note(f"{HEALTHY}{self.sent % _NUMBER}", self.sent))
        self.seconds.append(time.monotonic() - began)
        self.sent += 1

    async def ask_on(self, sender: Any) -> None:
        while True:
            await self.ask(sender)
            await asyncio.sleep(_PAUSE)


async def run(site: Site) -> None:
    """Run the scenario on a site."""
    report, options = site.report, site.options
    answering = await _start(site, "answering", site.publisher[0])
    keeping = [await _start(site, name, site.keeper[0]) for name in ("ordered", "unordered")]
    await site.until_logged(answering, "responder started")
    for each in keeping:
        await site.until_logged(each, "consumer started")
    asker, memory = Asker(site), Memory([answering, *keeping])
    async with lifespan(AskingContainer(config={"nats": site.urls})) as container:
        sender = container.sender()
        await _publish_first_events(site, asker, sender)
        before = await _topology(site)
        async with _watching(site) as heard:
            counts = site.folder / "sent.json"
            stranger = await site.processes.start(
                "stranger", "-m", "tests.faults.scenarios.stranger", "--url", site.urls[0], "--events", options.events,
                "--requests", options.events, "--seed", options.seed, "--file", counts, environment={},
            )  # fmt: skip
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(memory.sample()), group.create_task(asker.ask_on(sender))]
                telling = group.create_task(_tell(site, stranger, asker))
                await stranger.ended()
                report.figure("seconds of the strangers", time.monotonic() - began)
                for task in (*tasks, telling):
                    task.cancel()
            await site.ended([stranger])
            await site.until_relayed()
            await _until_settled(site)
    sent = json.loads(counts.read_text()) if counts.exists() else {}
    for name, number in sent.items():
        report.figure(f"strangers: {name}", number)
    memory.tell(site)
    for process in (answering, *keeping):
        report.figure(f"seconds of a core for {process.name}", process.computed())
    report.promise("the streams and consumers are others than before", kept=await _topology(site) == before)
    for process in (answering, *keeping):
        report.promise(f"{process.name} runs no more", kept=process.runs)
    await _account_for_events(site)
    await _account_for_requests(site, answering, heard)
    await site.stop([answering, *keeping])
    await _tell_times(site, asker)
    for process in (answering, *keeping):
        _check_log(site, process)


async def _start(site: Site, name: str, database: str) -> Process:
    environment = {**site.environment(database, name=name), **_ONE_ARENA}
    return await site.processes.run(name, name, environment, "answering")


async def _publish_first_events(site: Site, asker: Asker, sender: Any) -> None:
    """Publish one event for each group, so that the stream and its consumers exist."""
    for _ in range(_HELLOS):
        await asker.ask(sender)

    async def kept() -> bool:
        return await tables.count(site.keeper[1], "effects") == _HELLOS

    await site.until(kept, "the first effects", 60)
    asker.seconds.clear()


async def _topology(site: Site) -> dict[str, Any]:
    """Return the configuration of every stream and consumer of the broker."""
    client = await nats.connect(site.urls)
    try:
        found: dict[str, Any] = {}
        streams = json.loads((await client.request("$JS.API.STREAM.LIST", b"{}")).data)["streams"] or []
        for stream in streams:
            name = stream["config"]["name"]
            found[name] = (
                stream["config"],
                stream["created"],
                stream["state"].get("num_deleted", 0),
                stream["state"]["first_seq"],
            )
            listed = json.loads((await client.request(f"$JS.API.CONSUMER.LIST.{name}", b"{}")).data)
            found |= {f"{name} {each['name']}": (each["config"], each["created"]) for each in listed["consumers"]}
        return found
    finally:
        await client.close()


@asynccontextmanager
async def _watching(site: Site) -> AsyncIterator[dict[str, Any]]:
    """Run a watcher; the yielded dictionary is filled with its records after it was stopped."""
    heard: dict[str, Any] = {}
    file = site.folder / "heard.json"
    watcher = await site.processes.start(
        "watcher", "-m", "tests.faults.scenarios.watcher", "--url", site.urls[0], "--file", file, environment={}
    )
    await site.until_logged(watcher, "watching")
    yield heard
    await site.stop([watcher])
    heard |= json.loads(file.read_text())
    ours = heard["ours"]
    site.report.figure("messages sent to what a stranger chose", len(ours))
    site.report.promise(f"{len(ours)} messages sent to what a stranger chose: {ours[:5]}", kept=not ours)
    site.report.promise("the watcher missed something", kept=heard["closed"] == 0)


async def _tell(site: Site, stranger: Process, asker: Asker) -> None:
    while True:
        await asyncio.sleep(5)
        lines = stranger.log.read_text("utf-8", "replace").splitlines() or [""]
        late = max(asker.seconds[-100:], default=0.0)
        site.report.progress(f"{lines[-1]}; {asker.sent:,} healthy requests, one of the last hundred took {late:.2f} s")


async def _until_settled(site: Site) -> None:
    """Wait until no event waits for the groups."""
    client = await nats.connect(site.urls)

    async def settled() -> bool:
        listed = json.loads((await client.request(f"$JS.API.CONSUMER.LIST.{_STREAM}", b"{}")).data)
        return not any(each["num_pending"] + each["num_ack_pending"] for each in listed["consumers"])

    try:
        await site.until(settled, "settled events", 120)
    except AssertionError as error:
        site.report.promise(str(error), kept=False)
    finally:
        await client.close()


# Accounting.


async def _account_for_events(site: Site) -> None:
    """Check that exactly the events that the stream holds for a group have taken effect or are parked, each once."""
    report = site.report
    effects = await tables.in_commit_order(site.keeper[1], "effects")
    parked = await _parked(site)
    stored: dict[str, Counter[tuple[str, str]]] = {group: Counter() for group in _TYPES}
    total = 0
    async for delivery in _all_stored(site):
        total += 1
        for group, name in _TYPES.items():
            if _is_delivered(delivery.subject, group, name):
                identity = identity_of(group, delivery)
                stored[group][identity.source, identity.event_id] += 1
    report.figure("events that the stream holds for the groups, or near them", total)
    for group, name in _TYPES.items():
        known = Counter(_fitting(each.id) for each in effects if each.detail == name)
        set_aside = Counter(parked[group])
        settled = known + set_aside
        report.figure(f"{group}: stored", stored[group].total())
        report.figure(f"{group}: effects", known.total())
        report.figure(f"{group}: parked", set_aside.total())
        report.figure(f"{group}: duplicates", stored[group].total() - len(stored[group]))
        lost = [each for each in stored[group] if each not in settled]
        strange = [each for each in settled if each not in stored[group]]
        doubled = [each for each, times in settled.items() if times > 1]
        for what, found in (("lost", lost), ("strange", strange), ("doubled", doubled)):
            report.figure(f"{group}: {what}", len(found))
            report.promise(f"{len(found)} {what} events of {group}, such as {str(found[:3])[:500]}", kept=not found)
    committed = await tables.in_commit_order(site.publisher[1], "entries")
    report.figure("events of requests", len(committed))
    attempts = await tables.count(site.keeper[1], "mediator_attempts")
    report.promise(f"{attempts} starts that did not end", kept=attempts == 0)
    report.figure("lost in the stream", await _not_stored(site, committed, stored))


def _is_delivered(subject: str, group: str, name: str) -> bool:
    """Return whether a group receives messages of a subject: the ordered group of its partitions, the other one of all.

    A server stores a message published on `events.load.told.>`, and no subscription to a single pattern receives it.
    """
    if group == ORDERED:
        return subject in {f"events.{name}.{number}" for number in range(16)}
    return subject.startswith(f"events.{name}.") and not subject.endswith(".>")


async def _not_stored(site: Site, committed: Sequence[Seen], stored: dict[str, Counter[tuple[str, str]]]) -> int:
    """Return how many events of the applications did not reach the stream."""
    there = {identity for group in stored.values() for identity in group}
    missing = [each.id for each in committed if _fitting(each.id) not in there]
    site.report.promise(f"{len(missing)} events not published, such as {missing[:3]}", kept=not missing)
    return len(missing)


def _fitting(known: str) -> tuple[str, str]:
    source, event_id = json.loads(known)
    return text_or_hash(source), text_or_hash(event_id)


async def _parked(site: Site) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {group: [] for group in _TYPES}
    reasons: Counter[str] = Counter()
    async with site.keeper[1].connect() as connection:
        for row in await connection.execute(text("SELECT consumer, source, event_id, reason FROM mediator_parked")):
            found[row[0]].append((row[1], row[2]))
            reasons[f"{row[0]}: {row[3]}"] += 1
    for name, number in sorted(reasons.items()):
        site.report.figure(f"parked, {name}", number)
    return found


async def _all_stored(site: Site) -> AsyncIterator[Any]:
    """Return all messages that a new group receives: as many as the broker counts."""
    async with open_connection(site.urls) as connection:
        client = await connection.client("publish", timeout=60)
        counted = 0
        for event_type in _TYPES.values():
            wanted = {"subjects_filter": f"events.{event_type}.*"}
            answer = await client.request(f"$JS.API.STREAM.INFO.{_STREAM}", json.dumps(wanted).encode())
            counted += sum((json.loads(answer.data)["state"].get("subjects") or {}).values())
        checker = NatsEventSubscription(connection, "checker", max_ack_pending=5000)
        async with checker.open(_TYPES.values(), prefetch=1000) as deliveries:
            for _ in range(counted):
                async with asyncio.timeout(60):
                    delivery = await deliveries.next()
                yield delivery
                await delivery.ack()


async def _account_for_requests(site: Site, answering: Process, heard: dict[str, Any]) -> None:
    """Check that each request has taken effect or left a log line."""
    report = site.report
    committed = await tables.count(site.publisher[1], "entries") - _HELLOS
    asked = heard["asked"].get(f"requests.{Note.request_type}", 0)

    async def accounted() -> bool:
        return committed + _ended(answering.log) >= asked

    with suppress(AssertionError):
        await site.until(accounted, "lines of all requests", 30)
    ended = _ended(answering.log)
    report.figure("requests that were there", asked)
    report.figure("requests that took effect", committed)
    report.figure("requests with a line", ended)
    report.promise(f"{asked - committed - ended} requests without effect or line", kept=asked == committed + ended)


def _ended(log: Path) -> int:
    """Return the number of requests without effect by the log lines; a line can count several suppressed ones."""
    lines = _lines(log)
    counted = sum(each["lines"] for each in lines if each["event"] == _LEFT_OUT and each["similar_to"] in _ENDS)
    return counted + sum(each["event"] in _ENDS for each in lines)


async def _tell_times(site: Site, asker: Asker) -> None:
    report = site.report
    report.figure("healthy requests", asker.sent)
    _tell_quantiles(site, "healthy requests answered within", asker.seconds)
    committed = await tables.in_commit_order(site.publisher[1], "entries")
    at = {each.id: each.at for each in await tables.in_commit_order(site.keeper[1], "effects")}
    healthy = [each for each in committed if each.key.startswith(HEALTHY)][_HELLOS:]
    missing = [each.id for each in healthy if each.id not in at]
    report.promise(f"{len(missing)} healthy events without effect, such as {missing[:3]}", kept=not missing)
    for name in _TYPES.values():
        times = [at[each.id] - each.at for each in healthy if each.detail == name and each.id in at]
        _tell_quantiles(site, f"healthy events of {name} in effect within", times)


def _tell_quantiles(site: Site, what: str, seconds: Sequence[float]) -> None:
    ordered = sorted(seconds)
    site.report.promise(f"no {what}", kept=bool(ordered))
    if ordered:
        site.report.figure(f"{what}, half (s)", ordered[len(ordered) // 2])
        site.report.figure(f"{what}, 99% (s)", ordered[len(ordered) * 99 // 100])
        site.report.within(what, ordered[-1], _BOUND)


def _lines(log: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    with log.open(encoding="utf-8", errors="replace") as opened:
        for line in opened:
            try:
                read = json.loads(line)
            except ValueError:
                read = {"event": line[:200].strip()}
            lines.append({**read, "size": len(line)})
    return lines


def _check_log(site: Site, process: Process) -> None:
    """Count the log lines of each kind, and check that none is too long or unexpected."""
    lines = _lines(process.log)
    names = Counter(each.get("event", "") for each in lines)
    errors = Counter(f"{each['event']}, {each['error']}" for each in lines if each.get("error"))
    for name, number in sorted(errors.items()):
        site.report.figure(f"lines of {process.name}: {name[:80]}", number)
    for name, number in sorted(names.items()):
        if name not in _SAID or number > 5:
            site.report.figure(f"lines of {process.name}: {name[:80]}", number)
    longest = max(lines, key=lambda each: each["size"])
    site.report.figure(f"longest line of {process.name}", longest["size"])
    text = f"a line of {longest['size']:,} characters of {process.name}: {longest.get('event')}"
    site.report.promise(text, kept=longest["size"] <= _LONGEST_LINE)
    unexpected = {name: number for name, number in names.items() if name not in _SAID | _ENDS | {_LEFT_OUT}}
    site.report.promise(f"{process.name} says {unexpected}", kept=not unexpected)
