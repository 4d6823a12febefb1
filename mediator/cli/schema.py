"""Schema: the library's tables in the databases of a container, and as text."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.cli.errors import CommandError
from mediator.dependency_injector.catalog import instances_of
from mediator.errors import SettingError
from mediator.sqlalchemy import create_schema, schema_differences, schema_sql, upgrade_schema
from mediator.sqlalchemy.database import redacted

T = TypeVar("T")


async def create_tables(container: Any) -> list[str]:
    """Create the missing tables in every database of a container; the URLs of these, without passwords.

    Only what the engines need is started.

    Raises:
        CommandError: The container has no engine.
        Exception: What a resource or the database raised.
    """
    return [url for url, _ in await _each_database(container, create_schema)]


async def check_tables(container: Any) -> list[tuple[str, list[str]]]:
    """The URL of every database of a container, and how its tables differ (see `create_tables`)."""
    return await _each_database(container, schema_differences)


async def upgrade_tables(container: Any) -> list[tuple[str, list[int]]]:
    """The URL of every database of a container, and the versions that were applied to it (see `create_tables`).

    Raises:
        SchemaNewerError: The tables are newer than the library.
    """
    return await _each_database(container, upgrade_schema)


def tables_as_text(dialect: str, from_version: int) -> str:
    """The statements that create the tables, or bring those of a version to today's.

    Raises:
        CommandError: There is no such version.
    """
    try:
        return schema_sql(dialect, from_version=from_version)
    except SettingError as error:
        raise CommandError(str(error)) from error


async def _each_database(container: Any, act: Callable[[AsyncEngine], Awaitable[T]]) -> list[tuple[str, T]]:
    providers = [provider for _, provider, _ in instances_of(container, AsyncEngine)]
    if not providers:
        raise CommandError("The container has no database: add a provider of an AsyncEngine to it.")
    try:
        found: list[tuple[str, T]] = []
        for provider in providers:
            engine = provider()
            if inspect.isawaitable(engine):
                engine = await engine
            found.append((redacted(engine.url), await act(engine)))
        return found
    finally:
        stopping = container.shutdown_resources()
        if inspect.isawaitable(stopping):
            await stopping
