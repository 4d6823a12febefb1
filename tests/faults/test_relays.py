"""Relays on one PostgreSQL database are killed and frozen at random; each event is stored once and in order."""

import asyncio
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.parking import ParkedFilter
from mediator.nats import NatsServer
from mediator.sqlalchemy import SqlAlchemyParking, create_schema, open_engine
from tests import forked
from tests.adapters.sqlalchemy.ledger import Ledger
from tests.adapters.sqlalchemy.test_staging import Moved, add
from tests.forked import ForkedProcess

pytestmark = pytest.mark.thorough("kills and freezes processes")

KEYS = [f"key-{number}" for number in range(8)]


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(postgres_url, pool_size=16) as engine:
        await create_schema(engine)
        yield engine


class Relays:
    """Two relay processes, one of which is sometimes killed or frozen."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        self._arguments = arguments
        self._processes: list[ForkedProcess] = []

    async def start(self) -> None:
        with self._log.open("ab") as file:
            self._processes.append(
                await forked.start(
                    "tests.faults.relaying", *self._arguments, stdout=file, stderr=file, options=("-W", "error")
                )
            )

    async def kill(self) -> None:
        process = self._processes.pop(0)
        process.kill()
        await process.wait()
        await self.start()

    async def freeze(self, seconds: float) -> None:
        process = self._processes[-1]
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        async with asyncio.timeout(20):
            statuses = {await process.wait() for process in self._processes}
        assert statuses <= {0, -signal.SIGTERM}, self._log.read_text()  # its signal handler may be missing

    async def end(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def relaying(log: Path, *arguments: str) -> AsyncIterator[Relays]:
    relays = Relays(log, *arguments)
    try:
        await relays.start()
        await relays.start()
        yield relays
        await relays.stop()
    finally:
        await relays.end()


async def write(ledger: Ledger, rng: random.Random, done: asyncio.Event, written: asyncio.Semaphore) -> None:
    while not done.is_set():
        await add(ledger, *(Moved(key) for key in rng.sample(KEYS, rng.randint(1, 4))))
        written.release()
        await asyncio.sleep(rng.uniform(0, 0.02))


async def in_the_stream(server: NatsServer) -> list[tuple[str, str]]:
    """Return the key and id of each event, in the order of the stream."""
    client = await nats.connect(server.url)
    try:
        jetstream = client.jetstream()
        last = (await jetstream.stream_info("events-stock")).state.last_seq
        found = [await jetstream.get_msg("events-stock", sequence) for sequence in range(1, last + 1)]
        return [((each.headers or {})["ce-partitionkey"], (each.headers or {})["ce-id"]) for each in found]
    finally:
        await client.close()


def by_key(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for key, event_id in pairs:
        grouped[key].append(event_id)
    return grouped


async def test_killed_and_frozen_relays_neither_lose_nor_duplicate_events_and_keep_the_order_per_key(
    engine: AsyncEngine, postgres_url: str, server: NatsServer, tmp_path: Path
) -> None:
    ledger, rng, done, written = Ledger(engine), random.Random(7), asyncio.Event(), asyncio.Semaphore(0)
    async with relaying(tmp_path / "log", postgres_url, server.url, "0.3") as relays:
        async with asyncio.TaskGroup() as writers:
            for number in range(8):
                writers.create_task(write(ledger, random.Random(number), done, written))
            for _ in range(6):
                for _ in range(40):  # count commands, because their duration varies
                    await written.acquire()
                await asyncio.sleep(rng.uniform(0.1, 0.3))
                await (relays.kill() if rng.random() < 0.5 else relays.freeze(0.8))
            done.set()
        async with asyncio.timeout(30):
            while await ledger.outbox.pending():
                await asyncio.sleep(0.05)
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT partition_key, id FROM mediator_outbox_archive ORDER BY sequence"))
        committed = [(row.partition_key, row.id) for row in rows]
    assert len(committed) > 200
    assert await SqlAlchemyParking(engine).count(ParkedFilter()) == 0
    assert by_key(await in_the_stream(server)) == by_key(committed)
