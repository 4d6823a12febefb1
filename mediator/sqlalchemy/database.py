"""Database: one interface to a database and its clock, implemented for SQLite and for PostgreSQL."""

import asyncio
import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Float,
    Table,
    cast,
    event,
    func,
    literal,
    literal_column,
    make_url,
)
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from mediator.blocks import asynccontextmanager
from mediator.errors import SchemaError, misuse
from mediator.logger import Guard
from mediator.owner import Owner
from mediator.scope import current_frame
from mediator.sqlalchemy.schema import metadata

MODE = "mediator_mode"
"""The execution option that says whether a connection is used to "read" or to "write"."""

OWNER = "mediator_unit_of_work"
"""Under this key, the `info` of a session holds the unit of work.

Under the same key, the `info` of a connection holds a weak reference to the unit of work.
"""

_NAME = re.compile(r"\w+")


class Database(ABC):
    """A database, its connections for reading and writing, and the operations that differ between databases.

    Attributes:
        name: The name of the database in errors: the path of the file, or the URL without secrets.
        dialect: "sqlite" or "postgresql".
        engine: The application's engine.
        reader: An engine on the same pool, for transactions that read.
        writer: An engine on the same pool, for transactions that write. Hold the writer lock while using this engine.
        snapshot: The isolation level at which all statements of a transaction see the same state; `None` when every
            level has this property.
        application: The name of the application, which is the source of stored events; `None` until an outbox on this
            database sets the name.
        owner: Raises an error when another event loop or process uses the database.
    """

    dialect: str
    isolations: frozenset[str]
    snapshot: str | None = None

    def __init__(self, engine: AsyncEngine, name: str) -> None:
        self.name: str = name
        self.engine = engine
        self.reader: AsyncEngine = engine.execution_options(**{MODE: "read"}, **self.reading_options())
        self.writer: AsyncEngine = engine.execution_options(**{MODE: "write"})
        self.application: str | None = None
        self.owner: Owner = Owner(f"The database {name}")
        self._wakes: weakref.WeakKeyDictionary[asyncio.Event, Guard] = weakref.WeakKeyDictionary()
        event.listen(engine.sync_engine, "begin", self._check_owner)
        event.listen(engine.sync_engine, "before_cursor_execute", self._check_owner)
        event.listen(engine.sync_engine, "begin", self.begun)
        event.listen(engine.sync_engine, "commit", _check_committer)
        event.listen(engine.sync_engine, "checkin", _forget_unit_of_work)
        event.listen(engine.sync_engine, "commit", _announce_commit)
        event.listen(engine.sync_engine, "handle_error", weakly(self._on_error))

    def listen(self, wake: asyncio.Event) -> None:
        """Set `wake` each time this process has committed events. The database keeps only a weak reference to `wake`."""
        self._wakes[wake] = Guard("a listener for commits")

    def wake(self) -> None:
        """Set the `asyncio.Event` of each listener, because events were committed to the outbox."""
        for wake, guarded in tuple(self._wakes.items()):
            guarded(wake.set)

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection, None]:
        """Run a short writing transaction that belongs to no unit of work, and yield the transaction's connection."""
        self.owner.check()
        await self.take_turn(self)
        try:
            async with self.writer.connect() as connection, connection.begin():
                yield connection
        finally:
            self.end_turn()

    def writer_at(self, isolation: str | None) -> AsyncEngine:
        """Return the writer engine for an isolation level; `None` means the database's default level.

        If the database does not support the level, a `MisuseError` is raised.
        """
        return self._at(self.writer, isolation)

    def reader_at(self, isolation: str | None) -> AsyncEngine:
        """Return the reader engine for a level; `None` means a level at which all statements see the same state.

        If the database does not support the level, a `MisuseError` is raised.
        """
        return self._at(self.reader, isolation or self.snapshot)

    def _at(self, engine: AsyncEngine, isolation: str | None) -> AsyncEngine:
        if isolation is None:
            return engine
        if isolation not in self.isolations:
            raise misuse.isolation_not_supported(self.name, isolation)
        return engine.execution_options(**self.isolation_options(isolation))

    def _check_owner(self, *_: object) -> None:
        self.owner.check()

    def _on_error(self, context: ExceptionContext) -> BaseException | None:
        """Return this library's error for a driver's error, or `None` to keep the driver's error.

        After an error on a writing connection, the running unit of work can only be rolled back, even if the handler
        catches the error.
        """
        mode = mode_of(context.connection)
        translated = self.translated(context, mode) or self._missing_table(context, mode)
        frame = current_frame()
        if mode == "write" and frame is not None and frame.scope.transaction is not None:
            doom = getattr(frame.scope.transaction, "doom_by_database", None)
            if doom is not None:
                cause = translated or context.sqlalchemy_exception or context.original_exception
                doom(cause, lost=context.is_disconnect)
        return translated

    def _missing_table(self, context: ExceptionContext, mode: str | None) -> SchemaError | None:
        """Return the error for a missing table of this library; `None` for other errors, and for other tables."""
        error = context.original_exception
        if mode is None or not self.is_missing_table(error):
            return None
        ours = (name for name in _NAME.findall(str(error)) if name in metadata.tables)
        return next((misuse.no_table(self.name, name) for name in ours), None)

    # Operations that differ between databases.

    def reading_options(self) -> dict[str, Any]:
        """Return the execution options of transactions that only read."""
        return {}

    def isolation_options(self, isolation: str) -> dict[str, Any]:  # noqa: ARG002  # by default there is one level
        """Return the execution options of transactions at an isolation level."""
        return {}

    @abstractmethod
    async def take_turn(self, holder: object) -> None:
        """Wait for the writer lock if the database allows only one writer."""

    @abstractmethod
    def end_turn(self) -> None:
        """Release the writer lock."""

    @abstractmethod
    def patience(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Return a context manager in which a COMMIT or ROLLBACK raises `TimeoutError` after `seconds` seconds.

        The connection cannot be used after this error. On SQLite, there is no limit, since the writer lock must be held
        until SQLite has answered.
        """

    @abstractmethod
    def insert(self, table: Table) -> Any:
        """Return an INSERT into a table. The INSERT has the method `on_conflict_do_nothing()` of this dialect."""

    @abstractmethod
    def is_missing_table(self, error: BaseException) -> bool:
        """Return whether an error of the driver means that a table does not exist. The error text names the table."""

    @abstractmethod
    def begun(self, connection: Connection) -> None:
        """Set up a transaction that has begun. SQLAlchemy calls this method before the first statement."""

    @abstractmethod
    def translated(self, context: ExceptionContext, mode: str | None) -> BaseException | None:
        """Return this library's error for an error of the driver, or `None` to keep the driver's error."""

    @abstractmethod
    async def lock_schema(self, connection: AsyncConnection) -> None:
        """Keep other processes from creating or upgrading the tables until this transaction ends."""


def _check_committer(connection: Connection) -> None:
    """Raise a `MisuseError` when a handler commits the connection of its unit of work.

    The commit would make a part of the command permanent before the command has succeeded.
    """
    reference = connection.info.get(OWNER)
    owner = None if reference is None else reference()
    if owner is not None and mode_of(connection) == "write":
        owner.check_ownership("connection().commit")


def _forget_unit_of_work(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info.pop(OWNER, None)


def _announce_commit(connection: Connection) -> None:
    frame = current_frame()
    commit_begins = getattr(frame.scope.transaction, "commit_begins", None) if frame is not None else None
    if commit_begins is not None:
        commit_begins(connection)


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a listener for events of a dialect. The listener calls `method` through a weak reference.

    SQLAlchemy's caches keep the listeners of a dialect after the engine is no longer used. A strong reference to the
    method would therefore keep the engine in memory.
    """
    reference = weakref.WeakMethod(method)

    def listener(*arguments: Any) -> Any:
        found = reference()
        return None if found is None else found(*arguments)

    return listener


def mode_of(connection: Connection | None) -> str | None:
    """Return "read" or "write", or `None` for a connection that the application has opened itself."""
    return None if connection is None else connection.get_execution_options().get(MODE)


def shown(url: URL) -> URL:
    """Return a URL without its password. Of the options, only hosts and ports are kept.

    If the password was not percent-encoded, other options may contain a part of the password.
    """
    options = [value for name in {*url.query} - _HOSTS for value in (name, *url.normalized_query[name])]
    if url.password is not None and any("@" in each for each in (url.database or "", *options)):
        return _after_the_password(url)
    hosts = {name: tuple(map(_without_user, url.normalized_query[name])) for name in _HOSTS if name in url.query}
    return URL.create(
        url.drivername,
        username=url.username,
        password=None if url.password is None else "***",
        host=None if url.host is None else _without_user(url.host),
        port=url.port,
        database=url.database,
        query=hosts,
    )


def redacted(url: URL) -> str:
    """Return the text of a URL without its secrets."""
    seen = shown(url)
    options = [f"{name}={value}" for name in sorted(seen.query) for value in seen.normalized_query[name]]
    text = seen.set(query={}).render_as_string()
    return f"{text}?{'&'.join(options)}" if options else text


def _after_the_password(url: URL) -> URL:
    """Return a URL without its password: `postgresql://user:p@a/b@host/db` -> `postgresql://:***@host/db`.

    If the part after the last @ is missing or not valid, the result has only the driver.
    """
    _, separator, place = (url.database or "").rpartition("@")
    try:
        return make_url(f"{url.drivername}://:***@{place}") if separator else URL.create(url.drivername)
    except ValueError:  # the port is not a number
        return URL.create(url.drivername)


def _without_user(host: str) -> str:
    """Return a host without the text before its last @, which may be a part of a password."""
    return host.rpartition("@")[2]


_HOSTS = frozenset({"host", "port"})


SERVER_TIME: ColumnElement[float] = cast(func.extract("epoch", func.statement_timestamp()), Float)
"""The time of the PostgreSQL server, in seconds since the epoch."""

MACHINE_TIME: ColumnElement[float] = literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float)
"""The time of the machine on which SQLite runs, in seconds since the epoch."""


class DatabaseClock:
    """The clock of the PostgreSQL server, or of the machine on which an SQLite file is used.

    All times that are stored or compared come from this clock, never from the clock of a process. If the clocks of two
    processes differed, one process could delete rows that the other process has just written. For tests, `offset` is
    called for each statement and returns seconds to add to the time of the database.
    """

    def __init__(self, dialect: str, offset: Callable[[], float] | None = None) -> None:
        self._time = SERVER_TIME if dialect == "postgresql" else MACHINE_TIME
        self._offset = offset

    @property
    def offset(self) -> float:
        """The seconds that are added to the time of the database."""
        return 0.0 if self._offset is None else self._offset()

    def now(self) -> ColumnElement[float]:
        """Return an SQL expression for the current time, in seconds since the epoch."""
        return self._time if self._offset is None else self._time + literal(self._offset(), Float)
