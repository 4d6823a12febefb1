"""PostgresqlDatabase: a PostgreSQL database through asyncpg."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Table, event, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from mediator.distributed.reading import lack_of_unit_of_work
from mediator.errors import (
    DatabaseConnectionError,
    DatabaseUnavailableError,
    NestedLockError,
    NoUnitOfWorkError,
    ReadOnlyDatabaseError,
)
from mediator.scope import current_frame
from mediator.sqlalchemy.database import Database, mode_of, redacted, weakly

LOCK_NOT_AVAILABLE = "55P03"
_UNDEFINED_TABLE = "42P01"
_READ_ONLY = "25006"
_SHUTDOWN = ("57P01", "57P02", "57P03")
_SCHEMA_LOCK = 0x6D656469_61746F72  # "mediator"
_LEFT = "mediator_left"
"""Under which name a pooled connection has the time when it was given back."""
_FRESH = "mediator_fresh"
"""Under which name a connection says that its transaction has had no statement: asyncpg's BEGIN comes with the first."""
_IDLE_SECONDS = 30.0
_PROBE_SECONDS = 5.0


class PostgresqlDatabase(Database):
    """A PostgreSQL database; writers need no turn.

    A connection that the server has closed is replaced before it is given out, one that was idle for half a minute is
    asked first. A server that shuts down, or that has become read-only, makes the pool connect anew.

    Args:
        engine: As the application has it.
        lock_timeout: How long an inner transaction waits for a lock, in seconds.
    """

    dialect: str = "postgresql"
    isolations: frozenset[str] = frozenset({"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"})
    snapshot: str | None = "REPEATABLE READ"

    def __init__(self, engine: AsyncEngine, *, lock_timeout: float = 5.0) -> None:
        self._lock_timeout = lock_timeout
        super().__init__(engine, redacted(engine.url))
        event.listen(engine.sync_engine, "do_connect", weakly(self._connect))
        event.listen(engine.sync_engine, "commit", self._check_commit)
        event.listen(engine.sync_engine, "before_cursor_execute", _refuse_ended_transaction)
        event.listen(engine.sync_engine, "checkout", _check)
        event.listen(engine.sync_engine, "checkin", _leave)
        event.listen(engine.sync_engine, "close", _hang_up)

    async def probe(self) -> None:
        """Connect once, and keep the connection in the pool.

        Raises:
            DatabaseUnavailableError: The server cannot be reached, or refuses.
        """
        async with self.engine.connect():
            pass

    def reading_options(self) -> dict[str, Any]:
        """The server refuses to write."""
        return {"postgresql_readonly": True}

    def isolation_options(self, isolation: str) -> dict[str, Any]:
        """See `Database.isolation_options`."""
        return {"isolation_level": isolation}

    async def take_turn(self, holder: object) -> None:
        """Any number may write."""

    def end_turn(self) -> None:
        """Any number may write."""

    def patience(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """After that the connection is closed: it would be missing in the pool for as long as the server is silent."""
        return asyncio.timeout(seconds)

    def insert(self, table: Table) -> Any:
        """See `Database.insert`."""
        return insert(table)

    def is_missing_table(self, error: BaseException) -> bool:
        """See `Database.is_missing_table`."""
        return sqlstate_of(error) == _UNDEFINED_TABLE

    def begun(self, connection: Connection) -> None:
        """An inner transaction does not wait for ever for a lock that an enclosing one may hold."""
        connection.info[_FRESH] = True
        if _is_inner(mode_of(connection)):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(self._lock_timeout * 1000)}")

    def translated(self, context: ExceptionContext, mode: str | None) -> BaseException | None:
        """Name what went wrong between the server and us, but never for COMMIT and ROLLBACK, whose outcome counts."""
        error = context.original_exception
        if context.connection is None:
            return DatabaseUnavailableError(self.name, str(error))
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
            context.is_disconnect = True  # the next connection may lead to the server that has taken over
            return ReadOnlyDatabaseError(self.name)
        if sqlstate == LOCK_NOT_AVAILABLE and "NOWAIT" not in (context.statement or "").upper() and _is_inner(mode):
            return NestedLockError(self.name, self._lock_timeout)
        if isinstance(error, TimeoutError):
            context.is_disconnect = True
            return DatabaseConnectionError(self.name, "a statement was not answered in time")
        if context.is_disconnect and isinstance(error, Exception):
            context.invalidate_pool_on_disconnect = sqlstate in _SHUTDOWN
            return DatabaseConnectionError(self.name, str(error))
        return None

    async def lock_schema(self, connection: AsyncConnection) -> None:
        """See `Database.lock_schema`."""
        await connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))

    def _check_commit(self, connection: Connection) -> None:
        """Tell a transaction that is known to be lost from one whose COMMIT has no answer."""
        driver_connection: Any = connection.connection.driver_connection
        if mode_of(connection) == "write" and driver_connection.is_closed():
            raise DatabaseConnectionError(self.name, "closed before the commit")
        _check_running(connection)

    def _connect(
        self, dialect: Dialect, _entry: ConnectionPoolEntry, arguments: list[Any], options: dict[str, Any]
    ) -> DBAPIConnection:
        try:
            return dialect.connect(*arguments, **options)
        except Exception as error:  # the network's, the driver's, or what it says of an option that it does not know
            raise DatabaseUnavailableError(self.name, str(error) or "no answer in time") from error


def connect_arguments(
    url: URL, given: dict[str, Any], *, idle_timeout: float, statement_timeout: float, connect_timeout: float
) -> tuple[URL, dict[str, Any]]:
    """The URL, without what asyncpg does not know, and its arguments; what is given goes before what is ours."""
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
    """Keep a writer from going on after a COMMIT or ROLLBACK of its own: each statement would be committed at once."""
    driver_connection: Any = connection.connection.driver_connection
    is_over = not (driver_connection.is_in_transaction() or driver_connection.is_closed())
    if mode_of(connection) == "write" and is_over and _FRESH not in connection.info:
        raise NoUnitOfWorkError("A statement of a transaction that has ended")


def _check(_connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: object) -> None:
    """Replace a connection that is lost before somebody's statement fails on it."""
    driver_connection: Any = entry.driver_connection
    if driver_connection.is_closed():
        raise DisconnectionError("closed by the server")
    left = entry.info.pop(_LEFT, None)
    if left is not None and time.monotonic() - left > _IDLE_SECONDS:
        try:
            await_only(driver_connection.fetchrow(";", timeout=_PROBE_SECONDS))
        except Exception as error:
            raise DisconnectionError("lost while it was idle") from error


def _leave(connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
    """Let none back into the pool that is in use, or in a transaction that could not be ended.

    asyncpg refuses COMMIT and ROLLBACK while a statement runs (a forgotten task's), and SQLAlchemy then takes the
    transaction for ended.
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
    """Close an idle connection without waiting for the server to agree, which a frozen one never does.

    One that is not idle is ended by SQLAlchemy: within 2 s, its statement cancelled first.
    """
    driver_connection: Any = getattr(connection, "driver_connection", None)
    if not driver_connection.is_in_transaction():
        driver_connection.terminate()


def sqlstate_of(error: BaseException | None) -> str | None:
    """The code of an error of the server (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
    return getattr(error, "sqlstate", None)


def _is_inner(mode: str | None) -> bool:
    """Whether another transaction waits for this one to end: a dispatch's around it, or its own beside a handler's."""
    frame = current_frame()
    own = frame.scope if frame is not None and mode is not None else None
    while frame is not None:
        if frame.scope is not own and frame.scope.transaction is not None:
            return True
        frame = frame.parent
    return False
