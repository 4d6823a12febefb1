"""Schema: the library's tables in the databases of a container, and as text."""

import inspect
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.cli.errors import CommandError
from mediator.dependency_injector.catalog import instances_of
from mediator.sqlalchemy import create_schema, schema_sql
from mediator.sqlalchemy.database import redacted


async def create_tables(container: Any) -> list[str]:
    """Create the missing tables in every database of a container; the URLs of these, without passwords.

    Only what the engines need is started.

    Raises:
        CommandError: The container has no engine.
        Exception: What a resource or the database raised.
    """
    providers = [provider for _, provider, _ in instances_of(container, AsyncEngine)]
    if not providers:
        raise CommandError("The container has no database: add a provider of an AsyncEngine to it.")
    try:
        return [await _create(provider) for provider in providers]
    finally:
        stopping = container.shutdown_resources()
        if inspect.isawaitable(stopping):
            await stopping


async def _create(provider: Any) -> str:
    engine = provider()
    if inspect.isawaitable(engine):
        engine = await engine
    await create_schema(engine)
    return redacted(engine.url)


def tables_as_text(dialect: str) -> str:
    """The statements that create the tables."""
    return schema_sql(dialect)
