"""Engine: an SQLAlchemy engine set up for units of work, and what this process knows of its database."""

import asyncio
import sqlite3
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from mediator.distributed.shield import wait_for_late_work
from mediator.errors import DatabaseUnavailableError, NoUnitOfWorkError
from mediator.scope import current_frame
from mediator.sqlalchemy.writer import WriterLock

_MODE = "mediator_mode"
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000")


class Database:
    """What this process knows of one database.

    Attributes:
        name: The file, for texts.
        engine: As the application has it.
        reading: The same pool; its transactions read.
        writer: The engine of transactions that write, to be used by whoever holds `lock`.
        lock: The right to write.
    """

    def __init__(self, engine: AsyncEngine, *, writer_timeout: float = 30.0) -> None:
        file = _file_of(engine.url)
        self.name: str = str(file)
        self.engine = engine
        self.reader: AsyncEngine = engine.execution_options(**{_MODE: "read"})
        self.writer: AsyncEngine = engine.execution_options(**{_MODE: "write"})
        self.lock: WriterLock = WriterLock(file, timeout=writer_timeout)
        self.relay_lock_file: str = f"{file}.relay"
        self._wakes: weakref.WeakSet[asyncio.Event] = weakref.WeakSet()
        event.listen(engine.sync_engine, "connect", _configure)
        event.listen(engine.sync_engine, "begin", _begin)
        event.listen(engine.sync_engine, "commit", _refuse_ended_transaction)
        event.listen(engine.sync_engine, "before_cursor_execute", _refuse_outside_transaction)
        event.listen(engine.sync_engine, "handle_error", _on_error)

    def listen(self, wake: asyncio.Event) -> None:
        """Set `wake` whenever events were committed by this process, for as long as somebody holds it."""
        self._wakes.add(wake)

    def wake(self) -> None:
        """Tell those who listen that events were committed."""
        for wake in self._wakes:
            wake.set()

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection, None]:
        """A short transaction that writes, outside any unit of work."""
        await self.lock.acquire(self)
        try:
            async with self.writer.begin() as connection:
                yield connection
        finally:
            self.lock.release()


_databases: weakref.WeakKeyDictionary[Engine, Database] = weakref.WeakKeyDictionary()


def database_of(engine: AsyncEngine, *, writer_timeout: float | None = None) -> Database:
    """The database of an engine; the first call sets the engine up.

    Raises:
        DatabaseUnavailableError: It is not an SQLite file.
    """
    known = _databases.get(engine.sync_engine)
    if known is None:
        known = Database(engine, writer_timeout=30.0 if writer_timeout is None else writer_timeout)
        _databases[engine.sync_engine] = known
    return known


@asynccontextmanager
async def open_engine(url: str, *, writer_timeout: float = 30.0, **options: Any) -> AsyncGenerator[AsyncEngine, None]:
    """Open a database for units of work, and close it in the end: `providers.Resource(open_engine, url)`.

    SQLite runs in WAL mode with `synchronous=FULL`, so that a commit survives a loss of power.

    Args:
        url: `sqlite:///file` (relative) or `sqlite:////file` (absolute).
        writer_timeout: How long a writer waits for others, in seconds.
        options: For SQLAlchemy's `create_async_engine`. `hide_parameters` is on unless given, so that errors, and with
            them logs, show statements without the values in them.

    Raises:
        DatabaseUnavailableError: It cannot be opened: its folder is missing, it is no database, it is not permitted.
    """
    parsed = _parse(url)
    await asyncio.to_thread(_probe, _file_of(parsed))
    engine = create_async_engine(parsed, **{"hide_parameters": True, **options})
    try:
        database_of(engine, writer_timeout=writer_timeout)
        yield engine
    finally:
        await wait_for_late_work(5.0)
        await engine.dispose()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseUnavailableError(
            "at the given URL", "it is not a database URL such as sqlite:///app.db"
        ) from error
    return parsed.set(drivername="sqlite+aiosqlite") if parsed.drivername == "sqlite" else parsed


def _file_of(url: URL) -> Path:
    if url.get_backend_name() != "sqlite":
        reason = "only SQLite files are supported in this version: use sqlite:///app.db"
        raise DatabaseUnavailableError(url.render_as_string(hide_password=True), reason)
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise DatabaseUnavailableError(
            url.database or ":memory:", "the outbox needs a file that outlives the process: use sqlite:///app.db"
        )
    return Path(url.database).resolve()


def _probe(file: Path) -> None:
    """Open the file once, before the engine does: aiosqlite leaves a thread behind when it cannot."""
    if not file.parent.is_dir():
        raise DatabaseUnavailableError(str(file), f"the folder {file.parent} does not exist")
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise DatabaseUnavailableError(str(file), str(error)) from error


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Set a new connection up; transactions are begun by `_begin`, not by the driver."""
    connection.isolation_level = None
    try:
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        connection.close()  # the pool does not know it yet; its thread would outlive the event loop
        raise


def _begin(connection: Connection) -> None:
    """Writers take SQLite's lock at once, since upgrading a reader can deadlock; readers are kept from writing."""
    mode = connection.get_execution_options().get(_MODE)
    guarded = mode == "read"
    if connection.info.get(_MODE, False) is not guarded:
        connection.exec_driver_sql(f"PRAGMA query_only={int(guarded)}")
        connection.info[_MODE] = guarded
    connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")


def _refuse_ended_transaction(connection: Connection) -> None:
    """Keep a writer from going on without its transaction: SQLite would commit each statement, and COMMIT do nothing.

    A task may outlive its transaction, and SQLite ends one by itself: `ON CONFLICT ROLLBACK`, a full disk, an I/O error
    (https://www.sqlite.org/lang_transaction.html, "Response To Errors Within A Transaction").
    """
    if connection.get_execution_options().get(_MODE) == "write":
        driver_connection: Any = connection.connection.driver_connection
        if not driver_connection.in_transaction:
            raise NoUnitOfWorkError("A statement of a transaction that has ended")


def _refuse_outside_transaction(
    connection: Connection, _cursor: object, statement: str, _parameters: object, _context: object, _many: bool
) -> None:
    if not statement.startswith(("PRAGMA", "BEGIN")):
        _refuse_ended_transaction(connection)


def _on_error(context: ExceptionContext) -> None:
    """An error of the database dooms the unit of work in which it happened, even if its caller swallows it."""
    connection, error = context.connection, context.original_exception
    mode = connection.get_execution_options().get(_MODE) if connection is not None else None
    if mode == "read" and "readonly database" in str(error):
        raise NoUnitOfWorkError("Writing to the database") from error
    frame = current_frame()
    if mode == "write" and frame is not None and frame.scope.transaction is not None:
        doomed = getattr(frame.scope.transaction, "doom_by_database", None)
        if doomed is not None:
            doomed(context.sqlalchemy_exception or error)
