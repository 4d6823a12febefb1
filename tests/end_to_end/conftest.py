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
        """Events of both applications that are not known to be with the broker."""
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
        """Of each parked event the order's number, the reason and the attempts, in order."""
        rows = self._read(self.warehouse, "SELECT data, reason, attempts FROM mediator_parked ORDER BY number")
        return [(json.loads(data)["number"], reason, attempts) for data, reason, attempts in rows]

    def counted(self) -> int:
        """How many events have a count of starts."""
        return int(self._read(self.warehouse, "SELECT count(*) FROM mediator_attempts")[0][0])

    def follow_ups(self) -> int:
        """Events that the warehouse has staged, published or not."""
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
    """Wait until something that another process or the broker does has happened."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"did not happen within {seconds:g} s: {what}")
        await asyncio.sleep(0.01)
