"""Engine: an SQLAlchemy engine set up for units of work, on SQLite or PostgreSQL."""

import asyncio
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mediator.distributed.shield import wait_for_late_work
from mediator.errors import DatabaseUnavailableError, MissingExtraError
from mediator.sqlalchemy.database import Database, redacted
from mediator.sqlalchemy.guard import GuardedConnection
from mediator.sqlalchemy.pool import ConnectionPool
from mediator.sqlalchemy.postgresql import PostgresqlDatabase, connect_arguments
from mediator.sqlalchemy.sqlite import SqliteDatabase, file_of, probe

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}
_databases: weakref.WeakKeyDictionary[Engine, weakref.ref[Database]] = weakref.WeakKeyDictionary()
"""Weak on both sides, since a database holds its engine. The engine holds the database, which listens to its events."""


def database_of(
    engine: AsyncEngine, *, writer_timeout: float | None = None, lock_timeout: float | None = None
) -> Database:
    """The database of an engine; the first call sets the engine up.

    Raises:
        DatabaseUnavailableError: It is neither an SQLite file nor PostgreSQL through asyncpg.
    """
    reference = _databases.get(engine.sync_engine)
    known = None if reference is None else reference()
    if known is None:
        _check_supported(engine.url)
        if engine.url.get_backend_name() == "postgresql":
            known = PostgresqlDatabase(engine, lock_timeout=5.0 if lock_timeout is None else lock_timeout)
        else:
            known = SqliteDatabase(engine, writer_timeout=30.0 if writer_timeout is None else writer_timeout)
        _databases[engine.sync_engine] = weakref.ref(known)
    return known


@asynccontextmanager
async def open_engine(
    url: str,
    *,
    writer_timeout: float = 30.0,
    lock_timeout: float = 5.0,
    idle_timeout: float = 60.0,
    statement_timeout: float = 60.0,
    connect_timeout: float = 10.0,
    **options: Any,
) -> AsyncGenerator[AsyncEngine, None]:
    """Open a database for units of work, and close it in the end: `providers.Resource(open_engine, url)`.

    SQLite runs in WAL mode with `synchronous=FULL`, so that a commit survives a loss of power. PostgreSQL is asked once
    whether it can be reached.

    Args:
        url: `sqlite:///file` (relative), `sqlite:////file` (absolute), or `postgresql://user:password@host/database`.
        writer_timeout: SQLite: how long a writer waits for others, in seconds.
        lock_timeout: PostgreSQL: how long a transaction inside another one waits for a lock, in seconds.
        idle_timeout: PostgreSQL: how long a transaction may lie idle between two statements before the server ends it,
            so that a frozen process does not keep its locks for ever; in seconds.
        statement_timeout: PostgreSQL: how long a statement waits for its answer, in seconds.
        connect_timeout: PostgreSQL: how long connecting may take, in seconds.
        options: For SQLAlchemy's `create_async_engine`. `hide_parameters` is on unless given, so that errors, and with
            them logs, show statements without the values in them. `connect_args` are added to ours; a `None` among its
            `server_settings` takes one of ours away.

    Raises:
        DatabaseUnavailableError: It cannot be opened: its folder is missing, it is no database, it is not permitted,
            the server does not answer, the URL or an option in it cannot be read. It names the hosts, and no password.
    """
    parsed = _parse(url)
    settings: dict[str, Any] = {"hide_parameters": True, **_pool_options(options), **options}
    if parsed.get_backend_name() == "sqlite":
        await asyncio.to_thread(probe, file_of(parsed))
        settings["connect_args"] = {"factory": GuardedConnection, **options.get("connect_args", {})}
    else:
        parsed, settings["connect_args"] = connect_arguments(
            parsed,
            options.get("connect_args", {}),
            idle_timeout=idle_timeout,
            statement_timeout=statement_timeout,
            connect_timeout=connect_timeout,
        )
    engine = _create(parsed, settings)
    try:
        database = database_of(engine, writer_timeout=writer_timeout, lock_timeout=lock_timeout)
        if isinstance(database, PostgresqlDatabase):
            await database.probe()
        yield engine
    finally:
        await wait_for_late_work(5.0)
        await engine.dispose()
        await asyncio.sleep(0)  # connections that were hung up are closed in the next step of the event loop


def _create(url: URL, settings: dict[str, Any]) -> AsyncEngine:
    try:
        return create_async_engine(url, **settings)
    except ModuleNotFoundError as error:
        extra = "sqlalchemy" if url.get_backend_name() == "sqlite" else "postgres"
        missing = MissingExtraError(error.name or str(error), extra)
        raise DatabaseUnavailableError(redacted(url), str(missing)) from error
    except (ArgumentError, ValueError):
        _check_options(url)
        raise


def _check_options(url: URL) -> None:
    """Tell the options of a URL that cannot be read from what is wrong otherwise; their texts may show a password."""
    try:
        url.get_dialect()().create_connect_args(url)
    except ArgumentError:
        reason = 'its hosts and ports do not fit together: write them as "host=a:1&host=b:2" or as "host=a,b&port=1,2"'
        raise DatabaseUnavailableError(redacted(url), reason) from None
    except ValueError:
        reason = "an option in it has a value that cannot be read, such as a text in place of a number"
        raise DatabaseUnavailableError(redacted(url), reason) from None


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseUnavailableError(
            "at the given URL", "it is not a database URL such as sqlite:///app.db"
        ) from error
    except ValueError:  # a port that is no number; its text may show the password
        raise DatabaseUnavailableError(
            "at the given URL",
            "its port is no number: write it as postgresql://user:password@host:5432/database, "
            "with everything but letters and digits percent-encoded",
        ) from None
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    _check_supported(parsed)
    return parsed


def _check_supported(url: URL) -> None:
    if url.drivername not in _DRIVERS.values():
        reason = (
            "only SQLite files and PostgreSQL through asyncpg are supported: use sqlite:///app.db or postgresql://..."
        )
        raise DatabaseUnavailableError(redacted(url), reason)


def _pool_options(options: dict[str, Any]) -> dict[str, Any]:
    return {} if "poolclass" in options else {"poolclass": ConnectionPool, "pool_timeout": 10.0, "pool_recycle": 1800}
