"""An application without its tables or their rows: it logs the remedy once, and works once they exist."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from mediator.dependency_injector import lifespan
from mediator.nats import NatsServer
from mediator.sqlalchemy import create_schema, open_engine
from tests.end_to_end.conftest import eventually
from tests.end_to_end.shop.application import PlaceOrder, ShopContainer
from tests.end_to_end.tables import create_tables
from tests.end_to_end.test_events import stored


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    return f"sqlite:///{tmp_path}/shop.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


async def go_through(
    url: str, server: NatsServer, orders: list[str], mend: Callable[[AsyncEngine], Awaitable[None]]
) -> list[MutableMapping[str, Any]]:
    """Return the log of a shop that takes an order, gets its tables while its relay waits, and publishes all orders."""
    shop = ShopContainer()
    shop.config.from_dict({"database": url, "nats": server.url})
    with capture_logs() as logs:
        async with lifespan(shop, workers=True), asyncio.timeout(60):
            for number in orders:
                await shop.mediator().send(PlaceOrder(number, customer="ada"))
            await eventually(lambda: any(line["event"] == "relay waits" for line in logs), "the relay says so")
            await mend(shop.engine())
            await shop.mediator().send(PlaceOrder("last", customer="ada"))
            await eventually(lambda: any(line["event"] == "relay goes on" for line in logs), "the relay says so")
            while await shop.outbox().pending():
                await asyncio.sleep(0.01)
    assert await stored(server) == len(orders) + 1
    return [line for line in logs if line["event"] in ("relay waits", "relay goes on")]


async def test_a_relay_without_tables_logs_the_remedy_once_and_publishes_when_the_tables_exist(
    url: str, server: NatsServer
) -> None:
    waits, goes_on = await go_through(url, server, [], create_tables)
    assert (waits["event"], waits["error"]) == ("relay waits", "SchemaError")
    assert "`mediator schema create module:container`" in waits["reason"]
    assert "SELECT" not in waits["reason"]
    assert goes_on["after"] == "SchemaError"


@pytest.mark.parametrize("missing", ["TRUE", "bucket = 17"])
async def test_a_relay_with_missing_bucket_rows_logs_the_remedy_once_and_publishes_when_they_exist(
    postgres_url: str, server: NatsServer, missing: str
) -> None:
    async with open_engine(postgres_url) as engine:
        await create_tables(engine)
        async with engine.begin() as connection:
            await connection.execute(text(f"DELETE FROM mediator_relay_buckets WHERE {missing}"))
    waits, goes_on = await go_through(postgres_url, server, ["1", "2"], create_schema)
    assert (waits["event"], waits["error"]) == ("relay waits", "SchemaError")
    assert "`mediator schema create module:container`" in waits["reason"]
    assert goes_on["after"] == "SchemaError"
