"""Engine: an SQLAlchemy engine set up for units of work, on SQLite or PostgreSQL."""

import asyncio
import weakref
from collections.abc import AsyncGenerator
from typing import Any

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from mediator.blocks import asynccontextmanager
from mediator.distributed.shield import wait_for_late_work
from mediator.errors import DatabaseUnavailableError, MissingExtraError, PoolExhaustedError, misuse
from mediator.owner import Owner
from mediator.scope import Scope, current_frame
from mediator.secret import Secret, secretly
from mediator.settings import check_not_negative, check_positive
from mediator.sqlalchemy.database import Database, redacted, shown
from mediator.sqlalchemy.postgresql import PostgresqlDatabase, connect_arguments, hidden
from mediator.sqlalchemy.sqlite import GuardedConnection, SqliteDatabase, file_of, probe


class ConnectionPool(AsyncAdaptedQueuePool):
    """A connection pool that raises an error when waiting for a connection takes too long or would end in a deadlock.

    A dispatch keeps its connection while an inner dispatch runs in another scope (`TransactionMode.NEW` or `SUPPRESS`).
    If nested dispatches hold all connections, a further inner dispatch would wait forever. The outer dispatches return
    their connections only after the inner dispatch has ended.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._owner = Owner("The pool of database connections")
        self._held: weakref.WeakKeyDictionary[PoolProxiedConnection, Scope] = weakref.WeakKeyDictionary()

    def connect(self) -> PoolProxiedConnection:
        """Return a connection.

        Raises:
            MisuseError: The dispatches that enclose the current dispatch hold all connections, or the pool belongs to
                another event loop or process.
            PoolExhaustedError: No connection was returned to the pool in time.
        """
        self._owner.check(busy=self.checkedout() > 0)
        frame = current_frame()
        is_exhausted = self._max_overflow >= 0 and self.checkedout() >= self._capacity()
        if is_exhausted and self._holders_around() >= self._capacity():
            raise misuse.pool_too_small(self, self._capacity())
        try:
            connection = super().connect()
        except PoolTimeoutError as error:
            raise PoolExhaustedError(self._capacity(), self.timeout()) from error
        if frame is not None:
            self._held[connection] = frame.scope
        return connection

    def _capacity(self) -> int:
        return self.size() + self._max_overflow

    def _holders_around(self) -> int:
        """Return how many connections are held by scopes that enclose the current scope."""
        frame = current_frame()
        around: set[Scope] = set()
        while frame is not None and frame.parent is not None:
            if frame.parent.scope is not frame.scope:
                around.add(frame.parent.scope)
            frame = frame.parent
        return sum(1 for connection, scope in self._held.items() if connection.is_valid and scope in around)


_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_WRITER_TIMEOUT, _LOCK_TIMEOUT = 30.0, 5.0
_LONGEST = (2**31 - 1) / 1000
"""The longest timeout in seconds: PostgreSQL counts milliseconds in 31 bits."""
_POOL = {"pool_size": 10, "max_overflow": 10, "pool_timeout": 10.0, "pool_recycle": 1800}
"""The defaults of the pool, which suffice for one consumer with `ordering="key"`, a relay and some concurrent commands.

`mediator doctor` compares the size of the pool with the number of connections that an application needs.
"""
_databases: weakref.WeakKeyDictionary[Engine, weakref.ref[Database]] = weakref.WeakKeyDictionary()
"""The database of each engine.

The engine's listeners keep the database in memory. A strong reference here would keep the engine in memory forever.
"""


def database_of(
    engine: AsyncEngine, *, writer_timeout: float = _WRITER_TIMEOUT, lock_timeout: float = _LOCK_TIMEOUT
) -> Database:
    """Return the database of an engine; the first call sets up the engine.

    A `DatabaseUnavailableError` is raised unless the engine is for an SQLite file, or for PostgreSQL through asyncpg.
    """
    reference = _databases.get(engine.sync_engine)
    known = None if reference is None else reference()
    if known is None:
        _check_supported(engine.url)
        if engine.url.get_backend_name() == "postgresql":
            known = PostgresqlDatabase(engine, lock_timeout=lock_timeout)
        else:
            known = SqliteDatabase(engine, writer_timeout=writer_timeout)
        _databases[engine.sync_engine] = weakref.ref(known)
    return known


@asynccontextmanager
async def open_engine(
    url: str,
    *,
    writer_timeout: float = _WRITER_TIMEOUT,
    lock_timeout: float = _LOCK_TIMEOUT,
    idle_timeout: float = 60.0,
    statement_timeout: float = 60.0,
    connect_timeout: float = 10.0,
    check_at_start: bool = True,
    **options: Any,
) -> AsyncGenerator[AsyncEngine, None]:
    """Open an engine for units of work, and dispose of it at the end.

    Declare it as `providers.Resource(open_engine, url)`. SQLite runs in WAL mode with `synchronous=FULL`, so that a
    commit survives a loss of power. For PostgreSQL, one connection is opened at the start, to check that the server can
    be reached.

    Args:
        url: `sqlite:///file` (relative), `sqlite:////file` (absolute), or `postgresql://user:password@host/database`.
        writer_timeout: SQLite: how long a writer waits for other writers, in seconds.
        lock_timeout: PostgreSQL: how long a transaction inside another transaction waits for a lock, in seconds.
        idle_timeout: PostgreSQL: how long a transaction may be idle between two statements, in seconds. After this
            time, the server ends the transaction, so that a frozen process does not keep its locks forever.
        statement_timeout: PostgreSQL: how long a statement waits for its answer, in seconds.
        connect_timeout: PostgreSQL: how long connecting may take, in seconds.
        check_at_start: PostgreSQL: whether to connect at once and raise an error when the server cannot be reached.
            With `False`, a process can start while the server is unreachable, and the workers of the process wait for
            the server.
        options: Options of SQLAlchemy's `create_async_engine`. By default, `pool_size` is 10 and `max_overflow` is 10.
            `hide_parameters` is true by default, so that errors and logs show statements without their values.
            `connect_args` are added to the connection arguments of this library, and take precedence. The value `None`
            in `connect_args["server_settings"]` removes a setting of this library. If `password` is a function, the
            function is called for each connection.

    The URL of the engine has no password, and tracebacks with local variables do not show the password. For a
    PostgreSQL engine that was created without this function, tracebacks through SQLAlchemy can show the password.

    Raises:
        SettingError: A timeout is not a usable number of seconds.
        DatabaseUnavailableError: The database cannot be opened: its folder is missing, the file is not a database,
            access is not permitted, the server does not answer, the URL or one of its options cannot be read, or texts
            are not stored as UTF-8. The error shows the hosts, but no password.
    """
    given = Secret((url, options.pop("connect_args", {})))
    del url  # a traceback that shows local variables would show the password in the URL
    check_not_negative(writer_timeout=writer_timeout)
    timeouts = {
        "idle_timeout": idle_timeout,
        "statement_timeout": statement_timeout,
        "connect_timeout": connect_timeout,
    }
    check_positive(at_most=_LONGEST, lock_timeout=lock_timeout, **timeouts)
    pool = {} if "poolclass" in options else {"poolclass": ConnectionPool, **_POOL}
    settings = {"hide_parameters": True, **pool, **options}
    with secretly():
        engine = await _engine(given, settings, timeouts)
    try:
        database = database_of(engine, writer_timeout=writer_timeout, lock_timeout=lock_timeout)
        if check_at_start and isinstance(database, PostgresqlDatabase):
            await database.probe()
        yield engine
    finally:
        await wait_for_late_work(5.0)
        await engine.dispose()
        await asyncio.sleep(0)  # terminated connections are closed in the next iteration of the event loop


async def _engine(
    given: Secret[tuple[str, dict[str, Any]]], settings: dict[str, Any], timeouts: dict[str, float]
) -> AsyncEngine:
    text, arguments = given.reveal()
    url = _parse(text)
    if url.get_backend_name() == "sqlite":
        await asyncio.to_thread(probe, file_of(url))
        _arguments(url)
        return _create(url, {"connect_args": {"factory": GuardedConnection, **arguments}, **settings})
    url, arguments = connect_arguments(url, arguments, **timeouts)
    return _create(shown(url), {"connect_args": hidden(_arguments(url) | arguments), **settings})


def _create(url: URL, settings: dict[str, Any]) -> AsyncEngine:
    try:
        return create_async_engine(url, **settings)
    except ModuleNotFoundError as error:
        extra = "sqlalchemy" if url.get_backend_name() == "sqlite" else "postgres"
        missing = MissingExtraError(error.name or str(error), extra)
        raise DatabaseUnavailableError(redacted(url), str(missing)) from error


def _arguments(url: URL) -> dict[str, Any]:
    """Convert a URL to arguments for the driver.

    Errors of SQLAlchemy are replaced and not kept as causes, since their texts may show a password.
    """
    try:
        _, arguments = url.get_dialect()().create_connect_args(url)
    except ArgumentError:
        reason = 'its hosts and ports do not fit together: write them as "host=a:1&host=b:2" or as "host=a,b&port=1,2"'
    except ValueError:
        reason = "one of its options has a value that cannot be parsed, such as a text in place of a number"
    else:
        return {**arguments}
    raise DatabaseUnavailableError(redacted(url), reason)


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        reason = "it is not a database URL such as sqlite:///app.db"
    except ValueError:
        reason = (
            "its port is no number: write the URL as postgresql://user:password@host:5432/database, "
            "and percent-encode every character of the password that is not a letter or a digit"
        )
    else:
        if any("@" in option and "=" not in option for option in text.partition("?")[2].split("&")):
            # in `user:a@b?c@host`, SQLAlchemy takes `b` for the host, and drops `c@host` as an option without a value
            reason = "its password has a ?, / or @: percent-encode everything but letters and digits"
            raise DatabaseUnavailableError("at the given URL", reason)
        url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
        _check_supported(url)
        return url
    raise DatabaseUnavailableError("at the given URL", reason)


def _check_supported(url: URL) -> None:
    if url.drivername not in _DRIVERS.values():
        reason = (
            "only SQLite files and PostgreSQL through asyncpg are supported: use sqlite:///app.db or postgresql://..."
        )
        raise DatabaseUnavailableError(redacted(url), reason)
