"""Read-only transactions: a query sees one snapshot and changes nothing; in memory, in SQLite and in PostgreSQL."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    Mediator,
    Notification,
    PipelineBehavior,
    Query,
    ReadOnlyTransactionBehavior,
    RequestHandler,
    TransactionMode,
    UnitOfWork,
    current_scope,
    current_unit_of_work,
)
from mediator.binding import Binding
from mediator.distributed.outbox import Outbox
from mediator.errors import MisuseError, NoUnitOfWorkError
from mediator.registry import Registry
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, create_schema, open_engine
from mediator.testing import InMemoryDatabase, InMemoryOutbox, InMemoryUnitOfWork


@dataclass(frozen=True, slots=True)
class Noted(DistributedEvent):
    event_type: ClassVar[str] = "library.noted"
    text: str


class Happened(Notification):
    pass


@dataclass(frozen=True, slots=True)
class Ask(Query[Any]):
    action: Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Do(Command[Any]):
    action: Callable[[], Awaitable[Any]]


class Base(DeclarativeBase):
    pass


class Book(Base):
    __tablename__ = "books"
    title: Mapped[str] = mapped_column(primary_key=True)
    pages: Mapped[int] = mapped_column(default=0)


@dataclass(eq=False)
class Library:
    make: Callable[[], UnitOfWork]
    outbox: Outbox
    count: Callable[[UnitOfWork], Awaitable[int]]
    write: Callable[[UnitOfWork, str], Awaitable[None]]
    isolation: str | None = None
    engine: AsyncEngine | None = None

    def __post_init__(self) -> None:
        handler = Binding(_Act, _Act, "act", RequestHandler)
        reading = Binding(self._reading, ReadOnlyTransactionBehavior, "reading", PipelineBehavior)
        writing = Binding(self._writing, DistributedUnitOfWorkBehavior, "writing", PipelineBehavior)
        self.mediator = Mediator(Registry([handler], [reading, writing]))

    @property
    def unit_of_work(self) -> UnitOfWork:
        instances = current_scope().instances
        if self not in instances:
            created = instances[self] = self.make()
            if isinstance(created, SqlAlchemyUnitOfWork):
                current_scope().on_exit(lambda _: created.aclose())
        found: UnitOfWork = instances[self]
        return found

    def _reading(self) -> ReadOnlyTransactionBehavior[Any]:
        return ReadOnlyTransactionBehavior(self.unit_of_work, isolation=self.isolation)

    def _writing(self) -> DistributedUnitOfWorkBehavior[Any]:
        return DistributedUnitOfWorkBehavior(self.unit_of_work, self.events, self.outbox)

    @property
    def events(self) -> DistributedEventBroker:
        return DistributedEventBroker(self.unit_of_work)

    async def books(self) -> int:
        return await self.count(self.unit_of_work)

    async def add(self, title: str) -> None:
        await self.write(self.unit_of_work, title)

    async def ask(self, action: Callable[[], Awaitable[Any]], **options: Any) -> Any:
        return await self.mediator.send(Ask(action), **options)

    async def do(self, action: Callable[[], Awaitable[Any]], **options: Any) -> Any:
        return await self.mediator.send(Do(action), **options)


class _Act(RequestHandler[Ask | Do, Any]):
    async def handle(self, message: Ask | Do) -> Any:
        return await message.action()


@asynccontextmanager
async def in_memory() -> AsyncIterator[Library]:
    database = InMemoryDatabase()

    async def count(unit_of_work: UnitOfWork) -> int:
        assert isinstance(unit_of_work, InMemoryUnitOfWork)
        return len(unit_of_work.table("books"))

    async def write(unit_of_work: UnitOfWork, title: str) -> None:
        assert isinstance(unit_of_work, InMemoryUnitOfWork)
        unit_of_work.table("books")[title] = title

    yield Library(lambda: InMemoryUnitOfWork(database), InMemoryOutbox(database), count, write)


@asynccontextmanager
async def in_database(url: str) -> AsyncIterator[Library]:
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        async def count(unit_of_work: UnitOfWork) -> int:
            assert isinstance(unit_of_work, SqlAlchemyUnitOfWork)
            found = await unit_of_work.session.execute(text("SELECT count(*) FROM books"))
            return int(found.scalar_one())

        async def write(unit_of_work: UnitOfWork, title: str) -> None:
            assert isinstance(unit_of_work, SqlAlchemyUnitOfWork)
            await unit_of_work.session.execute(text("INSERT INTO books VALUES (:title, 1)"), {"title": title})

        yield Library(lambda: SqlAlchemyUnitOfWork(engine), SqlAlchemyOutbox(engine), count, write, engine=engine)


@pytest.fixture
async def library(database: str | None) -> AsyncIterator[Library]:
    async with in_memory() if database is None else in_database(database) as made:
        yield made


async def test_all_statements_of_a_query_see_one_snapshot_and_the_next_query_sees_a_new_one(library):
    async def look() -> tuple[int, int]:
        before = await library.books()
        await library.do(lambda: library.add("meanwhile"), mode=TransactionMode.NEW)
        return before, await library.books()

    async with library.mediator.scope():
        assert await library.ask(look) == (0, 0)
        assert await library.ask(library.books) == 1
        await library.do(lambda: library.add("and then"))
        assert await library.ask(library.books) == 2


async def test_writing_is_refused_and_names_the_query(library):
    with pytest.raises(NoUnitOfWorkError, match="Ask is answered in a read-only transaction"):
        await library.ask(lambda: library.add("a title"))
    assert await library.ask(library.books) == 0


async def test_a_query_refuses_everything_that_needs_a_unit_of_work(library):
    async def add_event() -> None:
        library.events.add(Noted("text"))

    async def publish_after_commit() -> None:
        library.mediator.publish_after_commit(Happened())

    async def begin() -> None:
        async with library.unit_of_work:
            pass

    async def ask_for_it() -> None:
        current_unit_of_work()

    async def send_a_command() -> None:
        await library.do(library.books)

    for action in (add_event, publish_after_commit, begin, ask_for_it, send_a_command):
        with pytest.raises(NoUnitOfWorkError, match="Ask is answered in a read-only transaction"):
            await library.ask(action)


async def test_an_inner_query_joins_the_snapshot_and_its_error_can_be_caught(library):
    async def inner() -> int:
        return await library.books()

    async def fail() -> None:
        raise LookupError

    async def outer() -> list[int]:
        with pytest.raises(LookupError):
            await library.ask(fail)
        joined = await library.ask(inner)
        await library.do(lambda: library.add("meanwhile"), mode=TransactionMode.NEW)
        nested = await library.ask(inner, mode=TransactionMode.NESTED)
        return [joined, nested, await library.ask(inner, mode=TransactionMode.NEW)]

    assert await library.ask(outer) == [0, 0, 1]


async def test_a_query_in_a_command_sees_the_rows_that_the_command_wrote(library):
    async def work() -> int:
        await library.add("a title")
        found: int = await library.ask(library.books)
        await library.add("another title")
        return found

    assert await library.do(work) == 1
    assert await library.ask(library.books) == 2


async def test_a_scope_is_usable_after_a_failed_query(library):
    async def fail() -> None:
        await library.books()
        raise LookupError

    async with library.mediator.scope():
        with pytest.raises(LookupError):
            await library.ask(fail)
        await library.do(lambda: library.add("a title"))
        assert await library.ask(library.books) == 1


async def test_an_unsupported_isolation_level_is_refused(library):
    library.isolation = "READ UNCOMMITTED"
    with pytest.raises(MisuseError, match="isolation level"):
        await library.ask(library.books)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
async def test_a_changed_object_fails_the_query_and_a_read_object_stays_usable(library):
    async def change() -> None:
        (await book()).pages = 12

    async def book() -> Book:
        found = await library.unit_of_work.session.get(Book, "a title")
        assert isinstance(found, Book)
        return found

    await library.do(lambda: library.add("a title"))
    with pytest.raises(NoUnitOfWorkError, match="answered in a read-only transaction"):
        await library.ask(change)
    assert (await library.ask(book)).pages == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_read_committed_gives_each_statement_of_a_query_its_own_snapshot_on_postgresql(library):
    library.isolation = "READ COMMITTED"

    async def look() -> tuple[int, int]:
        before = await library.books()
        await library.do(lambda: library.add("meanwhile"), mode=TransactionMode.NEW)
        return before, await library.books()

    assert await library.ask(look) == (0, 1)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_postgresql_knows_that_the_transaction_is_read_only(library):
    async def look() -> Any:
        session = library.unit_of_work.session
        level = await session.scalar(text("SHOW transaction_isolation"))
        return level, await session.scalar(text("SHOW transaction_read_only"))

    assert await library.ask(look) == ("repeatable read", "on")
