"""Migrations: the versions of the tables, and the statements that create the tables or upgrade them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Inspector,
    MetaData,
    func,
    insert,
    inspect,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

from mediator.distributed.cloudevents import BUCKETS, LONGEST_APPLICATION
from mediator.errors import SettingError, misuse
from mediator.settings import check_texts
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.schema import archive, buckets, metadata, outbox, parked, versions

_DIALECTS: dict[str, Callable[[], Dialect]] = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect}
_NOW = {"sqlite": "(julianday('now') - 2440587.5) * 86400.0", "postgresql": "extract(epoch FROM now())"}
_FIRST = 1
_APPLICATION = "{application}"
"""A placeholder in the statements of a migration, for the name of the application as an SQL literal."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A step from the previous version of the tables to the next version.

    During the step and for some time after the step, some processes still use the previous version. These processes
    must keep working.

    Attributes:
        version: The version that the tables have after the step.
        statements: The statements for `"sqlite"` and for `"postgresql"`, executed in order and in one transaction.
        names_events: Whether the name of the application replaces `{application}` in the statements.
        adds: The name of a table, and the name of a column that the step adds to this table. When no version is
            recorded but the column exists, the tables have at least the version of this step.
    """

    version: int
    statements: Mapping[str, Sequence[str]]
    names_events: bool = False
    adds: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class SchemaHistory:
    """All versions of the tables. A new version needs an entry in `migrations` and a change of `metadata`.

    `metadata` describes the current tables, and `migrations` has the steps to versions 2, 3 and so on, in order.
    """

    metadata: MetaData
    migrations: Sequence[Migration] = field(default=())

    def __post_init__(self) -> None:
        numbers = [each.version for each in self.migrations]
        if numbers != list(range(_FIRST + 1, _FIRST + 1 + len(numbers))):
            raise SettingError("migrations", numbers, f"number them {_FIRST + 1}, {_FIRST + 2} and so on, in order")

    @property
    def version(self) -> int:
        """The current version of the tables."""
        return _FIRST + len(self.migrations)

    def statements(self, dialect: Dialect | str, from_version: int = 0, *, application: str | None = None) -> list[str]:
        """Return the statements that create the current tables, or that upgrade tables of `from_version`."""
        if not 0 <= from_version <= self.version:
            raise SettingError("from_version", from_version, f"use 0 to {self.version}")
        of = _dialect(dialect)
        if from_version == 0:
            return [*self._tables(of), *self.rows(of)]
        steps = self.migrations[from_version - 1 :]
        if application is None and any(migration.names_events for migration in steps):
            problem = "give the name of the application under which the existing events were published"
            raise SettingError("application", application, problem)
        return [text for migration in steps for text in self.step(of, migration, application)]

    def step(self, dialect: Dialect, migration: Migration, application: str | None = None) -> list[str]:
        """Return the statements of one migration, and the statement that records the migration.

        When `application` is `None`, an empty text replaces `{application}` in the statements.
        """
        statements = migration.statements[dialect.name]
        if migration.names_events:
            statements = _with_name(statements, application, dialect)
        return [*statements, _record(dialect, migration.version)]

    def rows(self, dialect: Dialect | str, application: str | None = None) -> list[str]:
        """Return the statements that insert the initial rows if they are missing.

        When `application` is given, further statements set this name as the source of stored events without a source.
        """
        of = _dialect(dialect)
        numbers = [{"bucket": number} for number in range(BUCKETS)]
        recorded = (_record(of, version) for version in range(_FIRST, self.version + 1))
        named = [] if application is None else _with_name(_SET_SOURCES, application, of)
        return [_unless_there(insert(buckets).values(numbers), of), *recorded, *named]

    def _tables(self, dialect: Dialect) -> list[str]:
        statements: list[str] = []
        for table in self.metadata.sorted_tables:
            statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
            indexes = sorted(table.indexes, key=lambda index: str(index.name))
            statements += [str(CreateIndex(index).compile(dialect=dialect)) for index in indexes]
        return statements


_VERSION_2 = (
    f"ALTER TABLE mediator_outbox ADD COLUMN source VARCHAR(255) DEFAULT {_APPLICATION} NOT NULL",
    f"ALTER TABLE mediator_outbox_archive ADD COLUMN source VARCHAR(255) DEFAULT {_APPLICATION} NOT NULL",
    "CREATE INDEX mediator_outbox_unnamed ON mediator_outbox (sequence) WHERE source = ''",
    f"UPDATE mediator_parked SET source = {_APPLICATION} WHERE direction = 'out' AND source = ''",  # noqa: S608
    "UPDATE mediator_parked SET partition_key = NULL WHERE partition_key = ''",
)
"""The statements of version 2, which stores the source of each event.

The name of the application is the default value of the new column. The database can add a column with a default value
without rewriting the table. Processes of version 1 that still run do not set the column, and their events get the
default value. An empty partition key becomes NULL, since version 1 treated an empty key as no key.
"""

_VERSION_3 = (
    "ALTER TABLE mediator_parked ADD COLUMN ordered INTEGER DEFAULT 1 NOT NULL",
    "ALTER TABLE mediator_parked ADD COLUMN due_at FLOAT",
    "ALTER TABLE mediator_parked ADD COLUMN tries INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE mediator_parked ADD COLUMN last_start VARCHAR(8) DEFAULT 'ended' NOT NULL",
    "ALTER TABLE mediator_parked ADD COLUMN claim INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE mediator_parked ADD COLUMN held_by TEXT",
    "ALTER TABLE mediator_parked ADD COLUMN asked_at FLOAT",
    "CREATE INDEX mediator_parked_by_due ON mediator_parked (consumer, due_at, number) WHERE due_at IS NOT NULL",
    "CREATE INDEX mediator_parked_held ON mediator_parked (consumer, held_by, claim, number) WHERE held_by IS NOT NULL",
)
"""The statements of version 3. With version 3, consumers try parked events again by themselves, and circuits hold events.

The database can add these columns without rewriting the table. Processes of version 2 that still run do not set the
columns. Events that these processes park get the default values, and so do events that are already parked. With the
default values, an event is kept in order, and waits for a person.
"""

_SET_SOURCES = (
    f"UPDATE mediator_outbox SET source = {_APPLICATION} WHERE source = ''",  # noqa: S608
    f"UPDATE mediator_outbox_archive SET source = {_APPLICATION} WHERE source = ''",  # noqa: S608
    *_VERSION_2[-2:],
)

HISTORY: SchemaHistory = SchemaHistory(
    metadata,
    [
        Migration(
            2,
            dict.fromkeys(("sqlite", "postgresql"), _VERSION_2),
            names_events=True,
            adds=("mediator_outbox", "source"),
        ),
        Migration(3, dict.fromkeys(("sqlite", "postgresql"), _VERSION_3), adds=("mediator_parked", "due_at")),
    ],
)
"""The versions of this library's tables."""


def schema_statements(dialect: Dialect | str, *, from_version: int = 0, application: str | None = None) -> list[str]:
    """Return the statements that create the tables and their initial rows, or that upgrade older tables.

    In a migration of your own: `for statement in schema_statements("postgresql"): op.execute(statement)`.

    Args:
        dialect: "sqlite", "postgresql", or SQLAlchemy's object for the dialect (`engine.dialect`).
        from_version: The version of the existing tables; 0 when there are no tables.
        application: The name of the application under which the events in the tables were published; required to
            upgrade from version 1.

    Raises:
        SettingError: The version or the dialect is unknown, or the name of the application is missing or not valid.
    """
    return HISTORY.statements(dialect, from_version, application=application)


def schema_rows(dialect: Dialect | str, *, application: str | None = None) -> list[str]:
    """Return the statements that insert the initial rows into tables that another tool has created.

    Without these rows, no event is published. Executing the statements again changes nothing.

    Args:
        dialect: "sqlite", "postgresql", or SQLAlchemy's object for the dialect (`engine.dialect`).
        application: The name of the application under which the events in the tables were published. The name becomes
            the source of stored events without a source. Your own migration to version 2 must give the name.

    Raises:
        SettingError: The dialect is unknown, or the name of the application is not valid.
    """
    return HISTORY.rows(dialect, application)


def schema_sql(dialect: Dialect | str, *, from_version: int = 0, application: str | None = None) -> str:
    """Return the statements of `schema_statements` as one text; empty when no statement is needed."""
    statements = schema_statements(dialect, from_version=from_version, application=application)
    return "".join(f"{statement};\n\n" for statement in statements).rstrip() + "\n" * bool(statements)


def _dialect(dialect: Dialect | str) -> Dialect:
    name = dialect if isinstance(dialect, str) else dialect.name
    if name not in _DIALECTS:
        raise SettingError("dialect", name, f"use {' or '.join(_DIALECTS)}")
    return _DIALECTS[name]() if isinstance(dialect, str) else dialect


def _record(dialect: Dialect, version: int) -> str:
    now: ColumnElement[float] = literal_column(_NOW[dialect.name])
    return _unless_there(insert(versions).values(version=version, applied_at=now), dialect)


def _with_name(statements: Sequence[str], application: str | None, dialect: Dialect) -> list[str]:
    if application is not None:
        check_texts(longest=LONGEST_APPLICATION, application=application)
    name = str(literal(application or "").compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    return [statement.replace(_APPLICATION, name) for statement in statements]


def _unless_there(statement: Insert, dialect: Dialect) -> str:
    return f"{statement.compile(dialect=dialect, compile_kwargs={'literal_binds': True})} ON CONFLICT DO NOTHING"


_UNCHANGED = frozenset({"mediator_attempts", "mediator_idempotency", "mediator_inbox", "mediator_relay_buckets"})
"""The tables that no migration has changed. A database without a recorded version may lack some of these tables."""


async def create_schema(engine: AsyncEngine, *, history: SchemaHistory = HISTORY) -> None:
    """Create the missing tables. Any number of processes may call this function at the same time and at every start.

    Tables of a newer version are not changed. A newer release of the application may have upgraded the tables while
    this release still runs.

    Args:
        engine: The engine of the database.
        history: The versions of the tables.

    Raises:
        SchemaError: The tables are of an older version; see `upgrade_schema`.
        DatabaseUnavailableError: The database cannot be opened.
        WriterTimeoutError: Other writers held the writer lock of an SQLite database for too long.
    """
    database = database_of(engine)
    async with database.writing() as connection:
        await database.lock_schema(connection)
        version = await schema_version(connection, history)
        if 0 < version < history.version:
            raise misuse.schema_outdated(database.name, version, history.version)
        if version <= history.version:
            await _create(connection, history)


async def upgrade_schema(
    engine: AsyncEngine, *, application: str | None = None, history: SchemaHistory = HISTORY
) -> list[int]:
    """Upgrade the tables to the current version. Any number of processes may call this function at the same time.

    Each version is applied in its own transaction. Other processes that upgrade or create tables wait for this
    transaction. When a version fails, the previous versions stay applied. In a database without tables, the current
    tables are created.

    Args:
        engine: The engine of the database.
        application: The name of the application under which the events in the tables were published (the `application`
            of the publisher). The upgrade stores this name with these events. The name is required to upgrade from
            version 1 when the tables have events.
        history: The versions of the tables.

    Returns:
        The versions that this call applied, in order; empty when the tables were current.

    Raises:
        SchemaError: The tables are of a newer version than this library knows. Nothing was changed.
        SettingError: The name of the application is missing or not valid. Nothing was changed.
        DatabaseUnavailableError: The database cannot be opened.
        WriterTimeoutError: Other writers held the writer lock of an SQLite database for too long.
    """
    database = database_of(engine)
    applied: list[int] = []
    while step := await _step(database, history, application):
        applied += step
    return applied


async def schema_version(connection: AsyncConnection, history: SchemaHistory = HISTORY) -> int:
    """Return the version of the tables in a database; 0 when there are no tables."""
    return await connection.run_sync(_version, history)


def _version(connection: Connection, history: SchemaHistory) -> int:
    recorded = recorded_version(connection)
    if recorded is not None:
        return recorded
    inspector = inspect(connection)
    others = (table.name for table in versions.metadata.sorted_tables if table is not versions)
    if not any(map(inspector.has_table, others)):
        return 0
    applied = [each.version for each in history.migrations if each.adds is not None and _has(inspector, *each.adds)]
    return max(applied, default=_FIRST)


def _has(inspector: Inspector, table: str, column: str) -> bool:
    return inspector.has_table(table) and column in {each["name"] for each in inspector.get_columns(table)}


def recorded_version(connection: Connection) -> int | None:
    """Return the highest recorded version in a database; `None` when no version is recorded."""
    if not inspect(connection).has_table(versions.name):
        return None
    version: int | None = connection.execute(select(func.max(versions.c.version))).scalar()
    return version


async def _step(database: Database, history: SchemaHistory, application: str | None) -> list[int]:
    """Apply the next version, and return the versions that were applied or recorded; empty when the tables are current."""
    async with database.writing() as connection:
        await database.lock_schema(connection)
        version = await schema_version(connection, history)
        if version > history.version:
            raise misuse.schema_newer(database.name, version, history.version)
        if version == 0:
            await _create(connection, history)
            return list(range(1, history.version + 1))
        adopted = [version] if await _record_if_missing(connection, history, version) else []
        if version == history.version:
            return adopted
        migration = history.migrations[version - 1]
        if migration.names_events and application is None:
            await _check_no_events(connection)
        for statement in history.step(database.engine.dialect, migration, application):
            await connection.exec_driver_sql(statement)
        return [*adopted, migration.version]


async def _check_no_events(connection: AsyncConnection) -> None:
    """Raise a `SettingError` if the tables have events, since an upgrade of events needs the application's name."""
    for table, condition in (outbox, true()), (archive, true()), (parked, parked.c.direction == "out"):
        found = await connection.execute(select(literal(1)).select_from(table).where(condition).limit(1))
        if found.first() is not None:
            problem = f"{table.name} has events: give the name of the application under which they were published"
            raise SettingError("application", None, problem)


async def _record_if_missing(connection: AsyncConnection, history: SchemaHistory, version: int) -> bool:
    """Record the version of the tables, and return `True`; return `False` when a version is recorded already."""
    if await connection.run_sync(recorded_version) is not None:
        return False
    await connection.run_sync(versions.create, checkfirst=True)
    older = [table for table in history.metadata.sorted_tables if table.name in _UNCHANGED]
    await connection.run_sync(history.metadata.create_all, tables=older)
    for statement in SchemaHistory(history.metadata, history.migrations[: version - 1]).rows(connection.dialect):
        await connection.exec_driver_sql(statement)
    return True


async def _create(connection: AsyncConnection, history: SchemaHistory) -> None:
    await connection.run_sync(history.metadata.create_all)
    for statement in history.rows(connection.dialect):
        await connection.exec_driver_sql(statement)
