"""A consumer whose PostgreSQL is stopped and started: every event takes effect once, in order, and no start is counted."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from mediator.dependency_injector import lifespan
from mediator.nats import NatsServer
from mediator.sqlalchemy import open_engine
from tests.end_to_end.conftest import Databases
from tests.end_to_end.shop.application import PlaceOrder, ShopContainer
from tests.end_to_end.tables import configured, create_tables
from tests.end_to_end.warehouse.application import OrderedWarehouseContainer
from tests.postgres import PostgresServer

pytestmark = pytest.mark.thorough("kills and freezes processes")

ORDERS = 60


@pytest.fixture
async def own_postgres() -> AsyncIterator[PostgresServer]:
    async with PostgresServer() as server:
        yield server


async def rows(url: str, statement: str) -> list[Any]:
    async with open_engine(url) as engine, engine.connect() as connection:
        return list((await connection.execute(text(statement))).all())


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_database_that_is_stopped_and_started_costs_no_attempt_and_keeps_the_order(
    server: NatsServer, databases: Databases, own_postgres: PostgresServer, mode: Literal["fast", "immediate"]
) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    async with own_postgres.database() as url:
        async with open_engine(url) as engine:
            await create_tables(engine)
        warehouse = OrderedWarehouseContainer(config={"database": url, "nats": server.url})
        with capture_logs() as logs:
            async with lifespan(shop, workers=True), lifespan(warehouse, workers=True, relay_elsewhere=True):
                for number in range(ORDERS):
                    await shop.mediator().send(PlaceOrder(str(number), customer=f"customer-{number % 3}"))
                    if number == ORDERS // 2:
                        await own_postgres.stop(mode)
                async with asyncio.timeout(30):
                    while not any(line["event"] == "consumer waits" for line in logs):
                        await asyncio.sleep(0.01)
                await own_postgres.start()
                async with asyncio.timeout(60):
                    while len(await rows(url, "SELECT 1 FROM reservations")) < ORDERS:
                        await asyncio.sleep(0.05)
        found = await rows(url, "SELECT number, customer, attempt FROM reservations ORDER BY ctid")
        parked = await rows(url, "SELECT reason, error FROM mediator_parked")
        staged = await rows(url, "SELECT id FROM mediator_outbox UNION ALL SELECT id FROM mediator_outbox_archive")
    assert parked == []
    assert {row.attempt for row in found} == {1}
    for customer in range(3):
        mine = [row.number for row in found if row.customer == f"customer-{customer}"]
        assert mine == [str(number) for number in range(customer, ORDERS, 3)]
    assert len(staged) == ORDERS
    assert "delivery failed" not in [line["event"] for line in logs]
