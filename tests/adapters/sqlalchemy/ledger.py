"""Ledger: the small application on which units of work are tested: commands write entries and raise events."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    Mediator,
    Notification,
    NotificationHandler,
    PipelineBehavior,
    Query,
    RequestHandler,
    current_scope,
)
from mediator.binding import Binding
from mediator.registry import Registry
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, create_schema
from mediator.sqlalchemy.engine import ConnectionPool

sqlite_only = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
postgresql_only = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


async def create_tables(engine: AsyncEngine) -> None:
    """The library's tables and the ledger's."""
    number = "" if engine.dialect.name == "sqlite" else ", number INTEGER GENERATED ALWAYS AS IDENTITY"
    await create_schema(engine)
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE TABLE entries (text TEXT NOT NULL{number})"))
        await connection.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
        await connection.execute(
            text("CREATE TABLE children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)")
        )


@dataclass(frozen=True, slots=True)
class EntryWritten(DistributedEvent):
    event_type: ClassVar[str] = "ledger.entry-written"
    text: str


@dataclass(frozen=True, slots=True)
class Write(Command[str]):
    """Writes an entry, raises its event, and then calls `then`."""

    text: str
    then: Callable[["Ledger"], Awaitable[Any]] | None = None
    first: Callable[["Ledger"], Awaitable[Any]] | None = None


@dataclass(frozen=True, slots=True)
class Do(Command[Any]):
    """Does something in a transaction without writing anything itself."""

    action: Callable[["Ledger"], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Count(Query[int]):
    pass


@dataclass(frozen=True, slots=True)
class Noted(Notification):
    text: str
    fails: bool = False


@dataclass
class Ledger:
    """The application, wired by hand."""

    engine: AsyncEngine
    uow_options: dict[str, Any] = field(default_factory=dict)
    behavior_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outbox = SqlAlchemyOutbox(self.engine)
        handlers = [
            Binding(lambda: _Write(self), _Write, "write", RequestHandler),
            Binding(lambda: _Do(self), _Do, "do", RequestHandler),
            Binding(lambda: _Count(self), _Count, "count", RequestHandler),
            Binding(lambda: _Note(self), _Note, "note", NotificationHandler),
        ]
        behavior = Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
        self.mediator = Mediator(Registry(handlers, [behavior]))
        self.send = self.mediator.send

    @property
    def unit_of_work(self) -> SqlAlchemyUnitOfWork:
        scope = current_scope()
        if self not in scope.instances:
            created = scope.instances[self] = SqlAlchemyUnitOfWork(self.engine, **self.uow_options)
            scope.on_exit(lambda _: created.aclose())
        found: SqlAlchemyUnitOfWork = scope.instances[self]
        return found

    def __hash__(self) -> int:
        return id(self)

    @property
    def events(self) -> DistributedEventBroker:
        return DistributedEventBroker(self.unit_of_work)

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        options: dict[str, Any] = {"outbox": self.outbox, **self.behavior_options}
        return DistributedUnitOfWorkBehavior(self.unit_of_work, self.events, **options)

    async def write(self, entry: str) -> None:
        await self.unit_of_work.session.execute(text("INSERT INTO entries VALUES (:text)"), {"text": entry})

    async def entries(self) -> list[str]:
        """Return the committed entries."""
        async with self.engine.connect() as connection:
            number = "rowid" if self.engine.dialect.name == "sqlite" else "number"
            return [row.text for row in await connection.execute(text(f"SELECT text FROM entries ORDER BY {number}"))]

    async def staged(self) -> list[str]:
        """Return the texts of the committed events, in order."""
        async with self.engine.connect() as connection:
            rows = await connection.execute(text("SELECT data FROM mediator_outbox ORDER BY sequence"))
            return [json.loads(row.data)["text"] for row in rows]


class _Write(RequestHandler[Write, str]):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def handle(self, command: Write) -> str:
        if command.first is not None:
            await command.first(self._ledger)
        await self._ledger.write(command.text)
        self._ledger.events.add(EntryWritten(command.text))
        if command.then is not None:
            await command.then(self._ledger)
        return command.text.upper()


class _Do(RequestHandler[Do, Any]):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def handle(self, command: Do) -> Any:
        return await command.action(self._ledger)


class _Count(RequestHandler[Count, int]):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def handle(self, query: Count) -> int:
        found = await self._ledger.unit_of_work.session.execute(text("SELECT count(*) FROM entries"))
        return int(found.scalar_one())


class _Note(NotificationHandler[Noted]):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def handle(self, notification: Noted) -> None:
        await self._ledger.write(notification.text)
        if notification.fails:
            raise LookupError(notification.text)


def pool_of(engine: AsyncEngine) -> ConnectionPool:
    """Return the engine's pool, to count connections in use."""
    pool = engine.sync_engine.pool
    assert isinstance(pool, ConnectionPool)
    return pool
