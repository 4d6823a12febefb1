"""Schema check: describes the differences between the tables in a database and the tables of this library."""

import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Inspector, Table, UniqueConstraint, inspect, select
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.types import TypeEngine

from mediator.distributed.cloudevents import BUCKETS
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.migrations import HISTORY, SchemaHistory, recorded_version, schema_version
from mediator.sqlalchemy.schema import buckets

_SAME_TYPE = {"FLOAT": "DOUBLE PRECISION", "DOUBLE PRECISION(53)": "DOUBLE PRECISION"}
_UNIMPORTANT = re.compile(r"::text|[\s()\"]+")


async def schema_differences(engine: AsyncEngine, *, history: SchemaHistory = HISTORY) -> list[str]:
    """Compare a database with the tables of this library, and return the differences as texts. Nothing is changed.

    The comparison covers the recorded version, the tables, keys and indexes, and the rows that relays need. Columns are
    compared by type, and by whether NULL is allowed. Anything else in the database is not a difference.

    Args:
        engine: The engine of the database.
        history: The versions of the tables.

    Raises:
        DatabaseUnavailableError: The database cannot be opened.
    """
    async with database_of(engine).reader.connect() as connection:
        return [*await version_differences(connection, history), *await table_differences(connection, history)]


async def version_differences(connection: AsyncConnection, history: SchemaHistory = HISTORY) -> list[str]:
    """Return the problems of the recorded version as texts; empty if this version is current or no tables exist."""
    recorded, version = await connection.run_sync(recorded_version), await schema_version(connection, history)
    if version > history.version:
        known = f"the tables are of version {version}, and this library knows versions up to {history.version}"
        return [f"{known}: install the version of the library that upgraded them, or a later one"]
    if 0 < version < history.version:
        return [f"the tables are of version {version}, and this library needs version {history.version}"]
    return ["no version is recorded"] if recorded is None and version > 0 else []


async def table_differences(connection: AsyncConnection, history: SchemaHistory = HISTORY) -> list[str]:
    """Return the differences of the tables, and of the rows in the table of buckets, as texts."""

    def compare(sync: Connection) -> list[str]:
        inspector = inspect(sync)
        found = [text for table in history.metadata.sorted_tables for text in _table(inspector, table, sync.dialect)]
        return [*found, *_buckets(sync, inspector)]

    return await connection.run_sync(compare)


def _table(inspector: Inspector, table: Table, dialect: Dialect) -> Iterator[str]:
    if not inspector.has_table(table.name):
        yield f"the table {table.name} is missing"
        return
    yield from _columns(inspector, table, dialect)
    key = sorted(inspector.get_pk_constraint(table.name)["constrained_columns"])
    if key != sorted(column.name for column in table.primary_key):
        yield f"the primary key of {table.name} is ({', '.join(key)})"
    yield from _unique(inspector, table)
    yield from _indexes(inspector, table, dialect)


def _columns(inspector: Inspector, table: Table, dialect: Dialect) -> Iterator[str]:
    found = {column["name"]: column for column in inspector.get_columns(table.name)}
    for column in table.columns:
        name = f"{table.name}.{column.name}"
        there: Any = found.get(column.name)
        if there is None:
            yield f"the column {name} is missing"
            continue
        wanted, is_type = _type(column.type, dialect), _type(there["type"], dialect)
        if wanted != is_type:
            yield f"the column {name} is of type {is_type}, not {wanted}"
        if bool(there["nullable"]) != bool(column.nullable):
            yield f"the column {name} may {'' if there['nullable'] else 'not '}be NULL"
        if dialect.name == "postgresql" and column.identity is not None and not there.get("identity"):
            yield f"the column {name} does not number the rows of its table: make it an identity column"


def _type(of: TypeEngine[Any], dialect: Dialect) -> str:
    text = of.compile(dialect).upper()
    return _SAME_TYPE.get(text, text)


def _unique(inspector: Inspector, table: Table) -> Iterator[str]:
    """Yield a difference for each missing unique constraint, unless a unique index has the same columns."""
    there = {tuple(sorted(each["column_names"])) for each in inspector.get_unique_constraints(table.name)}
    there |= {
        tuple(sorted(str(name) for name in each["column_names"]))
        for each in inspector.get_indexes(table.name)
        if each["unique"]
    }
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            columns = tuple(sorted(column.name for column in constraint.columns))
            if columns not in there:
                yield f"the columns ({', '.join(columns)}) of {table.name} are not unique"


def _indexes(inspector: Inspector, table: Table, dialect: Dialect) -> Iterator[str]:
    found = {each["name"]: each for each in inspector.get_indexes(table.name)}
    for index in sorted(table.indexes, key=lambda each: str(each.name)):
        there: Any = found.get(str(index.name))
        if there is None:
            yield f"the index {index.name} of {table.name} is missing"
            continue
        columns = [column.name for column in index.columns]
        if there["column_names"] != columns:
            shown = ", ".join(map(str, there["column_names"]))
            yield f"the index {index.name} is on ({shown}), not on ({', '.join(columns)})"
        conditions = (
            there.get("dialect_options", {}).get(f"{dialect.name}_where"),
            index.dialect_options[dialect.name]["where"],
        )
        where, wanted = ("" if each is None else str(each) for each in conditions)
        if _plain(where) != _plain(wanted):
            yield f"the index {index.name} covers {where or 'all rows'}, but must cover {wanted or 'all rows'}"


def _plain(condition: str) -> str:
    return _UNIMPORTANT.sub("", condition).lower()


def _buckets(connection: Connection, inspector: Inspector) -> Iterator[str]:
    """Yield a difference when the table of buckets does not have exactly one row for each valid bucket.

    The rows are not compared while the columns of the table differ, since the columns have to be corrected first.
    """
    if not inspector.has_table(buckets.name) or any(_columns(inspector, buckets, connection.dialect)):
        return
    found, wanted = set(connection.execute(select(buckets.c.bucket)).scalars()), set(range(BUCKETS))
    others, missing = found - wanted, wanted - found
    texts = [f"has invalid rows ({_numbers(others)}; only {_numbers(wanted)} are valid)"] if others else []
    if missing:
        lacks = f"lacks {len(missing)} of {BUCKETS} rows ({_numbers(missing)})"
        texts.append(f"{lacks}: relays publish nothing until these rows exist")
    if texts:
        yield f"the table {buckets.name} {' and '.join(texts)}"


def _numbers(numbers: set[int]) -> str:
    """Return the numbers as a text, in which `first-last` stands for consecutive numbers."""
    firsts = sorted(number for number in numbers if number - 1 not in numbers)
    lasts = sorted(number for number in numbers if number + 1 not in numbers)
    ranges = zip(firsts, lasts, strict=True)
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
