"""SchemaHistory: the tables as they are today, and the steps that bring those of an older version there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Insert, MetaData, insert, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from mediator.distributed.cloudevents import BUCKETS
from mediator.errors import SettingError
from mediator.sqlalchemy.schema import buckets, metadata, versions

_DIALECTS: dict[str, Callable[[], Dialect]] = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect}
_NOW = {"sqlite": "(julianday('now') - 2440587.5) * 86400.0", "postgresql": "extract(epoch FROM now())"}
_FIRST = 1


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from the version before.

    It must let processes of the version before go on, since these run while it is applied and for a while after.

    Attributes:
        version: The version that the tables have after it.
        statements: What is executed, in order and in one transaction, by dialect (`"sqlite"`, `"postgresql"`).
    """

    version: int
    statements: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class SchemaHistory:
    """The versions of the tables. A new one is an entry of `migrations`, beside the change of the metadata itself.

    Attributes:
        metadata: The tables as they are today.
        migrations: The steps to versions 2, 3 and so on, in order.
    """

    metadata: MetaData
    migrations: Sequence[Migration] = field(default=())

    def __post_init__(self) -> None:
        numbers = [each.version for each in self.migrations]
        if numbers != list(range(_FIRST + 1, _FIRST + 1 + len(numbers))):
            raise SettingError("migrations", numbers, f"number them {_FIRST + 1}, {_FIRST + 2} and so on, in order")

    @property
    def version(self) -> int:
        """The version of the tables as they are today."""
        return _FIRST + len(self.migrations)

    def statements(self, dialect: Dialect | str, from_version: int = 0) -> list[str]:
        """The statements that bring a database from a version to today's, and record that.

        Args:
            dialect: "sqlite" or "postgresql", or SQLAlchemy's object for it.
            from_version: The version of its tables; 0 when it has none.

        Raises:
            SettingError: There is no such version or dialect.
        """
        if not 0 <= from_version <= self.version:
            raise SettingError("from_version", from_version, f"use 0 to {self.version}")
        of = _dialect(dialect)
        if from_version == 0:
            return [*self._tables(of), *self.rows(of)]
        return [text for migration in self.migrations[from_version - 1 :] for text in self.step(of, migration)]

    def step(self, dialect: Dialect, migration: Migration) -> list[str]:
        """The statements of one migration, and the one that records it."""
        return [*migration.statements[dialect.name], _recorded(dialect, migration.version)]

    def rows(self, dialect: Dialect | str) -> list[str]:
        """The statements for the rows that new tables begin with; they change nothing where these are there."""
        of = _dialect(dialect)
        numbers = [{"bucket": number} for number in range(BUCKETS)]
        recorded = (_recorded(of, version) for version in range(_FIRST, self.version + 1))
        return [_unless_there(insert(buckets).values(numbers), of), *recorded]

    def _tables(self, dialect: Dialect) -> list[str]:
        statements: list[str] = []
        for table in self.metadata.sorted_tables:
            statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
            indexes = sorted(table.indexes, key=lambda index: str(index.name))
            statements += [str(CreateIndex(index).compile(dialect=dialect)) for index in indexes]
        return statements


HISTORY: SchemaHistory = SchemaHistory(metadata)
"""The versions of the tables of this library."""


def schema_statements(dialect: Dialect | str, *, from_version: int = 0) -> list[str]:
    """The statements that create the tables and their first rows, or bring those of an older version to today's.

    For a migration of your own: `for statement in schema_statements("postgresql"): op.execute(statement)`.

    Args:
        dialect: "sqlite" or "postgresql", or SQLAlchemy's object for it (`engine.dialect`).
        from_version: The version of the tables that are there; 0 when there are none.

    Raises:
        SettingError: There is no such version or dialect.
    """
    return HISTORY.statements(dialect, from_version)


def schema_rows(dialect: Dialect | str) -> list[str]:
    """The statements for the rows that new tables begin with, for tables that something else creates.

    Without these rows nothing is published. Executed again, they change nothing.

    Args:
        dialect: "sqlite" or "postgresql", or SQLAlchemy's object for it (`engine.dialect`).

    Raises:
        SettingError: There is no such dialect.
    """
    return HISTORY.rows(dialect)


def schema_sql(dialect: Dialect | str, *, from_version: int = 0) -> str:
    """The statements of `schema_statements` as one text; empty when there is nothing to do."""
    statements = schema_statements(dialect, from_version=from_version)
    return "".join(f"{statement};\n\n" for statement in statements).rstrip() + "\n" * bool(statements)


def _dialect(dialect: Dialect | str) -> Dialect:
    name = dialect if isinstance(dialect, str) else dialect.name
    if name not in _DIALECTS:
        raise SettingError("dialect", name, f"use {' or '.join(_DIALECTS)}")
    return _DIALECTS[name]() if isinstance(dialect, str) else dialect


def _recorded(dialect: Dialect, version: int) -> str:
    now: ColumnElement[float] = literal_column(_NOW[dialect.name])
    return _unless_there(insert(versions).values(version=version, applied_at=now), dialect)


def _unless_there(statement: Insert, dialect: Dialect) -> str:
    return f"{statement.compile(dialect=dialect, compile_kwargs={'literal_binds': True})} ON CONFLICT DO NOTHING"
