"""Every failpoint with an exception, a cancellation and SIGKILL: the expected rest, and each effect once in the end."""

import multiprocessing
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from mediator.distributed.failpoints import NAMES
from mediator.errors import CommittedError
from mediator.nats import NatsServer
from mediator.sqlalchemy import open_engine
from tests.faults.failpoints.__main__ import PAGE
from tests.faults.failpoints.application import create_tables
from tests.faults.failpoints.outcomes import OUTCOMES, Outcome
from tests.faults.failpoints.places import TestPlace
from tests.faults.failpoints.program import FailpointError, cancel_in, die_in, fail_in, quiet
from tests.faults.failpoints.table import with_table
from tests.postgres import PostgresServer

pytestmark = pytest.mark.thorough("kills and freezes processes")

KILLED = -signal.SIGKILL
each_outcome = pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda each: f"{each.situation}-{each.point}")


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    quiet()
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Start real processes in milliseconds, from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.failpoints.program"])
    return context


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker() -> AsyncIterator[str]:
    async with NatsServer() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def place(database: str, broker: str, postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[TestPlace]:
    async with AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path}/shop.db"
        if database == "postgresql":
            url = await stack.enter_async_context(postgres.database())
        engine = await stack.enter_async_context(open_engine(url))
        await create_tables(engine)
        yield TestPlace(engine, url, broker)


async def check_in_the_end(place: TestPlace, outcome: Outcome) -> None:
    """Check that every event has taken effect once in the end."""
    await place.finish(outcome.situation)
    left = await place.left()
    assert (left.outbox, left.parked, left.attempts) == (0, 0, 0)
    assert left.stream == left.effects == await place.stored("stock")
    lost = outcome.situation == "direct" and outcome.point == "unit_of_work.before_delivery"
    assert left.orders == left.stream or (lost and left.stream == 0)
    assert left.orders >= 1


def test_each_failpoint_has_an_outcome():
    assert {outcome.point for outcome in OUTCOMES} == set(NAMES)


def test_the_documentation_shows_each_failpoint_with_its_tested_outcome():
    page = PAGE.read_text("utf-8")
    assert with_table(page) == page, "run `python -m tests.faults.failpoints`"
    assert all(f"`{name}`" in page for name in NAMES)


@each_outcome
async def test_an_exception_at_a_failpoint_has_the_documented_outcome(
    outcome: Outcome, place: TestPlace, database: str
):
    await place.prepare(outcome.situation)
    expected = outcome.left("exception", database)

    async def settled() -> None:
        await place.until(**{name: getattr(expected, name) for name in expected.__dataclass_fields__})

    told = await fail_in(outcome.situation, outcome.point, place.address, settled)
    assert await place.left() == expected
    if outcome.situation in {"send", "note", "direct"}:
        assert isinstance(told, CommittedError if expected.orders else FailpointError)
    await check_in_the_end(place, outcome)


@each_outcome
async def test_a_cancellation_at_a_failpoint_has_the_documented_outcome(
    outcome: Outcome, place: TestPlace, database: str
):
    await place.prepare(outcome.situation)
    assert await cancel_in(outcome.situation, outcome.point, place.address)
    assert await place.left() == outcome.left("cancellation", database)
    await check_in_the_end(place, outcome)


@each_outcome
async def test_sigkill_at_a_failpoint_has_the_documented_outcome(
    outcome: Outcome, place: TestPlace, database: str, processes: ForkServerContext
):
    await place.prepare(outcome.situation)
    process = processes.Process(target=die_in, args=(outcome.situation, outcome.point, place.address))
    process.start()
    process.join(30)
    assert process.exitcode == KILLED
    process.close()
    assert await place.left() == outcome.left("sigkill", database)
    await check_in_the_end(place, outcome)
