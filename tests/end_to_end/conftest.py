import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mediator.sqlalchemy import open_engine
from tests.end_to_end.tables import create_tables


class Databases:
    """The two applications' database files, read from outside while the applications run."""

    def __init__(self, folder: Path) -> None:
        self.shop = folder / "shop.db"
        self.warehouse = folder / "warehouse.db"

    def orders(self) -> list[str]:
        return [row[0] for row in self._read(self.shop, "SELECT number FROM orders ORDER BY rowid")]

    def pending(self) -> int:
        """Return the number of events of both applications that the broker has not acknowledged."""
        return sum(
            int(self._read(f, "SELECT count(*) FROM mediator_outbox")[0][0]) for f in (self.shop, self.warehouse)
        )

    def archived(self) -> int:
        return int(self._read(self.shop, "SELECT count(*) FROM mediator_outbox_archive")[0][0])

    def reservations(self) -> list[str]:
        return [row[0] for row in self._read(self.warehouse, "SELECT number FROM reservations ORDER BY rowid")]

    def rows(self) -> list[tuple[Any, ...]]:
        return self._read(self.warehouse, "SELECT number, customer, id, attempt, correlation FROM reservations")

    def parked(self) -> list[tuple[str, str, int]]:
        """Return the order number, the reason and the attempts of each parked event, in order."""
        rows = self._read(self.warehouse, "SELECT data, reason, attempts FROM mediator_parked ORDER BY number")
        return [(json.loads(data)["number"], reason, attempts) for data, reason, attempts in rows]

    def counted(self) -> int:
        """Return the number of events with a count of starts."""
        return int(self._read(self.warehouse, "SELECT count(*) FROM mediator_attempts")[0][0])

    def follow_ups(self) -> int:
        """Return the number of events that the warehouse has staged, whether they are published or not."""
        statement = "SELECT (SELECT count(*) FROM mediator_outbox) + (SELECT count(*) FROM mediator_outbox_archive)"
        return int(self._read(self.warehouse, statement)[0][0])

    @staticmethod
    def _read(file: Path, statement: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(file, timeout=10)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


@pytest.fixture
async def databases(tmp_path: Path) -> Databases:
    found = Databases(tmp_path)
    for file in (found.shop, found.warehouse):
        async with open_engine(f"sqlite:///{file}") as engine:
            await create_tables(engine)
    return found


async def eventually(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait until a condition is true that another process or the broker causes."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"did not happen within {seconds:g} s: {what}")
        await asyncio.sleep(0.01)
