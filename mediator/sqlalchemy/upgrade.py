"""Upgrade: a database without the tables gets them, one with older ones gets today's, version by version."""

from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mediator.errors import SchemaNewerError, SchemaOutdatedError
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.migrations import HISTORY, SchemaHistory
from mediator.sqlalchemy.schema import versions

_UNRECORDED = 1
"""The version of tables that do not say theirs: the first one that was recorded."""


async def create_schema(engine: AsyncEngine, *, history: SchemaHistory = HISTORY) -> None:
    """Create the tables that are missing; safe to call at every start, in several processes at once.

    Tables of a newer version are left as they are: a new version of the application may be about to replace this one.

    Args:
        engine: The database.
        history: The versions of the tables.

    Raises:
        SchemaOutdatedError: They are there in an older version; see `upgrade_schema`.
        DatabaseUnavailableError: The database cannot be opened.
        WriterTimeoutError: Other writers keep it busy.
    """
    database = database_of(engine)
    async with database.writing() as connection:
        await database.lock_schema(connection)
        version = await schema_version(connection)
        if 0 < version < history.version:
            raise SchemaOutdatedError(database.name, version, history.version)
        if version <= history.version:
            await _create(connection, history)


async def upgrade_schema(engine: AsyncEngine, *, history: SchemaHistory = HISTORY) -> list[int]:
    """Bring the tables to the version of this library; safe to call in several processes at once.

    Each version is a transaction of its own, in which other processes that upgrade or create wait: when one fails, those
    before it stay. A database without tables gets today's.

    Args:
        engine: The database.
        history: The versions of the tables.

    Returns:
        The versions that this call applied, in order; empty when there was nothing to do.

    Raises:
        SchemaNewerError: The tables are of a newer version than this library knows. Nothing was changed.
        DatabaseUnavailableError: The database cannot be opened.
        WriterTimeoutError: Other writers keep it busy.
    """
    database = database_of(engine)
    applied: list[int] = []
    while step := await _step(database, history):
        applied += step
    return applied


async def schema_version(connection: AsyncConnection) -> int:
    """The version of the tables that a database has; 0 when it has none."""
    return await connection.run_sync(_version)


def _version(connection: Connection) -> int:
    recorded = recorded_version(connection)
    if recorded is not None:
        return recorded
    inspector = inspect(connection)
    others = (table.name for table in versions.metadata.sorted_tables if table is not versions)
    return _UNRECORDED if any(map(inspector.has_table, others)) else 0


def recorded_version(connection: Connection) -> int | None:
    """The highest version that a database says its tables are of; `None` when it says none."""
    if not inspect(connection).has_table(versions.name):
        return None
    version: int | None = connection.execute(select(func.max(versions.c.version))).scalar()
    return version


async def _step(database: Database, history: SchemaHistory) -> list[int]:
    """Apply the next version that is missing, if one is."""
    async with database.writing() as connection:
        await database.lock_schema(connection)
        version = await schema_version(connection)
        if version > history.version:
            raise SchemaNewerError(database.name, version, history.version)
        if version == 0:
            await _create(connection, history)
            return list(range(1, history.version + 1))
        adopted = [version] if await _adopted(connection, history) else []
        if version == history.version:
            return adopted
        migration = history.migrations[version - 1]
        for statement in history.step(database.engine.dialect, migration):
            await connection.exec_driver_sql(statement)
        return [*adopted, migration.version]


async def _adopted(connection: AsyncConnection, history: SchemaHistory) -> bool:
    """Record the version of tables that do not say it; whether that was needed."""
    if await connection.run_sync(recorded_version) is not None:
        return False
    if history.version == _UNRECORDED:
        await _create(connection, history)  # they may be of an even older time, before one of these tables
        return True
    await connection.run_sync(versions.create, checkfirst=True)
    for statement in SchemaHistory(history.metadata).rows(connection.dialect):
        await connection.exec_driver_sql(statement)
    return True


async def _create(connection: AsyncConnection, history: SchemaHistory) -> None:
    await connection.run_sync(history.metadata.create_all)
    for statement in history.rows(connection.dialect):
        await connection.exec_driver_sql(statement)
