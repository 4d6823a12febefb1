"""The tables of the scenarios: committed events and effects, each in the order of the commits."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.sqlalchemy import create_schema

_PLACE = {"sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT", "postgresql": "bigserial PRIMARY KEY"}
_NOW = {"sqlite": "((julianday('now') - 2440587.5) * 86400.0)", "postgresql": "extract(epoch FROM clock_timestamp())"}
_ORDER = {"sqlite": "place", "postgresql": "pg_xact_commit_timestamp(xmin), place"}
"""The commit order: SQLite numbers rows of one writer at a time; PostgreSQL records the time of each commit."""
_WHEN = {"sqlite": "at", "postgresql": "extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8"}

SETTINGS = {"track_commit_timestamp": "on"}
"""The setting of PostgreSQL that records commit times."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An event in one place.

    Attributes:
        id: Its id.
        key: Its partition key.
        at: The time of its arrival, in seconds since the epoch.
        detail: Further information.
    """

    id: str
    key: str
    at: float = 0.0
    detail: str = ""


async def create_tables(engine: AsyncEngine, keys: list[str], names: Sequence[str] = ("entries", "effects")) -> None:
    """Create the tables of the library and of both applications."""
    await create_schema(engine)
    place, now = _PLACE[engine.dialect.name], _NOW[engine.dialect.name]
    async with engine.begin() as connection:
        for name in names:
            columns = f"place {place}, id TEXT, key TEXT, detail TEXT, at DOUBLE PRECISION DEFAULT ({now})"
            await connection.execute(text(f"CREATE TABLE {name} ({columns})"))
        await connection.execute(text("CREATE TABLE stock (key TEXT PRIMARY KEY, changes INTEGER)"))
        await connection.execute(text("INSERT INTO stock VALUES (:key, 0)"), [{"key": key} for key in keys])


async def in_commit_order(engine: AsyncEngine, table: str) -> list[Seen]:
    """Return the rows of `entries` or `effects`."""
    dialect = engine.dialect.name
    statement = f"SELECT id, key, {_WHEN[dialect]}, detail FROM {table} ORDER BY {_ORDER[dialect]}"
    async with engine.connect() as connection:
        return [Seen(*row) for row in await connection.execute(text(statement))]


async def ids(engine: AsyncEngine, table: str, column: str = "id") -> list[str]:
    """Return the ids in one of the library's tables."""
    async with engine.connect() as connection:
        return [str(each) for each in (await connection.execute(text(f"SELECT {column} FROM {table}"))).scalars()]


async def parked(engine: AsyncEngine) -> list[Seen]:
    """Return the parked events in their order, with reason and attempts."""
    statement = (
        "SELECT event_id, partition_key, parked_at, reason || ' ' || attempts FROM mediator_parked ORDER BY number"
    )
    async with engine.connect() as connection:
        return [Seen(*row) for row in await connection.execute(text(statement))]


async def count(engine: AsyncEngine, table: str) -> int:
    """Return the number of rows of a table."""
    async with engine.connect() as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


async def insert(engine: AsyncEngine, table: str, rows: Sequence[Seen]) -> None:
    """Insert rows in this order."""
    statement = text(f"INSERT INTO {table} (id, key, detail) VALUES (:id, :key, :detail)")
    async with engine.begin() as connection:
        for row in rows:
            await connection.execute(statement, {"id": row.id, "key": row.key, "detail": row.detail})
