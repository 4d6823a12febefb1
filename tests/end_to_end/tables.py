"""Creates the tables of both applications and configures their containers."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.sqlalchemy import create_schema


async def create_tables(engine: AsyncEngine) -> None:
    await create_schema(engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE IF NOT EXISTS orders (number TEXT NOT NULL)"))
        await connection.execute(
            text(
                "CREATE TABLE IF NOT EXISTS reservations "
                "(number TEXT, customer TEXT, id TEXT, attempt INTEGER, correlation TEXT)"
            )
        )


def configured(container: type, database: str, nats: str) -> Any:
    created = container()
    created.config.from_dict({"database": f"sqlite:///{database}", "nats": nats})
    return created
