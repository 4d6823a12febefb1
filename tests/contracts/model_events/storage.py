"""ModelStorage: the database of the application under test, in memory or in an SQLite file."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from mediator import UnitOfWork, current_scope
from mediator.distributed.inbox import Inbox
from mediator.distributed.outbox import Outbox
from mediator.distributed.parking import Parking
from mediator.sqlalchemy import (
    SqlAlchemyInbox,
    SqlAlchemyOutbox,
    SqlAlchemyParking,
    SqlAlchemyUnitOfWork,
    create_schema,
    open_engine,
)
from mediator.testing import InMemoryDatabase, InMemoryInbox, InMemoryOutbox, InMemoryParking, InMemoryUnitOfWork

Clock = Callable[[], float]


class ModelStorage(ABC):
    """A table of rows and a table of effects, in the same database as the tables of the library."""

    outbox: Outbox
    inbox: Inbox
    parking: Parking

    @abstractmethod
    def unit_of_work(self) -> UnitOfWork:
        """The unit of work of the running scope."""

    @abstractmethod
    async def write(self, table: str, number: int) -> None:
        """Insert a row in the running transaction."""

    @abstractmethod
    async def read(self, table: str) -> Sequence[int]:
        """Return the committed rows, in the order of commits."""

    @abstractmethod
    def away(self, value: bool) -> None:
        """Make the database unreachable or reachable, if the storage supports it."""


class _VirtualDatabase(InMemoryDatabase):
    """A database whose time is exactly the time of the model."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def now(self) -> float:
        return self._clock()


class InMemoryStorage(ModelStorage):
    def __init__(self, clock: Clock) -> None:
        self._database = _VirtualDatabase(clock)
        self.outbox = InMemoryOutbox(self._database)
        self.inbox = InMemoryInbox(self._database)
        self.parking = InMemoryParking(self._database)
        self._written = 0

    def unit_of_work(self) -> InMemoryUnitOfWork:
        instances = current_scope().instances
        if InMemoryUnitOfWork not in instances:
            instances[InMemoryUnitOfWork] = InMemoryUnitOfWork(self._database)
        found: InMemoryUnitOfWork = instances[InMemoryUnitOfWork]
        return found

    async def write(self, table: str, number: int) -> None:
        self._written += 1
        self.unit_of_work().table(table)[self._written] = number

    async def read(self, table: str) -> Sequence[int]:
        return list(self._database.tables.get(table, {}).values())

    def away(self, value: bool) -> None:
        self._database.available = not value


class SqliteStorage(ModelStorage):
    def __init__(self, engine: Any, clock: Clock) -> None:
        self._engine = engine
        self.outbox = SqlAlchemyOutbox(engine, clock_offset=lambda: clock() - time.time())
        self.inbox = SqlAlchemyInbox(engine)
        self.parking = SqlAlchemyParking(engine)

    def unit_of_work(self) -> SqlAlchemyUnitOfWork:
        instances = current_scope().instances
        if SqlAlchemyUnitOfWork not in instances:
            made = instances[SqlAlchemyUnitOfWork] = SqlAlchemyUnitOfWork(self._engine)
            current_scope().on_exit(lambda _: made.aclose())
        found: SqlAlchemyUnitOfWork = instances[SqlAlchemyUnitOfWork]
        return found

    async def write(self, table: str, number: int) -> None:
        await self.unit_of_work().session.execute(text(f"INSERT INTO {table} (number) VALUES ({number})"))

    async def read(self, table: str) -> Sequence[int]:
        async with self._engine.connect() as connection:
            return list((await connection.execute(text(f"SELECT number FROM {table} ORDER BY place"))).scalars())

    def away(self, value: bool) -> None:
        """Do nothing, because a file is always reachable. Errors of the file are among the faults."""


@asynccontextmanager
async def sqlite(file: Path, clock: Clock) -> AsyncIterator[SqliteStorage]:
    async with open_engine(f"sqlite:///{file}") as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            for table in ("made", "applied"):
                await connection.execute(
                    text(f"CREATE TABLE {table} (place INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER)")
                )
        yield SqliteStorage(engine, clock)
