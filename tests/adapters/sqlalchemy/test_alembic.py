"""The tables among the migrations of an application that uses Alembic, with a real Alembic."""

from collections.abc import Callable
from typing import Any

from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Connection, Integer, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.sqlalchemy import metadata, open_engine, schema_differences, schema_rows, schema_statements
from mediator.sqlalchemy.engine import database_of

own = MetaData()
students = Table("students", own, Column("id", Integer, primary_key=True))


def invoke(operations: Operations, found: Any) -> None:
    for each in getattr(found, "ops", ()):
        invoke(operations, each)
    if not hasattr(found, "ops"):
        operations.invoke(found)


def include_object(_object: object, name: str | None, kind: str, *_: object) -> bool:
    """Exclude the library's tables, as the page about databases shows it."""
    return not (kind == "table" and (name or "").startswith("mediator_"))


async def migrate(engine: AsyncEngine, act: Callable[[MigrationContext], Any], **options: Any) -> Any:
    def migrated(connection: Connection) -> Any:
        return act(MigrationContext.configure(connection, opts={"compare_type": True, **options}))

    async with database_of(engine).writing() as connection:
        return await connection.run_sync(migrated)


def differences(context: MigrationContext) -> list[Any]:
    return list(compare_metadata(context, [own, metadata]))


async def test_a_generated_migration_creates_the_tables_without_a_difference(url: str):
    def generate(context: MigrationContext) -> None:
        invoke(Operations(context), produce_migrations(context, [own, metadata]).upgrade_ops)

    def add_rows(context: MigrationContext) -> None:
        for statement in schema_rows(context.dialect.name):
            Operations(context).execute(statement)

    async with open_engine(url) as engine:
        await migrate(engine, generate)
        assert await migrate(engine, differences) == []
        only_rows = await schema_differences(engine)
        assert any("mediator_relay_buckets lacks 64 of 64 rows" in each for each in only_rows)
        assert all("rows" in each or "version" in each for each in only_rows)

        await migrate(engine, add_rows)
        assert await schema_differences(engine) == []


async def test_a_migration_that_executes_the_librarys_statements_leaves_the_others_to_alembic(url: str):
    def execute(context: MigrationContext) -> None:
        for statement in schema_statements(context.dialect.name):
            Operations(context).execute(statement)

    def other_differences(context: MigrationContext) -> list[Any]:
        return list(compare_metadata(context, own))

    async with open_engine(url) as engine:
        await migrate(engine, execute)
        assert await schema_differences(engine) == []
        found = await migrate(engine, other_differences, include_object=include_object)
        assert [(kind, table.name) for kind, table in found] == [("add_table", "students")]
