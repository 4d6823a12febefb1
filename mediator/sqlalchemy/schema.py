"""Schema: the tables of this library, as SQLAlchemy metadata, as SQL text, and created in a database."""

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

from mediator.sqlalchemy.engine import database_of

metadata: MetaData = MetaData()
"""The tables below; give it to Alembic as one of its `target_metadata`."""


def _event_columns() -> list[Column[object]]:
    return [
        Column("id", String(64), nullable=False, unique=True),
        Column("type", String(255), nullable=False),
        Column("time", String(40), nullable=False),
        Column("partition_key", String(255)),
        Column("bucket", Integer, nullable=False),
        Column("content_type", String(127), nullable=False),
        Column("extensions", Text, nullable=False),
        Column("data", LargeBinary, nullable=False),
    ]


outbox: Table = Table(
    "mediator_outbox",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    *_event_columns(),
    sqlite_autoincrement=True,
)
"""Committed events that the broker has not stored yet. A row's sequence orders it among those of its key."""

archive: Table = Table(
    "mediator_outbox_archive",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    *_event_columns(),
    Column("archived_at", Float, nullable=False),
    Index("mediator_outbox_archive_by_time", "archived_at"),
)
"""Events that the broker has stored, kept for a while: a broker that lost its disk can be filled again."""

inbox: Table = Table(
    "mediator_inbox",
    metadata,
    Column("consumer", String(64), primary_key=True),
    Column("source", String(255), primary_key=True),
    Column("event_id", String(255), primary_key=True),
    Column("received_at", Float, nullable=False),
    Index("mediator_inbox_by_time", "received_at"),
)
"""Events that have taken effect in this database."""


async def create_schema(engine: AsyncEngine) -> None:
    """Create the tables that are missing; safe to call at every start, in several processes at once.

    Raises:
        DatabaseUnavailableError: The database cannot be opened.
        WriterTimeoutError: Other writers keep it busy.
    """
    async with database_of(engine).writing() as connection:
        await connection.run_sync(metadata.create_all)


def schema_sql(dialect: Dialect) -> str:
    """The statements that create the tables, for a database's dialect (`engine.dialect`)."""
    statements: list[str] = []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        statements += [
            str(CreateIndex(i).compile(dialect=dialect)) for i in sorted(table.indexes, key=lambda i: str(i.name))
        ]
    return "".join(f"{statement};\n\n" for statement in statements).rstrip() + "\n"
