"""SIGKILL of real processes at any time: each event takes effect once. `test_failpoints` kills at each point."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest

from mediator.nats import NatsServer
from tests import forked
from tests.end_to_end.conftest import Databases, eventually
from tests.forked import ForkedProcess

pytestmark = pytest.mark.thorough("kills and freezes processes")

KILLED = -signal.SIGKILL


async def start(log: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> ForkedProcess:
    """Start an application, and append its output to a file."""
    with log.open("ab") as file:
        return await forked.start(
            "tests.faults.process", *arguments, stdout=file, stderr=file, options=("-W", "error"),
            environment={"PYTHONASYNCIODEBUG": "", **(environment or {})},
        )  # fmt: skip


async def run(log: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> int:
    """Run an application to its end, and return its exit status."""
    process = await start(log, *arguments, environment=environment)
    try:
        async with asyncio.timeout(60):
            return await process.wait()
    except BaseException:
        process.kill()
        await process.wait()
        raise


@asynccontextmanager
async def running(
    log: Path, *arguments: object, environment: Mapping[str, str] | None = None
) -> AsyncIterator[ForkedProcess]:
    """Run an application, terminate it at the end of the block, and check that it drains and exits with 0."""
    process = await start(log, *arguments, environment=environment)
    try:
        yield process
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0, log.read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def numbers_in_the_stream(server: NatsServer) -> list[str]:
    """Return the numbers of the orders in the stream, in its order."""
    client = await nats.connect(server.url)
    try:
        jetstream = client.jetstream()
        last = (await jetstream.stream_info("events-shop")).state.last_seq
        messages = [await jetstream.get_msg("events-shop", sequence) for sequence in range(1, last + 1)]
        return [json.loads(message.data or b"")["number"] for message in messages]
    finally:
        await client.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "applications.log"


async def test_two_publishing_processes_and_a_consumer_share_one_file_without_a_locked_database(
    server: NatsServer, databases: Databases, log: Path
) -> None:
    common = ("--database", databases.shop, "--nats", server.url)
    databases.warehouse = databases.shop
    async with running(log, "warehouse", *common):
        statuses = await asyncio.gather(
            run(log, "shop", *common, "--orders", 0, 60, "--writers", 8),
            run(log, "shop", *common, "--orders", 60, 120, "--writers", 8),
        )
        assert statuses == [0, 0], log.read_text()
        await eventually(lambda: len(databases.reservations()) >= 120, "120 reservations")
    assert sorted(databases.reservations(), key=int) == [str(number) for number in range(120)]
    assert "locked" not in log.read_text()
    assert "delivery failed" not in log.read_text()


async def test_kills_of_both_processes_neither_lose_nor_duplicate_events_and_keep_each_customers_order(
    server: NatsServer, databases: Databases, log: Path
) -> None:
    warehouse = ("warehouse", "--database", databases.warehouse, "--nats", server.url)
    sent = 0
    for kill_after in (5, 12, 20):
        consuming = await start(log, *warehouse)
        shop = await start(
            log, "shop", "--database", databases.shop, "--nats", server.url, "--orders", sent, sent + 1000
        )
        goal = len(databases.orders()) + kill_after
        await eventually(lambda goal=goal: len(databases.orders()) >= goal, f"{goal} orders")  # type: ignore[misc]
        for process in (shop, consuming):
            process.kill()
            await process.wait()
        sent += 1000
    async with running(log, *warehouse):
        shop_arguments = ("--database", databases.shop, "--nats", server.url, "--orders", sent, sent + 1)
        assert await run(log, "shop", *shop_arguments) == 0, log.read_text()
        orders = databases.orders()
        await eventually(lambda: len(databases.reservations()) >= len(orders), "all reservations")
    assert sorted(databases.reservations()) == sorted(orders)
    streamed = await numbers_in_the_stream(server)
    for customer in range(3):
        mine = [number for number in streamed if int(number) % 3 == customer]
        assert mine == [number for number in orders if int(number) % 3 == customer]
