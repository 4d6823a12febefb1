"""The scenarios of tests/faults/scenarios at a small size, and the findings of their checker."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import nats
import psutil
import pytest
from sqlalchemy import text

from mediator.nats import NatsServer
from mediator.sqlalchemy import open_engine
from tests.faults.scenarios import ordered, outage, poison, relays, strangers, tables
from tests.faults.scenarios.application import STREAM
from tests.faults.scenarios.checker import Findings, check_effects, check_stream, compare, resumed
from tests.faults.scenarios.processes import ROOT
from tests.faults.scenarios.report import Report
from tests.faults.scenarios.site import Options, opened_site
from tests.faults.scenarios.tables import Seen
from tests.postgres import PostgresServer

pytestmark = [
    pytest.mark.thorough("kills and freezes processes"),
    pytest.mark.timeout(300),  # many processes and much work on a busy machine
]

SMALL = Options(
    keys=40, accidents=1, frozen_seconds=1.0, ack_wait=1.0, attempts=2, deployments=1, writers=1, kill_pause=1.0
)
RUNS = {
    "relays": (relays.run, 300),
    "outage": (outage.run, 1000),
    "ordered": (ordered.run, 300),
    "poison": (poison.run, 60),
    "strangers": (strangers.run, 100),
}


@pytest.fixture(scope="module")
def dated_postgres() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server that records the times of commits."""
    server = PostgresServer(tables.SETTINGS)
    with ThreadPoolExecutor(1) as aside:
        aside.submit(asyncio.run, server.start()).result()
        yield server
        aside.submit(asyncio.run, server.close()).result()


async def kept(name: str, options: Options, postgres: PostgresServer | None) -> dict[str, object]:
    """Run a scenario, check that all promises were kept, and return its figures; the machine may be busy."""
    shown: list[str] = []
    run, events = RUNS[name]
    report = Report(patience=5.0, show=shown.append)
    async with opened_site(replace(options, events=events), report, postgres) as site:
        await run(site)
    assert report.conclude(name) == 0, "\n".join(shown)
    return report.figures


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("name", list(RUNS))
async def test_the_library_keeps_its_promises_during_a_scenario(
    name: str, database: str, request: pytest.FixtureRequest
) -> None:
    postgres = request.getfixturevalue("dated_postgres") if database == "postgresql" else None
    figures = await kept(name, replace(SMALL, database=database), postgres)
    assert figures["lost in the stream"] == 0


async def test_relays_keep_their_promises_with_three_servers() -> None:
    await kept("relays", replace(SMALL, cluster=3), None)


async def test_an_interrupted_program_ends_all_its_processes(tmp_path: Path) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.scenarios", "relays", cwd=ROOT, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert program.stderr is not None
    try:
        async with asyncio.timeout(60):
            while b"0 events written" not in await program.stderr.readline():
                pass
            started = psutil.Process(program.pid).children(recursive=True)
            program.send_signal(signal.SIGINT)
            assert await program.wait() == 130
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert len(started) >= 3
    assert not [each for each in started if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert list(tmp_path.iterdir()) == []


def seen(*ids: str) -> list[Seen]:
    return [Seen(each, each[0]) for each in ids]


async def test_lost_doubled_inverted_stuck_and_never_committed_events_are_each_named() -> None:
    committed = seen("a1", "b1", "a2", "a3", "b2", "a4", "b3", "c1")
    assert not compare(committed, seen("b1", "b2", "a1", "a2", "a3", "c1", "a4", "b3"))
    found = seen("a1", "b1", "a3", "a2", "b2", "b2", "c1", "x1")
    assert compare(committed, found, ["b3"]) == Findings(["a4"], ["b2"], ["a2"], ["b3"], ["x1"])


async def test_the_resumption_time_is_that_of_the_bucket_that_waited_longest() -> None:
    committed = [Seen("1", "a", 1.0), Seen("2", "a", 2.0), Seen("3", "b", 2.5), Seen("4", "b", 9.0)]
    stored = [Seen("1", "a", 1.5), Seen("2", "a", 3.25), Seen("3", "b", 5.0), Seen("4", "b", 9.5)]
    assert resumed(committed, stored, 3.0) == 2.0
    assert resumed(committed, stored, 5.5) is None
    assert resumed(committed, stored, 5.5, until=9.25) == 0.5
    assert resumed(committed, stored[:2], 3.0) == float("inf")


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            yield f"sqlite:///{tmp_path / 'checked.db'}"
        else:
            yield await stack.enter_async_context(request.getfixturevalue("dated_postgres").database())


async def test_the_checker_finds_exactly_the_wrong_events_in_databases_and_stream(url: str, server: NatsServer) -> None:
    committed = ["a1", "b1", "a2", "b2", "a3", "b3"]
    found = ["a1", "b1", "b2", "a3", "a2", "b2"]
    async with open_engine(url) as engine:
        await tables.create_tables(engine, ["a"])
        for table, ids in (("entries", committed), ("effects", found)):
            for event_id in ids:
                insert = text(f"INSERT INTO {table} (id, key, detail) VALUES (:id, :key, '')")
                async with engine.begin() as transaction:
                    await transaction.execute(insert, {"id": event_id, "key": event_id[0]})
        await store(server, found)
        wrong = Findings(lost=["b3"], doubled=["b2"], inverted=["a2"])
        assert (await check_stream(engine, [server.url]))[0] == wrong
        assert await check_effects(engine, engine) == wrong


async def store(server: NatsServer, ids: list[str]) -> None:
    """Put events into the stream without deduplication by the broker."""
    client = await nats.connect(server.url)
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(name=STREAM, subjects=["events.load.>"])
        for event_id in ids:
            headers = {"ce-id": event_id, "ce-partitionkey": event_id[0]}
            await jetstream.publish("events.load.moved.0", b"{}", headers=headers)
    finally:
        await client.close()
