"""PostgresqlDatabase: a PostgreSQL database through asyncpg. Tracebacks do not show the connection arguments."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Table, event, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from mediator.distributed.unit_of_work import lack_of_unit_of_work
from mediator.errors import DatabaseConnectionError, DatabaseUnavailableError, DatabaseWriteError, misuse
from mediator.owner import detached, running_loop
from mediator.scope import current_frame
from mediator.secret import hiding, secretly
from mediator.sqlalchemy.database import Database, mode_of, redacted, weakly

_CREATOR = "async_creator_fn"
_READ_BY_SQLALCHEMY = frozenset({"prepared_statement_cache_size", "prepared_statement_name_func"})
"""Arguments that SQLAlchemy's asyncpg dialect reads itself, and does not pass to `async_creator_fn`."""
_PLACES = ("host", "port", "user", "database")
"""Arguments whose values may be shown in error texts."""

Connect = Callable[..., Coroutine[Any, Any, Any]]


class Connecting:
    """A callable that opens connections. Its `repr()` hides the arguments, since every argument may contain a password.

    `connect` is the function that opens a connection. While `connect` is `None`, the object cannot be called.
    """

    def __init__(self, arguments: dict[str, Any], connect: Connect | None = None) -> None:
        self._arguments = arguments
        self._connect = connect

    async def __call__(self, *arguments: Any) -> Any:
        """Open a connection without the caller's context: asyncio would keep that context until the connection closes."""
        return await detached(self._open(*arguments), discard=lambda connection: connection.terminate())

    async def _open(self, *arguments: Any) -> Any:
        connect: Any = self._connect
        with secretly():
            return await connect(*arguments, **self._arguments)

    def hide(self, text: str) -> str:
        """Return an error text of the driver without the values of options.

        If a password contains an unencoded `?`, SQLAlchemy may read the rest of the password as options. The value of an
        option then contains the @ that stands before the host. In this case, the names of all options may be parts of
        the password, and are removed too.
        """
        places = {str(self._arguments.get(name)) for name in _PLACES}
        options = {name: value for name, value in self._arguments.items() if name not in _PLACES}
        values = [value for value in options.values() if isinstance(value, str) and value not in places]
        is_password_split = any("@" in value for value in values if value != options.get("password"))
        return hiding([*values, *(options if is_password_split else ())])(text)

    def through(self, connect: Connect) -> "Connecting":
        """Return a copy that opens connections with `connect`, unless this object already has a function."""
        return Connecting(self._arguments, self._connect or connect)


def hidden(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return connection arguments in which a `Connecting` replaces all arguments that may contain a secret.

    SQLAlchemy keeps the arguments in local variables while it connects, and a traceback may show local variables.
    """
    kept = {name: arguments[name] for name in arguments if name in _READ_BY_SQLALCHEMY}
    rest = {name: arguments[name] for name in arguments if name not in kept and name != _CREATOR}
    creator = arguments.get(_CREATOR)
    return {**kept, _CREATOR: creator if isinstance(creator, Connecting) else Connecting(rest, creator)}


LOCK_NOT_AVAILABLE = "55P03"
_UNDEFINED_TABLE = "42P01"
_READ_ONLY = "25006"
_SERVER_FAULTS = ("530", "531", "532", "533", "580", "XX001", "XX002")
"""The first characters of error codes for a fault of the server: its disk, memory, connections or files."""
_SHUTDOWN = ("57P01", "57P02", "57P03")
_SCHEMA_LOCK = 0x6D656469_61746F72  # "mediator"
_LEFT = "mediator_left"
"""Under this key, the `info` of a pooled connection holds the time at which the connection was returned."""
_LOOP = "mediator_loop"
"""Under this key, the `info` of a connection holds the event loop that opened the connection."""
_FRESH = "mediator_fresh"
"""A key in the `info` of a connection. The key is set from the start of a transaction until its first statement.

asyncpg sends BEGIN together with the first statement. Before this statement, asyncpg reports that no transaction runs.
"""
_IDLE_SECONDS = 30.0
"""Seconds of idleness after which a connection is probed before it is used again."""
_PROBE_SECONDS = 5.0


class PostgresqlDatabase(Database):
    """A PostgreSQL database, to which any number of transactions can write concurrently.

    The pool replaces a connection that the server has closed. If a connection was idle for half a minute, the pool
    probes the connection before the next use. When the server shuts down or has become read-only, the pool replaces all
    connections.

    A transaction inside another transaction waits at most `lock_timeout` seconds for a lock.
    """

    dialect: str = "postgresql"
    isolations: frozenset[str] = frozenset({"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"})
    snapshot: str | None = "REPEATABLE READ"

    def __init__(self, engine: AsyncEngine, *, lock_timeout: float) -> None:
        self._lock_timeout = lock_timeout
        super().__init__(engine, redacted(engine.url))
        event.listen(engine.sync_engine, "do_connect", weakly(self._connect))
        event.listen(engine.sync_engine, "commit", self._check_commit)
        event.listen(engine.sync_engine, "before_cursor_execute", _refuse_ended_transaction)
        event.listen(engine.sync_engine, "connect", _note_loop)
        event.listen(engine.sync_engine, "checkout", _check)
        event.listen(engine.sync_engine, "checkin", _leave)
        event.listen(engine.sync_engine, "close", _hang_up)

    async def probe(self) -> None:
        """Open a connection, and return it to the pool.

        Raises:
            DatabaseUnavailableError: The server cannot be reached, refuses the connection, or does not store texts as
                UTF-8.
        """
        async with self.engine.connect() as connection:
            driver_connection: Any = (await connection.get_raw_connection()).driver_connection
            problem = encoding_problem(driver_connection.get_settings())
        if problem:
            raise DatabaseUnavailableError(self.name, f"{problem}. {ENCODING_REMEDY}")

    def reading_options(self) -> dict[str, Any]:
        """Return an option that makes the server refuse writes."""
        return {"postgresql_readonly": True}

    def isolation_options(self, isolation: str) -> dict[str, Any]:
        return {"isolation_level": isolation}

    async def take_turn(self, holder: object) -> None:
        """Return at once, since there is no writer lock."""

    def end_turn(self) -> None:
        """Do nothing, since there is no writer lock."""

    def patience(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Return a timeout. After the timeout, the connection is closed, so that the pool can open a new connection."""
        return asyncio.timeout(seconds)

    def insert(self, table: Table) -> Any:
        return insert(table)

    def is_missing_table(self, error: BaseException) -> bool:
        return sqlstate_of(error) == _UNDEFINED_TABLE

    def begun(self, connection: Connection) -> None:
        """Limit how long an inner transaction waits for locks, since an enclosing transaction may hold these locks."""
        connection.info[_FRESH] = True
        if _is_inner(mode_of(connection)):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(self._lock_timeout * 1000)}")

    def translated(self, context: ExceptionContext, mode: str | None) -> BaseException | None:
        """Return this library's error for an error of the server or of the connection; `None` for other errors.

        An error of COMMIT or ROLLBACK is translated only when the server reports a fault of its own, such as a full
        disk. The server then rolls the transaction back. After other errors, the outcome of COMMIT is unknown.
        """
        error = context.original_exception
        if context.connection is None:
            return DatabaseUnavailableError(self.name, str(error))
        if (sqlstate_of(error) or "").startswith(_SERVER_FAULTS):  # the outcome is known, even of a COMMIT
            return DatabaseWriteError(self.name, str(error))
        if context.statement is None:
            return None
        return self._translated_statement(context, mode, sqlstate_of(error))

    def _translated_statement(
        self, context: ExceptionContext, mode: str | None, sqlstate: str | None
    ) -> BaseException | None:
        error = context.original_exception
        if sqlstate == _READ_ONLY and mode == "read":
            return lack_of_unit_of_work("Writing to the database")
        if sqlstate == _READ_ONLY and mode == "write":
            context.is_disconnect = True  # after a failover, a new connection may reach the new primary server
            return DatabaseWriteError(self.name, "the server is read-only", read_only=True)
        if sqlstate == LOCK_NOT_AVAILABLE and "NOWAIT" not in (context.statement or "").upper() and _is_inner(mode):
            return misuse.nested_lock(self.name, self._lock_timeout)
        if isinstance(error, TimeoutError):
            context.is_disconnect = True
            return DatabaseConnectionError(self.name, "a statement was not answered in time")
        if context.is_disconnect and isinstance(error, Exception):
            context.invalidate_pool_on_disconnect = sqlstate in _SHUTDOWN
            return DatabaseConnectionError(self.name, str(error))
        return None

    async def lock_schema(self, connection: AsyncConnection) -> None:
        await connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))

    def _check_commit(self, connection: Connection) -> None:
        """Raise an error instead of sending COMMIT when the connection is closed or the transaction has ended.

        When COMMIT is not sent, nothing is committed. When COMMIT is sent and fails, the outcome is unknown.
        """
        driver_connection: Any = connection.connection.driver_connection
        if mode_of(connection) == "write" and driver_connection.is_closed():
            raise DatabaseConnectionError(self.name, "closed before the commit")
        _check_running(connection)

    def _connect(
        self, dialect: Dialect, _entry: ConnectionPoolEntry, arguments: list[Any], options: dict[str, Any]
    ) -> DBAPIConnection:
        driver: Any = dialect.dbapi
        safe = hidden(options)
        connecting: Connecting = safe[_CREATOR].through(driver.asyncpg.connect)
        options.clear()  # in place, since local variables of SQLAlchemy refer to this dictionary
        options.update({**safe, _CREATOR: connecting})
        try:
            return dialect.connect(*arguments, **options)
        except Exception as error:  # from the network or the driver, for example a TypeError for an unknown option
            reason = connecting.hide(str(error))
            if reason == str(error):
                raise DatabaseUnavailableError(self.name, reason or "no answer in time") from error
        raise DatabaseUnavailableError(self.name, reason)  # a cause would show the hidden values


ENCODING_REMEDY = (
    "Create the database with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and connect with "
    "client_encoding = 'UTF8'"
)


def encoding_problem(settings: Any) -> str:
    """Return why the encoding of the server or of the connection would change texts; empty if both are UTF-8."""
    found = {"the database": settings.server_encoding, "the connection": settings.client_encoding}
    utf8 = ("UTF8", "UNICODE")
    wrong = [
        f"{what} has the encoding {name}" for what, name in found.items() if name.upper().replace("-", "") not in utf8
    ]
    return f"{' and '.join(wrong)}, in which some texts cannot be stored or are changed" if wrong else ""


def connect_arguments(
    url: URL, given: dict[str, Any], *, idle_timeout: float, statement_timeout: float, connect_timeout: float
) -> tuple[URL, dict[str, Any]]:
    """Return the URL without options that asyncpg does not know, and the connection arguments for asyncpg.

    The arguments in `given` override the defaults of this library; in `server_settings`, a `None` removes a default.
    """
    settings = {
        "application_name": url.query.get("application_name", "mediator"),
        "idle_in_transaction_session_timeout": str(round(idle_timeout * 1000)),
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        **given.get("server_settings", {}),
    }
    arguments = {"timeout": connect_timeout, "command_timeout": statement_timeout, **given}
    arguments["server_settings"] = {name: value for name, value in settings.items() if value is not None}
    if "sslmode" in url.query:
        arguments.setdefault("ssl", url.query["sslmode"])
    return url.difference_update_query(["sslmode", "application_name"]), arguments


def _refuse_ended_transaction(
    connection: Connection, _cursor: object, _statement: str, _parameters: object, _context: object, _many: bool
) -> None:
    if not connection.info.pop(_FRESH, False):
        _check_running(connection)


def _check_running(connection: Connection) -> None:
    """Raise a `NoUnitOfWorkError` if a handler has ended the transaction with the statement COMMIT or ROLLBACK.

    Without this error, PostgreSQL would commit each further statement at once.
    """
    driver_connection: Any = connection.connection.driver_connection
    is_over = not (driver_connection.is_in_transaction() or driver_connection.is_closed())
    if mode_of(connection) == "write" and is_over and _FRESH not in connection.info:
        raise misuse.no_unit_of_work("A statement of a transaction that has ended")


def _note_loop(_connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    entry.info[_LOOP] = running_loop()


def _check(_connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: object) -> None:
    """Raise a `DisconnectionError` for a lost connection, so that the pool replaces the connection."""
    driver_connection: Any = entry.driver_connection
    if driver_connection.is_closed():
        raise DisconnectionError("closed by the server")
    if entry.info.get(_LOOP) is not running_loop():
        raise DisconnectionError("opened in an event loop that no longer runs")
    left = entry.info.pop(_LEFT, None)
    if left is not None and time.monotonic() - left > _IDLE_SECONDS:
        try:
            await_only(driver_connection.fetchrow(";", timeout=_PROBE_SECONDS))
        except Exception as error:
            raise DisconnectionError("lost while it was idle") from error


def _leave(connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
    """Invalidate a returned connection that still executes a statement or is still in a transaction.

    asyncpg refuses COMMIT and ROLLBACK while a statement runs, for example in a task that a handler has not awaited.
    SQLAlchemy nevertheless assumes that the transaction has ended, and returns the connection to the pool.
    """
    if connection is None:
        return
    driver_connection: Any = entry.driver_connection
    statement: asyncio.Lock | None = getattr(connection, "_execute_mutex", None)
    if driver_connection.is_in_transaction() or (statement is not None and statement.locked()):
        entry.invalidate()
    else:
        entry.info[_LEFT] = time.monotonic()


def _hang_up(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """If no transaction runs on a connection, close the connection without waiting for the server, which may be frozen.

    A connection with a running transaction is left to SQLAlchemy, which cancels its statement and waits at most 2 seconds.
    """
    driver_connection: Any = getattr(connection, "driver_connection", None)
    if not driver_connection.is_in_transaction():
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and so is the socket
            driver_connection.terminate()


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the code of a server error, or `None` (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
    return getattr(error, "sqlstate", None)


def _is_inner(mode: str | None) -> bool:
    """Return whether an outer transaction waits for the end of a connection's transaction.

    The outer transaction belongs to an enclosing dispatch. If a handler has opened the connection itself (`mode=None`),
    the outer transaction may also belong to the dispatch of this handler.
    """
    frame = current_frame()
    own = frame.scope if frame is not None and mode is not None else None
    while frame is not None:
        if frame.scope is not own and frame.scope.transaction is not None:
            return True
        frame = frame.parent
    return False
