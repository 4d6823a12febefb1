"""Database: the port to one database and its clock, which hides the differences between SQLite and PostgreSQL."""

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
"""The execution option of a connection that says what it is for: "read" or "write"."""

OWNER = "mediator_unit_of_work"
"""The key of the unit of work in the `info` of a session, and of a weak reference to it in a connection's `info`."""

_NAME = re.compile(r"\w+")


class Database(ABC):
    """One database as this process uses it.

    Attributes:
        dialect: "sqlite" or "postgresql".
        engine: The application's engine.
        reader: An engine on the same pool, for transactions that read.
        writer: An engine on the same pool, for transactions that write. Use it only while holding the writer lock.
        isolations: The isolation levels that a transaction can have.
        snapshot: The isolation level at which all statements see the same state; `None` when they do at every level.
        application: The name of the application, which is the source of stored events; `None` until an outbox of this
            database gives it.
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
        self._isolated: dict[str, AsyncEngine] = {}
        self._wakes: weakref.WeakKeyDictionary[asyncio.Event, Guard] = weakref.WeakKeyDictionary()
        event.listen(engine.sync_engine, "begin", self._check_owner)
        event.listen(engine.sync_engine, "before_cursor_execute", self._check_owner)
        event.listen(engine.sync_engine, "begin", self.begun)
        event.listen(engine.sync_engine, "commit", _check_owner)
        event.listen(engine.sync_engine, "checkin", _forget_owner)
        event.listen(engine.sync_engine, "commit", _note_commit)
        event.listen(engine.sync_engine, "handle_error", weakly(self._on_error))

    def listen(self, wake: asyncio.Event) -> None:
        """Set `wake` whenever this process has committed events. The database keeps only a weak reference to `wake`."""
        self._wakes[wake] = Guard("a listener for commits")

    def wake(self) -> None:
        """Tell the listeners that events were committed."""
        for wake, guarded in tuple(self._wakes.items()):
            guarded(wake.set)

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection, None]:
        """Run a short writing transaction outside any unit of work, on the connection that is yielded."""
        self.owner.check()
        await self.take_turn(self)
        try:
            async with self.writer.connect() as connection, connection.begin():
                yield connection
        finally:
            self.end_turn()

    def writer_at(self, isolation: str | None) -> AsyncEngine:
        """Return the writer at an isolation level; `None` is the database's default.

        Raises:
            MisuseError: The database cannot give it.
        """
        if isolation is None:
            return self.writer
        if isolation not in self.isolations:
            raise misuse.isolation_not_supported(self.name, isolation)
        if isolation not in self._isolated:
            options = {MODE: "write", **self.isolation_options(isolation)}
            self._isolated[isolation] = self.engine.execution_options(**options)
        return self._isolated[isolation]

    def reader_at(self, isolation: str | None) -> AsyncEngine:
        """Return the reader at an isolation level; `None` is a level at which all statements see the same state.

        Raises:
            MisuseError: The database cannot give it.
        """
        level = isolation or self.snapshot
        if level is not None and level not in self.isolations:
            raise misuse.isolation_not_supported(self.name, level)
        return self.reader if level is None else self.reader.execution_options(**self.isolation_options(level))

    def _check_owner(self, *_: object) -> None:
        self.owner.check()

    def _on_error(self, context: ExceptionContext) -> BaseException | None:
        """Translate an error of the database, and doom its unit of work, even if the caller swallows the error."""
        mode = mode_of(context.connection)
        translated = self.translated(context, mode) or self._missing_table(context, mode)
        frame = current_frame()
        if mode == "write" and frame is not None and frame.scope.transaction is not None:
            doomed = getattr(frame.scope.transaction, "doom_by_database", None)
            if doomed is not None:
                cause = translated or context.sqlalchemy_exception or context.original_exception
                doomed(cause, lost=context.is_disconnect)
        return translated

    def _missing_table(self, context: ExceptionContext, mode: str | None) -> SchemaError | None:
        """Return the error for a missing table of this library; `None` for other errors, and for other tables."""
        error = context.original_exception
        if mode is None or not self.is_missing_table(error):
            return None
        ours = (name for name in _NAME.findall(str(error)) if name in metadata.tables)
        return next((misuse.no_table(self.name, name) for name in ours), None)

    # Differences between databases.

    def reading_options(self) -> dict[str, Any]:
        """Return the execution options of transactions that only read."""
        return {}

    def isolation_options(self, isolation: str) -> dict[str, Any]:  # noqa: ARG002  # by default there is one level
        """Return the execution options of transactions at an isolation level."""
        return {}

    @abstractmethod
    async def take_turn(self, holder: object) -> None:
        """Wait for the writer lock, on a database that allows only one writer."""

    @abstractmethod
    def end_turn(self) -> None:
        """Release the writer lock."""

    @abstractmethod
    def patience(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Let the body wait at most `seconds` for COMMIT or ROLLBACK; after that, the connection is lost.

        It then raises `TimeoutError`. A database that keeps its writer lock until it has answered sets no limit.
        """

    @abstractmethod
    def insert(self, table: Table) -> Any:
        """Return an INSERT of this dialect, which has `on_conflict_do_nothing()`."""

    @abstractmethod
    def is_missing_table(self, error: BaseException) -> bool:
        """Return whether an error of the driver says that a table does not exist; its text then names the table."""

    @abstractmethod
    def begun(self, connection: Connection) -> None:
        """Set a transaction up. Called when a transaction of the engine begins, before its first statement."""

    @abstractmethod
    def translated(self, context: ExceptionContext, mode: str | None) -> BaseException | None:
        """Return the error of this library for an error of the driver; `None` leaves the driver's error as it is."""

    @abstractmethod
    async def lock_schema(self, connection: AsyncConnection) -> None:
        """Keep other processes from creating the tables until this transaction ends."""


def _check_owner(connection: Connection) -> None:
    """Keep a handler from committing part of its command on the connection of its unit of work."""
    reference = connection.info.get(OWNER)
    owner = None if reference is None else reference()
    if owner is not None and mode_of(connection) == "write":
        owner.check_ownership("connection().commit")


def _forget_owner(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info.pop(OWNER, None)


def _note_commit(connection: Connection) -> None:
    frame = current_frame()
    noted = getattr(frame.scope.transaction, "commit_begins", None) if frame is not None else None
    if noted is not None:
        noted(connection)


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a listener that holds a weak reference to its method, for events of a dialect.

    SQLAlchemy's caches keep the listeners of a dialect longer than its engine, and would keep the engine alive.
    """
    reference = weakref.WeakMethod(method)

    def listener(*arguments: Any) -> Any:
        found = reference()
        return None if found is None else found(*arguments)

    return listener


def mode_of(connection: Connection | None) -> str | None:
    """Return what a connection is for: "read" or "write", or `None` when the application opened it itself."""
    return None if connection is None else connection.get_execution_options().get(MODE)


def shown(url: URL) -> URL:
    """Return a URL without its password, and with no options but hosts and ports.

    Any other option may be a part of a password that is not percent-encoded.
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
    """Return a URL as a text without its secrets."""
    seen = shown(url)
    options = [f"{name}={value}" for name in sorted(seen.query) for value in seen.normalized_query[name]]
    text = seen.set(query={}).render_as_string()
    return f"{text}?{'&'.join(options)}" if options else text


def _after_the_password(url: URL) -> URL:
    """Return a URL without the password, which contains a / or a ? that is not percent-encoded.

    Only the part after the last @ is kept, or only the driver where that part cannot be found.
    """
    _, separator, place = (url.database or "").rpartition("@")
    try:
        return make_url(f"{url.drivername}://:***@{place}") if separator else URL.create(url.drivername)
    except ValueError:  # the port is not a number
        return URL.create(url.drivername)


def _without_user(host: str) -> str:
    """Return a host without the text before an @, which may be a part of a password that is not percent-encoded."""
    return host.rpartition("@")[2]


_HOSTS = frozenset({"host", "port"})


SERVER_TIME: ColumnElement[float] = cast(func.extract("epoch", func.statement_timestamp()), Float)
"""The time of the PostgreSQL server, in seconds since the epoch."""

MACHINE_TIME: ColumnElement[float] = literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float)
"""The time of SQLite, in seconds since the epoch. SQLite asks the operating system, not this process."""


class DatabaseClock:
    """The clock of the PostgreSQL server, or of the machine on which an SQLite file is used.

    No process uses its own time. If the clocks of two processes differed, one would delete rows that the other has just
    written.

    Args:
        dialect: "sqlite" or "postgresql".
        offset: Returns seconds to add to the time of the database; called for each statement. For tests.
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
