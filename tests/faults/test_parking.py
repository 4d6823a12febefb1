"""Real processes die while they handle, park or replay: each event is parked once and in order."""

from pathlib import Path

import pytest

from mediator.nats import NatsServer
from tests.end_to_end.conftest import Databases, eventually
from tests.faults.test_kills import KILLED, run, running, start

pytestmark = [
    pytest.mark.thorough("kills and freezes processes"),
    pytest.mark.timeout(300),  # many processes and much work on a busy machine
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "applications.log"


class World:
    """A shop that places orders, and the warehouse that handles them."""

    def __init__(self, server: NatsServer, databases: Databases, log: Path) -> None:
        self.databases = databases
        self.log = log
        self.warehouse = ("ordered", "--database", databases.warehouse, "--nats", server.url)
        self.replay = ("replay", "--database", databases.warehouse, "--nats", server.url)
        self._shop = ("shop", "--database", databases.shop, "--nats", server.url)

    async def place(self, *orders: str) -> None:
        """Place orders, written as `customer/number`."""
        assert await run(self.log, *self._shop, "--place", *orders) == 0, self.log.read_text()

    async def settled(self, reservations: int, parked: int) -> None:
        await eventually(
            lambda: (len(self.databases.reservations()), len(self.databases.parked())) == (reservations, parked),
            f"{reservations} reservations and {parked} parked orders",
        )


@pytest.fixture
def world(server: NatsServer, databases: Databases, log: Path) -> World:
    return World(server, databases, log)


async def test_an_event_whose_handler_kills_its_process_is_counted_and_parked_with_its_successors(world: World):
    await world.place("ada/deadly", "ada/1", "eve/2", "bob/3", "dan/4")  # other customers run concurrently
    for _ in range(3):
        assert await run(world.log, *world.warehouse) == KILLED, world.log.read_text()
    async with running(world.log, *world.warehouse):
        await world.settled(3, 2)
    assert sorted(world.databases.reservations()) == ["2", "3", "4"]
    assert world.databases.parked() == [("deadly", "process-died", 3), ("1", "key-parked", 0)]
    assert world.databases.counted() == 0
    assert world.databases.follow_ups() == 3


@pytest.mark.timeout(600)
async def test_eight_deployments_during_a_handler_park_no_event(world: World):
    await world.place("ada/hanging", "ada/1")
    for number in range(1, 9):
        async with running(world.log, *world.warehouse):
            await eventually(lambda n=number: world.log.read_text().count("hanging") >= n, "a handler that hangs", 90)  # type: ignore[misc]
    assert world.databases.parked() == []
    async with running(world.log, *world.warehouse, environment={"WAREHOUSE_REPAIRED": "1"}):
        await world.settled(2, 0)
    assert world.databases.reservations() == ["hanging", "1"]
    assert [attempt for _, _, _, attempt, _ in world.databases.rows()] == [1, 1]
    assert world.databases.counted() == 0


@pytest.mark.parametrize(
    "name",
    [
        "consumer.after_count",
        "consumer.after_failure",
        "consumer.before_park",
        "consumer.after_park",
        "consumer.after_append",
        "consumer.after_term",
    ],
)
async def test_a_process_killed_around_parking_parks_each_event_once_and_in_order(world: World, name: str):
    await world.place("ada/broken", "ada/1", "ada/2", "eve/3")
    assert await run(world.log, *world.warehouse, "--kill-at", name) == KILLED, world.log.read_text()
    async with running(world.log, *world.warehouse):
        await world.settled(1, 3)
    assert [number for number, _, _ in world.databases.parked()] == ["broken", "1", "2"]
    assert [reason for _, reason, _ in world.databases.parked()][1:] == ["key-parked", "key-parked"]
    assert world.databases.reservations() == ["3"]
    assert world.databases.follow_ups() == 1


@pytest.mark.parametrize("name", ["replay.after_take", "consumer.after_handlers", "consumer.after_commit"])
async def test_a_replay_that_is_killed_has_each_effect_once_and_in_order(world: World, name: str):
    await world.place("ada/broken", "ada/1", "ada/2")
    async with running(world.log, *world.warehouse):
        await world.settled(0, 3)
        repaired = {"WAREHOUSE_REPAIRED": "1"}
        assert await run(world.log, *world.replay, "--kill-at", name, environment=repaired) == KILLED
        done = len(world.databases.reservations())
        assert done == (1 if name == "consumer.after_commit" else 0)
        assert len(world.databases.parked()) == 3 - done
        await world.place("ada/3")  # while the key is parked
        await world.settled(done, 4 - done)
        assert await run(world.log, *world.replay, environment=repaired) == 0, world.log.read_text()
        await world.place("ada/4")
        await world.settled(5, 0)
    assert world.databases.reservations() == ["broken", "1", "2", "3", "4"]
    assert world.databases.follow_ups() == 5


async def test_random_kills_keep_the_order_of_effects_per_customer_despite_poison_events(world: World):
    orders = [f"{customer}/{n}" for n in range(8) for customer in ("ada", "bob", "eve")]
    orders[10] = "bob/broken"
    await world.place(*orders)
    for effects in (4, 9):
        process = await start(world.log, *world.warehouse)
        await eventually(lambda n=effects: len(world.databases.reservations()) >= n, f"{effects} effects")  # type: ignore[misc]
        process.kill()
        await process.wait()
    async with running(world.log, *world.warehouse):
        await world.settled(19, 5)
    assert await run(world.log, *world.replay, environment={"WAREHOUSE_REPAIRED": "1"}) == 0, world.log.read_text()
    rows = [(customer, number) for number, customer, _, _, _ in world.databases.rows()]
    for customer in ("ada", "bob", "eve"):
        mine = [order.partition("/")[2] for order in orders if order.startswith(f"{customer}/")]
        assert [number for its, number in rows if its == customer] == mine
    assert world.databases.parked() == []
