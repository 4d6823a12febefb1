"""A whole application whose log cannot be written: commands, relay, consumer, connections and their supervision continue."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from mediator.dependency_injector import lifespan
from mediator.nats import NatsServer
from mediator.sqlalchemy import open_engine
from tests.faults.failpoints.application import Place, configured, create_tables
from tests.faults.failpoints.places import TestPlace

pytestmark = pytest.mark.thorough("kills and freezes processes")


class FullDisk:
    """A processor that fails each time."""

    def __init__(self) -> None:
        self.lost = 0

    def __call__(self, _logger: Any, _method: str, _line: Any) -> Any:
        self.lost += 1
        raise OSError(28, "No space left on device")


@pytest.fixture
def full_disk() -> Iterator[FullDisk]:
    made = FullDisk()
    structlog.configure(processors=[made])
    yield made
    structlog.reset_defaults()


async def test_events_take_effect_across_a_broker_restart_although_every_log_line_fails(
    tmp_path: Path, full_disk: FullDisk
) -> None:
    async with NatsServer() as server, open_engine(f"sqlite:///{tmp_path}/shop.db") as engine:
        await create_tables(engine)
        place = TestPlace(engine, f"sqlite:///{tmp_path}/shop.db", server.url)
        container = configured(*place.address)
        async with lifespan(container, workers=True, relay_elsewhere=True):
            await container.mediator().send(Place("1"))
            await place.until(effects=1, outbox=0)
            await server.kill()
            await container.mediator().send(Place("flaky"))
            before = full_disk.lost
            await server.start()
            await place.until(effects=2, outbox=0)
    assert full_disk.lost > before > 0
