"""Database: the port to one database, with what SQLite and PostgreSQL do differently behind it."""

import asyncio
import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy import URL, Connection, Table, event
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mediator.errors import IsolationNotSupportedError, SchemaMissingError
from mediator.scope import current_frame
from mediator.sqlalchemy.schema import metadata

MODE = "mediator_mode"
"""The execution option of connections that says what they are for: "read" or "write"."""

_NAME = re.compile(r"\w+")


class Database(ABC):
    """What this process knows of one database.

    Args:
        engine: As the application has it.
        name: For texts, without a password.

    Attributes:
        dialect: "sqlite" or "postgresql".
        engine: As the application has it.
        reader: The same pool; its transactions read.
        writer: The same pool; its transactions write. To be used by whoever holds the turn.
        isolations: The isolation levels that a transaction can be given.
        snapshot: That at which all statements see the same state; `None` when all do.
    """

    dialect: str
    isolations: frozenset[str]
    snapshot: str | None = None

    def __init__(self, engine: AsyncEngine, name: str) -> None:
        self.name: str = name
        self.engine = engine
        self.reader: AsyncEngine = engine.execution_options(**{MODE: "read"}, **self.reading_options())
        self.writer: AsyncEngine = engine.execution_options(**{MODE: "write"})
        self._isolated: dict[str, AsyncEngine] = {}
        self._wakes: weakref.WeakSet[asyncio.Event] = weakref.WeakSet()
        event.listen(engine.sync_engine, "begin", self.begun)
        event.listen(engine.sync_engine, "handle_error", weakly(self._on_error))

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
        await self.take_turn(self)
        try:
            async with self.writer.begin() as connection:
                yield connection
        finally:
            self.end_turn()

    def writer_at(self, isolation: str | None) -> AsyncEngine:
        """The writer, at an isolation level; `None` is the database's default.

        Raises:
            IsolationNotSupportedError: The database cannot give it.
        """
        if isolation is None:
            return self.writer
        if isolation not in self.isolations:
            raise IsolationNotSupportedError(self.name, isolation)
        if isolation not in self._isolated:
            options = {MODE: "write", **self.isolation_options(isolation)}
            self._isolated[isolation] = self.engine.execution_options(**options)
        return self._isolated[isolation]

    def reader_at(self, isolation: str | None) -> AsyncEngine:
        """The reader, at an isolation level; `None` is one at which all statements see the same state.

        Raises:
            IsolationNotSupportedError: The database cannot give it.
        """
        level = isolation or self.snapshot
        if level is not None and level not in self.isolations:
            raise IsolationNotSupportedError(self.name, level)
        return self.reader if level is None else self.reader.execution_options(**self.isolation_options(level))

    def _on_error(self, context: ExceptionContext) -> BaseException | None:
        """An error of the database dooms the unit of work in which it happened, even if its caller swallows it."""
        mode = mode_of(context.connection)
        translated = self.translated(context, mode) or self._missing_table(context, mode)
        frame = current_frame()
        if mode == "write" and frame is not None and frame.scope.transaction is not None:
            doomed = getattr(frame.scope.transaction, "doom_by_database", None)
            if doomed is not None:
                cause = translated or context.sqlalchemy_exception or context.original_exception
                doomed(cause, lost=context.is_disconnect)
        return translated

    def _missing_table(self, context: ExceptionContext, mode: str | None) -> SchemaMissingError | None:
        """Say clearly, whatever the statement, that a table of this library is not there. Others are not its affair."""
        error = context.original_exception
        if mode is None or not self.is_missing_table(error):
            return None
        ours = (name for name in _NAME.findall(str(error)) if name in metadata.tables)
        return next((SchemaMissingError(self.name, name) for name in ours), None)

    # What differs.

    def reading_options(self) -> dict[str, Any]:
        """Execution options of transactions that only read."""
        return {}

    def isolation_options(self, isolation: str) -> dict[str, Any]:  # noqa: ARG002  # the default has one level
        """Execution options of transactions at an isolation level."""
        return {}

    @abstractmethod
    async def take_turn(self, holder: object) -> None:
        """Wait for the right to write, where there is but one writer."""

    @abstractmethod
    def end_turn(self) -> None:
        """Give the right to write up."""

    @abstractmethod
    def patience(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """How long the body may wait for COMMIT or ROLLBACK; then `TimeoutError`, and the connection is lost."""

    @abstractmethod
    def insert(self, table: Table) -> Any:
        """An INSERT that can say `on_conflict_do_nothing()`, whatever the database."""

    @abstractmethod
    def is_missing_table(self, error: BaseException) -> bool:
        """Whether an error of the driver says that a table does not exist, and names it."""

    @abstractmethod
    def begun(self, connection: Connection) -> None:
        """Called at the begin of each transaction of the engine, before its first statement."""

    @abstractmethod
    def translated(self, context: ExceptionContext, mode: str | None) -> BaseException | None:
        """The error of ours in place of one of the driver; `None` leaves it as it is."""

    @abstractmethod
    async def lock_schema(self, connection: AsyncConnection) -> None:
        """Let no other process create the tables until the end of this transaction."""


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A listener for what belongs to the dialect: SQLAlchemy caches keep it after its engine, and would keep the engine."""
    reference = weakref.WeakMethod(method)

    def listener(*arguments: Any) -> Any:
        found = reference()
        return None if found is None else found(*arguments)

    return listener


def mode_of(connection: Connection | None) -> str | None:
    """What a connection is for; `None` when it is the application's own affair."""
    return None if connection is None else connection.get_execution_options().get(MODE)


def redacted(url: URL) -> str:
    """A URL for texts: without the password, and of its options only the hosts, since any other may be the password."""
    if url.password is not None and url.database is not None and "@" in url.database:
        return f"{url.drivername}://***@{_without_user(url.database)}"  # a / in the password, not percent-encoded
    host = None if url.host is None else _without_user(url.host)
    text = url.set(host=host, query={}).render_as_string(hide_password=True)
    options = [
        f"{name}={_without_user(value)}" for name in ("host", "port") for value in url.normalized_query.get(name, ())
    ]
    return f"{text}?{'&'.join(options)}" if options else text


def _without_user(host: str) -> str:
    """What precedes an @ that is not percent-encoded may be a part of the password."""
    return host.rpartition("@")[2]
