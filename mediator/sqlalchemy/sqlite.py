"""SqliteDatabase: an SQLite file that survives a loss of power, with one writer at a time across processes."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Table, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from mediator.distributed.reading import lack_of_unit_of_work
from mediator.errors import DatabaseUnavailableError, NoUnitOfWorkError
from mediator.sqlalchemy.database import MODE, Database, mode_of
from mediator.sqlalchemy.guard import ENDED
from mediator.sqlalchemy.writer import WriterLock

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000")


class SqliteDatabase(Database):
    """An SQLite file: WAL, `synchronous=FULL`, writers in turn.

    Args:
        engine: As the application has it.
        writer_timeout: How long a writer waits for others, in seconds.

    Attributes:
        lock: The right to write.
    """

    dialect: str = "sqlite"
    isolations: frozenset[str] = frozenset({"SERIALIZABLE"})

    def __init__(self, engine: AsyncEngine, *, writer_timeout: float = 30.0) -> None:
        file = file_of(engine.url)
        self.lock: WriterLock = WriterLock(file, timeout=writer_timeout)
        self._relay_lock_file = f"{file}.relay"
        super().__init__(engine, str(file))
        self._given_up: set[asyncio.Task[None]] = set()
        event.listen(engine.sync_engine, "connect", _configure)
        event.listen(engine.sync_engine, "invalidate", self._roll_back)
        event.listen(engine.sync_engine, "commit", _refuse_ended_transaction)
        event.listen(engine.sync_engine, "before_cursor_execute", _refuse_outside_transaction)

    async def take_turn(self, holder: object) -> None:
        """See `WriterLock.acquire`."""
        await self.lock.acquire(holder)

    def end_turn(self) -> None:
        """See `WriterLock.release`."""
        self.lock.release()

    @asynccontextmanager
    async def relaying(self) -> AsyncGenerator[bool, None]:
        """One relay at a time holds the lock file `<database>.relay`; it publishes without a transaction."""
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

    def patience(self, seconds: float) -> AbstractAsyncContextManager[object]:  # noqa: ARG002  # the port gives it
        """The writer's turn is kept until the file has answered, however long that takes."""
        return contextlib.nullcontext()

    def insert(self, table: Table) -> Any:
        """See `Database.insert`."""
        return insert(table)

    def is_missing_table(self, error: BaseException) -> bool:
        """See `Database.is_missing_table`."""
        return "no such table" in str(error)

    def begun(self, connection: Connection) -> None:
        """Writers take SQLite's lock at once, since upgrading a reader can deadlock; readers are kept from writing."""
        mode = mode_of(connection)
        guarded = mode == "read"
        if connection.info.get(MODE, False) is not guarded:
            connection.exec_driver_sql(f"PRAGMA query_only={int(guarded)}")
            connection.info[MODE] = guarded
        connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")

    def translated(self, context: ExceptionContext, mode: str | None) -> BaseException | None:
        """Readers that write are told so, and those who come after the end of their transaction."""
        if str(context.original_exception) == ENDED:
            return NoUnitOfWorkError("A statement of a transaction that has ended")
        if mode == "read" and "readonly database" in str(context.original_exception):
            return lack_of_unit_of_work("Writing to the database")
        return None

    async def lock_schema(self, connection: AsyncConnection) -> None:
        """The writer's turn is enough."""

    def _roll_back(self, connection: DBAPIConnection, _entry: object, _error: object) -> None:
        """Undo what a connection did that is about to be closed, since closing it may not.

        Python closes it with `sqlite3_close_v2`: as long as something has a cursor of it (a traceback, until the garbage
        collector comes), SQLite keeps the transaction, and with it the lock (https://www.sqlite.org/c3ref/close.html).
        """
        driver_connection: Any = getattr(connection, "driver_connection", None)
        try:
            undoing = asyncio.get_running_loop().create_task(_roll_back(driver_connection))
        except RuntimeError:  # no event loop: the process is ending
            return
        self._given_up.add(undoing)  # the driver does it before it closes the connection
        undoing.add_done_callback(self._given_up.discard)


def file_of(url: URL) -> Path:
    """The file of a database URL.

    Raises:
        DatabaseUnavailableError: It is no file.
    """
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise DatabaseUnavailableError(
            url.database or ":memory:", "the outbox needs a file that outlives the process: use sqlite:///app.db"
        )
    return Path(url.database).resolve()


def probe(file: Path) -> None:
    """Open the file once, before the engine does: aiosqlite leaves a thread behind when it cannot.

    Raises:
        DatabaseUnavailableError: It cannot be opened.
    """
    if not file.parent.is_dir():
        raise DatabaseUnavailableError(str(file), f"the folder {file.parent} does not exist")
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise DatabaseUnavailableError(str(file), str(error)) from error


async def _roll_back(driver_connection: Any) -> None:
    with contextlib.suppress(Exception):  # it is closed already
        await driver_connection.rollback()


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Set a new connection up; transactions are begun by `begun`, not by the driver."""
    connection.isolation_level = None
    try:
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        connection.close()  # the pool does not know it yet; its thread would outlive the event loop
        raise


def _refuse_ended_transaction(connection: Connection) -> None:
    """Keep a writer from going on without its transaction: SQLite would commit each statement, and COMMIT do nothing.

    A task may outlive its transaction, and SQLite ends one by itself: `ON CONFLICT ROLLBACK`, a full disk, an I/O error
    (https://www.sqlite.org/lang_transaction.html, "Response To Errors Within A Transaction").
    """
    if mode_of(connection) == "write":
        driver_connection: Any = connection.connection.driver_connection
        if not driver_connection.in_transaction:
            raise NoUnitOfWorkError("A statement of a transaction that has ended")


def _refuse_outside_transaction(
    connection: Connection, _cursor: object, statement: str, _parameters: object, _context: object, _many: bool
) -> None:
    if not statement.startswith(("PRAGMA", "BEGIN")):
        _refuse_ended_transaction(connection)
