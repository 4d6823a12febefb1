"""Schema: creates, checks and upgrades the library's tables in a container's databases, and shows their SQL."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.cli.work import CommandError
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import instances_of
from mediator.dependency_injector.declared import given_argument, gives
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.lifespan import made, opened
from mediator.distributed.outbox import EventPublisher, Outbox, OutboxRelay
from mediator.errors import SettingError
from mediator.sqlalchemy import create_schema, schema_differences, schema_sql, upgrade_schema
from mediator.sqlalchemy.database import redacted

T = TypeVar("T")


async def create_tables(container: Any) -> list[str]:
    """Create the missing tables in every database of a container, and return the databases' URLs without passwords.

    Only the resources that the engines need are started.
    """
    return [url for url, _ in await _each_database(container, lambda engine, _: create_schema(engine))]


async def check_tables(container: Any) -> list[tuple[str, list[str]]]:
    """Return the URL of every database of a container, with the differences between the existing and wanted tables."""
    return await _each_database(container, lambda engine, _: schema_differences(engine))


async def upgrade_tables(container: Any, application: str | None = None) -> list[tuple[str, list[int]]]:
    """Upgrade the tables in every database of a container, and return each URL with the versions that were applied.

    `application` is the name under which the existing events were published. By default, the name is taken from the
    outbox of each database. If the outbox has no name, the name is taken from the publisher of the relay.

    Raises:
        SettingError: An upgrade needs the name, and no name is found.
        SchemaError: The tables are newer than the library.
    """
    graph = Graph(container)

    async def upgrade(engine: AsyncEngine, provider: Any) -> list[int]:
        name = application if application is not None else await _application(container, graph, provider)
        return await upgrade_schema(engine, application=name)

    return await _each_database(container, upgrade)


async def _application(container: Any, graph: Graph, engine: Any) -> str | None:
    """Return the application's name from the outbox of a database, or from the publisher if the outbox has no name."""
    relays = [relay for _, relay, _ in instances_of(container, OutboxRelay)]
    known = [*relays, *(outbox for _, outbox, _ in instances_of(container, Outbox))]
    using = [each for each in known if engine in graph.reachable([each])]
    parts = [each for each in graph.calls if each in graph.reachable(using)]
    for cls in (Outbox, EventPublisher):
        given = [await _given_name(each) for each in parts if gives(each, cls)]
        names = {each for each in given if each is not None}
        if len(names) > 1:
            listed = " and ".join(map(repr, sorted(names)))
            raise CommandError(f"Give --application: the container has several application names, {listed}.")
        for name in names:
            return name
    return None


async def _given_name(provider: Any) -> str | None:
    given = given_argument(provider, "application")
    if kinds.is_provider(given):
        given = await made(given)
    return given if isinstance(given, str) else None


def tables_as_text(dialect: str, from_version: int, application: str | None = None) -> str:
    """Return the statements that create the tables, or upgrade the tables of a given version to the current version."""
    try:
        return schema_sql(dialect, from_version=from_version, application=application)
    except SettingError as error:
        raise CommandError(str(error)) from error


async def _each_database(container: Any, act: Callable[[AsyncEngine, Any], Awaitable[T]]) -> list[tuple[str, T]]:
    providers = [provider for _, provider, _ in instances_of(container, AsyncEngine)]
    if not providers:
        raise CommandError("The container has no database: add a provider of an AsyncEngine to it.")
    found: list[tuple[str, T]] = []
    async with opened(container) as ask:
        for provider in providers:
            engine = await ask(provider)
            found.append((redacted(engine.url), await act(engine, provider)))
    return found
