"""A broker that lost events is refilled from the archive, with real servers and the command line."""

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
from sqlalchemy import text

from mediator.dependency_injector import lifespan
from mediator.distributed.outbox import OutboxFilter
from mediator.nats import NatsCluster, NatsServer
from mediator.sqlalchemy import SqlAlchemyOutbox, create_schema, open_engine
from tests import forked
from tests.end_to_end.conftest import Databases, eventually
from tests.end_to_end.refilling import NewcomerContainer, shop
from tests.end_to_end.shop.application import PlaceOrder
from tests.end_to_end.tables import configured, create_tables
from tests.end_to_end.warehouse.application import WarehouseContainer
from tests.postgres import PostgresServer

pytestmark = pytest.mark.thorough("loses the stores of brokers and builds clusters")

ORDERS = 40
CUSTOMERS = 4
STREAM = "events-shop"


@dataclass
class CommandResult:
    status: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def ids(self) -> list[str]:
        return [row["id"] for row in self.report["events"]]


async def call(*arguments: str, target: str = "shop") -> CommandResult:
    """Run `mediator outbox` in a separate process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = ("outbox", arguments[0], f"tests.end_to_end.refilling:{target}", *arguments[1:])
        process = await forked.start("mediator.cli", *command, stdout=out, stderr=err)
        status = await process.wait()
        out.seek(0)
        err.seek(0)
        return CommandResult(status, out.read().decode(), err.read().decode())


class Shop:
    """The database of the shop."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def place(self, orders: int, *, first: int = 0) -> None:
        """Place orders of several customers, and wait until their events are published."""
        container = shop()
        async with lifespan(container, workers=True):
            for number in range(first, first + orders):
                await container.mediator().send(PlaceOrder(str(number), customer=f"c{number % CUSTOMERS}"))
            async with asyncio.timeout(30):
                while await container.outbox().pending():
                    await asyncio.sleep(0.02)

    async def archived(self) -> list[str]:
        async with open_engine(self.url) as engine:
            found = await SqlAlchemyOutbox(engine).contents.find(OutboxFilter("archived"), limit=1000)
            return [record.id for record in found]

    async def execute(self, statement: str) -> None:
        async with open_engine(self.url) as engine, engine.begin() as connection:
            await connection.execute(text(statement))


@pytest.fixture(params=["sqlite", "postgresql"])
async def placed(
    request: pytest.FixtureRequest, databases: Databases, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    """A shop whose orders are all stored by a broker."""
    async with contextlib.AsyncExitStack() as stack:
        url = f"sqlite:///{databases.shop}"
        if request.param == "postgresql":
            postgres: PostgresServer = request.getfixturevalue("postgres")
            url = await stack.enter_async_context(postgres.database())
            async with open_engine(url) as engine:
                await create_tables(engine)
        monkeypatch.setenv("SHOP_DATABASE", url)
        monkeypatch.setenv("BROKER", server.url)
        made = Shop(url)
        await made.place(ORDERS)
        yield made


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "store") as started:
        yield started


@contextlib.asynccontextmanager
async def jetstream(url: str | list[str]) -> AsyncIterator[Any]:
    client = await nats.connect(url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def held(url: str | list[str]) -> list[str]:
    """Return the ids in the stream, in order."""
    async with jetstream(url) as stream:
        last = (await stream.stream_info(STREAM)).state.last_seq
        found = []
        for sequence in range(1, last + 1):
            with contextlib.suppress(nats.js.errors.NotFoundError):
                found.append((await stream.get_msg(STREAM, sequence)).headers["ce-id"])
        return found


async def lose_everything(server: NatsServer, store: Path) -> None:
    await server.kill()
    shutil.rmtree(store)
    await server.start()


async def acknowledged(url: str, consumer: str) -> int:
    async with jetstream(url) as stream:
        try:
            info = await stream.consumer_info(STREAM, consumer)
        except nats.js.errors.NotFoundError:
            return -1
        return -1 if info.num_ack_pending or info.num_pending else int(info.ack_floor.stream_seq)


def by_customer(rows: list[tuple[Any, ...]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for number, customer, *_ in rows:
        found[customer].append(int(number))
    return dict(found)


async def test_a_broker_that_lost_its_store_is_refilled_and_every_subscriber_applies_each_event_once(
    placed: Shop, databases: Databases, server: NatsServer, tmp_path: Path
) -> None:
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    async with lifespan(warehouse, workers=True):
        await eventually(lambda: len(databases.reservations()) == ORDERS, "all reservations")
        archived = await placed.archived()
        assert (await call("verify", "--json")).report["missing"] == 0
        await lose_everything(server, tmp_path / "store")

        found = await call("verify", "--json")
        assert (found.status, found.ids) == (1, archived), found.err
        assert found.report == {**found.report, "finished": True, "checked": ORDERS, "missing": ORDERS, "refilled": 0}

        refilled = await call("verify", "--republish", "--yes", "--json")
        assert (refilled.status, refilled.report["refilled"], refilled.ids) == (0, ORDERS, archived), refilled.err
        assert await held(server.url) == archived
        again = await call("verify")
        assert (again.status, again.out.strip()) == (0, f"{ORDERS} checked, all are there")

        async with asyncio.timeout(60):
            while await acknowledged(server.url, "warehouse") != ORDERS:
                await asyncio.sleep(0.05)
    assert len(databases.reservations()) == ORDERS
    newcomers = Databases(tmp_path / "newcomer")
    newcomers.warehouse.parent.mkdir()
    async with open_engine(f"sqlite:///{newcomers.warehouse}") as engine:
        await create_tables(engine)
    async with lifespan(configured(NewcomerContainer, str(newcomers.warehouse), server.url), workers=True):
        await eventually(lambda: len(newcomers.reservations()) >= ORDERS, "all reservations of the newcomer")
    expected = {f"c{each}": list(range(each, ORDERS, CUSTOMERS)) for each in range(CUSTOMERS)}
    assert by_customer(newcomers.rows()) == expected


async def test_exactly_the_events_deleted_from_a_stream_are_found_and_refilled_despite_its_deduplication(
    placed: Shop, server: NatsServer
) -> None:
    archived = await placed.archived()
    before = await held(server.url)
    async with jetstream(server.url) as stream:
        for sequence in (1, 7, 8, ORDERS):
            assert await stream.delete_msg(STREAM, sequence)
    deleted = {before[0], before[6], before[7], before[ORDERS - 1]}

    found = await call("verify", "--json")
    assert (found.status, set(found.ids)) == (1, deleted), found.err

    plain = await call("republish", "--id", before[0], "--id", before[6], "--yes")
    assert (plain.status, "2 known to the broker" in plain.out) == (0, True), plain.err
    assert set((await call("verify", "--json")).ids) == deleted

    refilled = await call("verify", "--republish", "--yes", "--json")
    assert (refilled.status, refilled.report["refilled"], set(refilled.ids)) == (0, 4, deleted), refilled.err
    assert sorted(await held(server.url)) == sorted(archived)
    assert (await call("verify", "--republish", "--yes")).out.strip() == f"{ORDERS} checked, all are there"
    assert len(await held(server.url)) == ORDERS


async def test_a_purged_stream_that_remembers_every_id_is_refilled_in_the_order_of_each_key(
    placed: Shop, server: NatsServer
) -> None:
    archived = await placed.archived()
    async with jetstream(server.url) as stream:
        await stream.purge_stream(STREAM)
    await placed.place(1, first=ORDERS)  # events published in the meantime are not missing
    refilled = await call("verify", "--republish", "--yes")
    assert refilled.status == 0, refilled.err
    assert f"{ORDERS + 1} checked, {ORDERS} refilled" in refilled.out
    assert (await held(server.url))[1:] == archived
    async with jetstream(server.url) as stream:
        await stream.purge_stream(STREAM)
    assert (await call("verify", "--republish", "--yes")).status == 0  # again, within the duplicate window
    assert await held(server.url) == await placed.archived()


async def test_an_event_older_than_the_age_limit_of_a_stream_is_not_missing(placed: Shop, server: NatsServer) -> None:
    async with jetstream(server.url) as stream:
        await stream.purge_stream(STREAM)
    await placed.execute(
        "UPDATE mediator_outbox_archive SET archived_at = archived_at - 8 * 86400 WHERE sequence <= 10"
    )
    found = await call("verify", "--json")
    assert (found.status, found.report["missing"], found.report["expired"]) == (1, ORDERS - 10, 10)
    recent = await call("verify", "--since", "1h", "--json")
    assert (recent.report["checked"], recent.report["missing"]) == (ORDERS - 10, ORDERS - 10)
    elsewhere = await call("verify", "--stream", "events-elsewhere", "--json")
    assert (elsewhere.status, elsewhere.report["checked"]) == (0, 0)
    assert (await call("verify", "--stream", STREAM, "--json")).report["checked"] == ORDERS


async def test_republish_is_idempotent_has_a_dry_run_and_continues_after_a_given_sequence(
    placed: Shop, server: NatsServer, tmp_path: Path
) -> None:
    dry = await call("republish", "--all", "--dry-run")
    assert (dry.status, dry.out.strip()) == (0, f"{ORDERS} events of container.outbox would be published")
    known = await call("republish", "--all", "--yes")
    assert (known.status, known.out.strip()) == (0, f"container.outbox: {ORDERS} known to the broker")
    await lose_everything(server, tmp_path / "store")
    rest = await call("republish", "--since", "1h", "--after", "30", "--rate", "1000", "--yes")
    assert (rest.status, rest.out.strip()) == (0, "container.outbox: 10 stored")
    assert await held(server.url) == (await placed.archived())[30:]
    assert (await call("republish", "--type", "shop.order-placed.v1", "--yes")).status == 0
    assert sorted(await held(server.url)) == sorted(await placed.archived())
    assert (await call("republish")).status == 2


async def test_events_published_during_a_verification_are_not_reported(placed: Shop) -> None:
    placing = asyncio.create_task(placed.place(300, first=ORDERS))
    checked: list[int] = []
    while not placing.done():
        found = await call("verify", "--json")
        assert (found.status, found.report["missing"]) == (0, 0), found.out
        checked.append(found.report["checked"])
    await placing
    assert checked == sorted(checked)


async def test_the_next_refill_completes_a_killed_one(placed: Shop, server: NatsServer) -> None:
    async with jetstream(server.url) as stream:
        await stream.purge_stream(STREAM)
        arguments = ("outbox", "verify", "tests.end_to_end.refilling:shop", "--republish", "--yes", "--rate", "10")
        slow = await asyncio.create_subprocess_exec(sys.executable, "-m", "mediator.cli", *arguments)
        async with asyncio.timeout(30):
            while (await stream.stream_info(STREAM)).state.messages == 0:
                await asyncio.sleep(0.01)
        slow.kill()
        await slow.wait()
    assert 0 < len(await held(server.url)) < ORDERS
    assert (await call("verify", "--republish", "--yes")).status == 0
    assert list(dict.fromkeys(await held(server.url))) == await placed.archived()
    assert (await call("verify")).status == 0


async def test_an_unavailable_broker_is_an_error_and_no_event_is_reported_missing(
    placed: Shop, server: NatsServer
) -> None:
    await server.kill()
    found = await call("verify", "--json")
    assert (found.status, found.report["finished"], found.report["missing"]) == (1, False, 0)
    assert "is not available" in found.err


async def test_each_outbox_of_a_container_is_compared_with_the_streams_of_its_own_publisher(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS", server.url)
    for name in ("north", "south"):
        monkeypatch.setenv(name.upper(), url := f"sqlite:///{tmp_path}/{name}.db")
        async with open_engine(url) as engine:
            await create_schema(engine)
            await _archive(engine, name)
    found = await call("verify", "--json", target="branches")
    assert (found.status, found.report["missing"]) == (1, 10)
    assert {row["stream"] for row in found.report["events"]} == {"north-shop", "south-shop"}
    assert (await call("republish", "--all", "--outbox", "north", "--yes", target="branches")).status == 0
    found = await call("verify", "--json", target="branches")
    assert {row["outbox"] for row in found.report["events"]} == {"container.south"}
    assert (await call("verify", "--republish", "--yes", target="branches")).status == 0
    assert (await call("list", "--archived", target="branches")).out.count("shop.order-placed.v1") == 10
    assert (await call("verify", "--outbox", "nowhere", target="branches")).status == 2


async def _archive(engine: Any, name: str) -> None:
    row = (
        "INSERT INTO mediator_outbox_archive VALUES (:number, :id, 'shop.order-placed.v1', "
        "'2026-01-01T00:00:00+00:00', 'k', 1, 'application/json', '{}', :data, unixepoch(), '')"
    )
    async with engine.begin() as connection:
        for number in range(1, 6):
            await connection.execute(text(row), {"number": number, "id": f"{name}-{number}", "data": b"{}"})


async def test_a_cluster_is_read_and_refilled_while_one_of_its_servers_is_down(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with NatsCluster() as cluster:
        monkeypatch.setenv("SHOP_DATABASE", f"sqlite:///{databases.shop}")
        monkeypatch.setenv("BROKER", ",".join(cluster.urls))
        monkeypatch.setenv("REPLICAS", "3")
        made = Shop(f"sqlite:///{databases.shop}")
        await made.place(ORDERS)
        archived = await made.archived()
        assert (await call("verify", "--json")).report["missing"] == 0
        async with jetstream(cluster.urls) as stream:
            for sequence in (2, 3, 5):
                await stream.delete_msg(STREAM, sequence)
        await (await cluster.leader(STREAM)).kill()
        async with asyncio.timeout(60):
            await cluster.leader(STREAM)
        found = await call("verify", "--json")
        assert (found.status, found.ids) == (1, [archived[index] for index in (1, 2, 4)]), found.err
        refilled = await call("verify", "--republish", "--yes", "--json")
        assert (refilled.status, refilled.report["refilled"]) == (0, 3), refilled.err
