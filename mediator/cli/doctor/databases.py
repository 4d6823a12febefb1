"""Databases: checks the tables, settings, connection pools and clocks of each database."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from mediator.cli.doctor.backlog import Backlog, Parked
from mediator.cli.doctor.brokers import compared
from mediator.cli.doctor.finding import Check, Finding, fault, found_or, ok, warning
from mediator.cli.doctor.installation import Failure, Installation, Part
from mediator.errors import DatabaseUnavailableError, DatabaseWriteError, WriterTimeoutError
from mediator.sqlalchemy import postgresql, sqlite
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.migrations import HISTORY, SchemaHistory, schema_version
from mediator.sqlalchemy.schema_check import table_differences, version_differences

_SHARE = 0.8
"""The share of the check's time limit that writing may take. The remaining time is for reporting why writing failed."""


async def answering(installation: Installation, engines: Sequence[tuple[str, Any, Any]]) -> list[Part[Any]]:
    """Return the engines that answer, and record the other engines as failures.

    `engines` has the label, the provider and the object of each engine.
    """
    errors = await asyncio.gather(*(_error(engine, installation.options.timeout) for _, _, engine in engines))
    parts: list[Part[Any]] = []
    for (label, provider, engine), error in zip(engines, errors, strict=True):
        if error is None:
            parts.append(Part(label, provider, engine))
        else:
            installation.failures.append(Failure(label, "database", error))
    return parts


async def _error(engine: AsyncEngine, seconds: float) -> Exception | None:
    try:
        async with asyncio.timeout(seconds), database_of(engine).reader.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except TimeoutError:
        return TimeoutError(f"no answer within {seconds:g} s")
    except Exception as error:  # any error: connecting also runs code of the application
        return error
    return None


class Writable(Check):
    """Checks whether each database can be written to, including the lock files of SQLite."""

    name = "database-writable"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for part in installation.databases:
            yield await _writable(part, _SHARE * installation.options.timeout)


async def _writable(part: Part[Any], seconds: float) -> Finding:
    database = database_of(part.value)
    try:
        async with asyncio.timeout(seconds):
            await _try_writing(database)
    except (TimeoutError, WriterTimeoutError):
        text = f"{database.name} could not be written to within {seconds:g} s"
        return fault("database-busy", part.label, text, "Find the process that holds the writer's lock.")
    except (DBAPIError, DatabaseWriteError) as error:
        reason = str(error.orig) if isinstance(error, DBAPIError) else error.reason
        remedy = "Connect to the server that writes (target_session_attrs=read-write), or make the file writable."
        return fault("database-read-only", part.label, f"{database.name}: {reason}", remedy)
    except DatabaseUnavailableError as error:
        if database.dialect == "postgresql":
            return fault(
                "database-unreachable", part.label, str(error), "Check whether the server has free connections."
            )
        remedy = "Let the user of the application create and open files beside the database."
        return fault("lock-file", part.label, str(error), remedy)
    return ok("database", part.label, f"{database.name} answers and can be written to")


async def _try_writing(database: Database) -> None:
    """Begin and end a writing transaction, including its locks. Nothing is written."""
    async with database.writing() as connection:
        if database.dialect == "postgresql":
            only = "SELECT current_setting('transaction_read_only') = 'on' OR pg_is_in_recovery()"
            if (await connection.execute(text(only))).scalar_one():
                raise DatabaseWriteError(database.name, "the server is read-only", read_only=True)


_CREATE = "Run `mediator schema create MODULE:NAME`."
_UPGRADE = "Run `mediator schema upgrade MODULE:NAME`. If the tables are newer than the library, upgrade the library."
_CORRECT = "Correct the tables. `mediator schema sql` shows the statements that create them."


class Tables(Check):
    """Checks the tables of each database, like `mediator schema check`."""

    name = "schema"

    def __init__(self, history: SchemaHistory = HISTORY) -> None:
        self._history = history

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for part in installation.databases:
            fine = ok("schema", part.label, "the tables are as they should be")
            for finding in found_or(await self._faults(part), fine):
                yield finding

    async def _faults(self, part: Part[Any]) -> list[Finding]:
        async with database_of(part.value).reader.connect() as connection:
            if await schema_version(connection) == 0:
                return [fault("schema-missing", part.label, "the tables of the library are missing", _CREATE)]
            different = await version_differences(connection, self._history)
            if different:  # tables of another version cannot be compared
                return [fault("schema-version", part.label, each, _UPGRADE) for each in different]
            differences = await table_differences(connection, self._history)
            return [fault("schema-differs", part.label, each, _CORRECT) for each in differences]


_OLDEST_SERVER = 120_000
_ENCODINGS = ("server_encoding", "client_encoding")
_LOST = "committed commands and their events can be lost in a crash"
_WEAK = {
    "fsync": f"the server does not wait for its disk: {_LOST}, and so can the whole database",
    "full_page_writes": "a page that a crash leaves half written cannot be restored: the database can be lost",
    "synchronous_commit": f"COMMIT does not wait for the disk: {_LOST}",
}


class PostgresqlSettings(Check):
    """Checks durability, isolation, encodings, and the timeout that ends the transactions of frozen processes."""

    name = "postgresql-settings"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for part in installation.databases:
            if database_of(part.value).dialect == "postgresql":
                settings = await _settings(part)
                fine = ok("postgresql-settings", part.label, f"PostgreSQL {settings['server_version']} is durable")
                for finding in found_or(_postgresql_faults(part.label, settings), fine):
                    yield finding


async def _settings(part: Part[Any]) -> dict[str, str]:
    names = [
        *_WEAK,
        *_ENCODINGS,
        "standard_conforming_strings",
        "idle_in_transaction_session_timeout",
        "server_version",
        "server_version_num",
    ]
    statement = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
    async with database_of(part.value).writer.connect() as connection:
        found = {row.name: row.setting for row in await connection.execute(statement, {"names": names})}
        isolation = await connection.execute(text("SELECT current_setting('transaction_isolation')"))
        return {**found, "isolation": isolation.scalar_one()}


def _postgresql_faults(label: str, settings: dict[str, str]) -> Iterator[Finding]:
    for name, consequence in _WEAK.items():
        if settings.get(name) == "off":
            yield fault(name.replace("_", "-"), label, f"{name} is off: {consequence}", f"Set {name} = on.")
    if problem := postgresql.encoding_problem(SimpleNamespace(**{name: settings[name] for name in _ENCODINGS})):
        yield fault("database-encoding", label, problem, f"{postgresql.ENCODING_REMEDY}.")
    if settings["standard_conforming_strings"] == "off":
        text = "a backslash in a string literal begins an escape sequence: the string is not stored as it was given"
        remedy = "Set standard_conforming_strings = on, which is the default."
        yield warning("standard-conforming-strings", label, text, remedy)
    if settings["isolation"] != "read committed":
        problem = f"transactions are {settings['isolation'].upper()} by default"
        remedy = (
            "Set default_transaction_isolation = 'read committed' on the server. Pass a higher level as isolation= to the "
            "behaviors that need it."
        )
        reason = "at a higher level, transactions can fail with serialization errors"
        text = f"{problem}: inbox and outbox rely on READ COMMITTED; {reason}"
        yield warning("isolation-level", label, text, remedy)
    if settings.get("idle_in_transaction_session_timeout") == "0":
        text = "nothing ends an idle transaction: a frozen process keeps its locks forever"
        remedy = "Set idle_in_transaction_session_timeout for the role, or open the engine with open_engine."
        yield warning("idle-timeout", label, text, remedy)
    if int(settings["server_version_num"]) < _OLDEST_SERVER:
        text = f"PostgreSQL {settings['server_version']} is older than 12"
        yield fault("postgresql-version", label, text, "Upgrade the server.")


_SYNCHRONOUS_FULL = 2


class SqliteSettings(Check):
    """Checks WAL, `synchronous=FULL`, UTF-8, and the lock file of the relay."""

    name = "sqlite-settings"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for part in installation.databases:
            database = database_of(part.value)
            if isinstance(database, sqlite.SqliteDatabase):
                found = [*await _sqlite_faults(part), *await _lock_faults(part.label, database)]
                for finding in found_or(found, ok("sqlite-settings", part.label, "WAL, synchronous=FULL")):
                    yield finding


async def _sqlite_faults(part: Part[Any]) -> list[Finding]:
    found: list[Finding] = []
    async with database_of(part.value).reader.connect() as connection:
        journal = (await connection.execute(text("PRAGMA journal_mode"))).scalar_one()
        synchronous = int((await connection.execute(text("PRAGMA synchronous"))).scalar_one())
        encoding = str((await connection.execute(text("PRAGMA encoding"))).scalar_one())
    if journal != "wal":
        problem = f"journal_mode is {journal}, not wal: readers and the writer wait for each other"
        remedy = "Keep the file on a local disk, which WAL needs, and do not set journal_mode."
        found.append(fault("sqlite-journal-mode", part.label, problem, remedy))
    if problem := sqlite.encoding_problem(encoding):
        found.append(fault("database-encoding", part.label, problem, f"{sqlite.ENCODING_REMEDY}."))
    if synchronous < _SYNCHRONOUS_FULL:
        problem = f"synchronous is {synchronous}, not 2 (FULL): commits can be lost when the power fails"
        found.append(fault("sqlite-synchronous", part.label, problem, "Do not set synchronous, or set it to FULL."))
    return found


async def _lock_faults(label: str, database: sqlite.SqliteDatabase) -> list[Finding]:
    try:
        async with database.relaying():  # this succeeds even while a running relay holds the lock
            return []
    except OSError as error:
        remedy = "Let the user of the application create and open files beside the database."
        return [fault("lock-file", label, f"the lock file of the relay cannot be used: {error}", remedy)]


_FOR_ONE_MORE = 1
"""One more connection, for a dispatch outside the workers, or for a dispatch in its own scope inside a handler."""


class Pools(Check):
    """Checks that each connection pool is large enough.

    Each event that is being handled holds a connection. On PostgreSQL, each relay that publishes holds a connection,
    too. On SQLite, all relays together count as one relay.
    """

    name = "pool"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for part in installation.databases:
            finding = _pool_finding(installation, part)
            if finding is not None:
                yield finding


def _pool_finding(installation: Installation, part: Part[Any]) -> Finding | None:
    pool = part.value.pool
    if not isinstance(pool, QueuePool) or pool._max_overflow < 0:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # it has no public name
        return None
    capacity = pool.size() + pool._max_overflow  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    consuming = sum(
        each.concurrency for each in installation.consumers if part.value in [inbox.engine for inbox in each.inboxes]
    )
    relaying = sum(engine is part.value for engine in installation.relays)
    relaying = relaying if database_of(part.value).dialect == "postgresql" else min(relaying, 1)
    needed = max(consuming + relaying, 1) + _FOR_ONE_MORE
    text = (
        f"{capacity} connections; {needed} are needed for {consuming} events at a time, {relaying} relays and "
        "one other dispatch"
    )
    if capacity >= needed:
        return ok("pool", part.label, text)
    remedy = f"Open the engine with pool_size={needed}, or handle fewer events at a time."
    return warning("pool-size", part.label, text, remedy)


class DatabaseClocks(Check):
    """Checks the clock of each database server; SQLite has no clock of its own."""

    name = "database-clocks"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        clock = installation.options.clock
        for part in installation.databases:
            if database_of(part.value).dialect == "postgresql":
                async with database_of(part.value).reader.connect() as connection:
                    await connection.execute(text("SELECT 1"))  # done first: connecting and BEGIN take time
                    before = clock()
                    asked = await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))
                    now = float(asked.scalar_one())
                    yield compared(part.label, "the database", now - (before + clock()) / 2)


DATABASE_CHECKS: Sequence[Check] = (
    Writable(),
    Tables(),
    PostgresqlSettings(),
    SqliteSettings(),
    Pools(),
    DatabaseClocks(),
    Backlog(),
    Parked(),
)
"""The checks of databases, which are reported after the wiring and before the brokers."""
