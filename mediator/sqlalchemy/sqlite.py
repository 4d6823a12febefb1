"""SqliteDatabase: an SQLite file with one writer at a time across all processes. Commits survive a loss of power."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Table, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from mediator.blocks import asynccontextmanager
from mediator.distributed.unit_of_work import lack_of_unit_of_work
from mediator.errors import DatabaseUnavailableError, DatabaseWriteError, misuse
from mediator.owner import start_detached
from mediator.sqlalchemy.database import MODE, Database, mode_of
from mediator.sqlalchemy.writer import WriterLock

ENDED = "the transaction of this statement has ended"
"""The text of a `GuardedCursor`'s error, by which `SqliteDatabase.translated` recognizes the error."""


class GuardedConnection(sqlite3.Connection):
    """A connection whose cursors raise an error for a statement after the end of a writing transaction.

    Create it with `sqlite3.connect(..., factory=GuardedConnection)`. Each transaction must begin with an explicit BEGIN.
    """

    writing: bool = False
    """Whether the last transaction began with BEGIN IMMEDIATE, as writing transactions do."""

    def cursor(self, factory: Any = None) -> Any:
        """Return a `GuardedCursor`."""
        make: Any = super().cursor
        return make(factory or GuardedCursor)


class GuardedCursor(sqlite3.Cursor):
    """A cursor that raises `sqlite3.OperationalError` for a statement after the end of a writing transaction."""

    def execute(self, sql: str, parameters: Any = (), /) -> "GuardedCursor":
        self._check(sql)
        super().execute(sql, parameters)
        return self

    def executemany(self, sql: str, seq_of_parameters: Any, /) -> "GuardedCursor":
        self._check(sql)
        super().executemany(sql, seq_of_parameters)
        return self

    def _check(self, sql: str) -> None:
        connection: Any = self.connection
        if sql.startswith("BEGIN"):
            connection.writing = sql.startswith("BEGIN IMMEDIATE")
        elif connection.writing and not connection.in_transaction and not sql.startswith("PRAGMA"):
            raise sqlite3.OperationalError(ENDED)


_FILE_FAULTS = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""Result codes for a fault of the file or the disk, or a lock of another program (https://www.sqlite.org/rescode.html)."""
_MAYBE_COMMITTED = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
"""Result codes after which it is unknown whether COMMIT was written to the disk."""
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000")


class SqliteDatabase(Database):
    """An SQLite file in WAL mode with `synchronous=FULL`. Only the holder of `lock` writes.

    A writer waits at most `writer_timeout` seconds for `lock`.
    """

    dialect: str = "sqlite"
    isolations: frozenset[str] = frozenset({"SERIALIZABLE"})

    def __init__(self, engine: AsyncEngine, *, writer_timeout: float) -> None:
        file = file_of(engine.url)
        self.lock: WriterLock = WriterLock(file, timeout=writer_timeout)
        self._relay_lock_file = f"{file}.relay"
        super().__init__(engine, str(file))
        self._rollbacks: set[asyncio.Task[None]] = set()
        event.listen(engine.sync_engine, "connect", _configure)
        event.listen(engine.sync_engine, "invalidate", self._roll_back)
        event.listen(engine.sync_engine, "commit", _refuse_ended_transaction)
        event.listen(engine.sync_engine, "before_cursor_execute", _refuse_outside_transaction)

    async def take_turn(self, holder: object) -> None:
        await self.lock.acquire(holder)

    def end_turn(self) -> None:
        self.lock.release()

    @asynccontextmanager
    async def relaying(self) -> AsyncGenerator[bool, None]:
        """Try to lock the file `<database>.relay`, and yield whether this relay holds the lock.

        Only one relay at a time can hold the lock. A relay with the lock keeps no transaction open while it publishes.
        """
        self.owner.check()
        lock = FileLock(self._relay_lock_file, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def patience(self, seconds: float) -> AbstractAsyncContextManager[object]:  # noqa: ARG002  # the port has this parameter
        """Set no limit, since the writer lock must be held until SQLite has answered."""
        return contextlib.nullcontext()

    def insert(self, table: Table) -> Any:
        return insert(table)

    def is_missing_table(self, error: BaseException) -> bool:
        return "no such table" in str(error)

    def begun(self, connection: Connection) -> None:
        """Begin a transaction.

        A reader cannot write. A writer takes SQLite's write lock at once, since a transaction that first reads and then
        writes could deadlock.
        """
        mode = mode_of(connection)
        read_only = mode == "read"
        if connection.info.get(MODE, False) is not read_only:
            connection.exec_driver_sql(f"PRAGMA query_only={int(read_only)}")
            connection.info[MODE] = read_only
        connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")

    def translated(self, context: ExceptionContext, mode: str | None) -> BaseException | None:
        """Translate errors: a write by a reader, a statement after the end of its transaction, a fault of the file."""
        error = context.original_exception
        if str(error) == ENDED:
            return misuse.no_unit_of_work("A statement of a transaction that has ended")
        code: int = getattr(error, "sqlite_errorcode", 0)
        if (
            mode == "read" and code == sqlite3.SQLITE_READONLY
        ):  # `query_only` gives this code; a read-only file gives an extended code
            return lack_of_unit_of_work("Writing to the database")
        if context.connection is None:
            return DatabaseUnavailableError(self.name, str(error))
        if context.statement is None and code in _MAYBE_COMMITTED:
            context.is_disconnect = True  # as after a lost connection, the outcome of COMMIT is unknown
            return None
        if mode is not None and code & 0xFF in _FILE_FAULTS:
            return DatabaseWriteError(self.name, str(error))
        return None

    async def lock_schema(self, connection: AsyncConnection) -> None:
        """Do nothing, since the caller holds the writer lock."""

    def _roll_back(self, connection: DBAPIConnection, _entry: object, _error: object) -> None:
        """Roll back the transaction of a connection before the connection is closed.

        Python closes the connection with `sqlite3_close_v2`. After this call, SQLite keeps the transaction and its lock
        until all cursors are garbage-collected (https://www.sqlite.org/c3ref/close.html). A traceback may keep a cursor
        in memory for some time.
        """
        driver_connection: Any = getattr(connection, "driver_connection", None)
        try:
            rollback = start_detached(_roll_back(driver_connection))
        except RuntimeError:  # there is no event loop, so the process is ending
            return
        self._rollbacks.add(rollback)  # the driver executes the rollback before it closes the connection
        rollback.add_done_callback(self._rollbacks.discard)


def file_of(url: URL) -> Path:
    """Return the absolute path of the database file in a URL.

    A URL of an in-memory database, and an SQLite URI, raise a `DatabaseUnavailableError`.
    """
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise DatabaseUnavailableError(
            url.database or ":memory:", "the outbox needs a file that outlives the process: use sqlite:///app.db"
        )
    return Path(url.database).resolve()


def probe(file: Path) -> None:
    """Open the file once before aiosqlite opens it, since aiosqlite leaves a thread behind when opening fails.

    Raises:
        DatabaseUnavailableError: The file cannot be opened, or does not store texts as UTF-8.
    """
    if not file.parent.is_dir():
        raise DatabaseUnavailableError(str(file), f"the folder {file.parent} does not exist")
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA schema_version")
            (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    except sqlite3.Error as error:
        raise DatabaseUnavailableError(str(file), str(error)) from error
    if problem := encoding_problem(encoding):
        raise DatabaseUnavailableError(str(file), f"{problem}. {ENCODING_REMEDY}")


ENCODING_REMEDY = "Copy its contents into a new file, which has UTF-8 by default: use `.dump` of the sqlite3 program"


def encoding_problem(encoding: str) -> str:
    """Return why the encoding of a file would change some texts; empty for UTF-8.

    In UTF-16, SQLite replaces U+FFFE and U+FFFF by U+FFFD without an error.
    """
    if encoding == "UTF-8":
        return ""
    return f"it has the encoding {encoding}, in which SQLite replaces some characters"


async def _roll_back(driver_connection: Any) -> None:
    with contextlib.suppress(Exception):  # the connection may be closed already
        await driver_connection.rollback()


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Set up a new connection. The driver must not begin transactions: `SqliteDatabase.begun` begins them."""
    connection.isolation_level = None
    try:
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        connection.close()  # else the connection and the driver's thread would outlive the event loop
        raise


def _refuse_ended_transaction(connection: Connection) -> None:
    """Raise a `NoUnitOfWorkError` for a statement after the end of a writing transaction.

    Without this error, SQLite would commit the statement at once. The statement may come from a task that was not
    awaited and runs longer than the transaction. SQLite itself may also have ended the transaction, after `ON CONFLICT
    ROLLBACK`, a full disk or an I/O error (https://www.sqlite.org/lang_transaction.html, "Response To Errors Within A
    Transaction").
    """
    if mode_of(connection) == "write":
        driver_connection: Any = connection.connection.driver_connection
        if not driver_connection.in_transaction:
            raise misuse.no_unit_of_work("A statement of a transaction that has ended")


def _refuse_outside_transaction(
    connection: Connection, _cursor: object, statement: str, _parameters: object, _context: object, _many: bool
) -> None:
    if not statement.startswith(("PRAGMA", "BEGIN")):
        _refuse_ended_transaction(connection)
