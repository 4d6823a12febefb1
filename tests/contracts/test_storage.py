"""Unit of work, outbox and inbox: the same promises in memory, in SQLite and in PostgreSQL."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import text

from mediator import (
    Binding,
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    Mediator,
    Outcome,
    PipelineBehavior,
    Registry,
    RequestHandler,
    TransactionMode,
    UnitOfWork,
    current_scope,
    current_unit_of_work,
)
from mediator.distributed.inbox import Admission, Inbox
from mediator.distributed.outbox import Outbox
from mediator.distributed.parking import Parking
from mediator.errors import (
    EventNotSerializableError,
    IsolationNotSupportedError,
    UnitOfWorkMismatchError,
    UnitOfWorkRolledBackError,
)
from mediator.sqlalchemy import (
    SqlAlchemyInbox,
    SqlAlchemyOutbox,
    SqlAlchemyParking,
    SqlAlchemyUnitOfWork,
    create_schema,
    open_engine,
)
from mediator.testing import InMemoryDatabase, InMemoryInbox, InMemoryOutbox, InMemoryParking, InMemoryUnitOfWork
from tests.postgres import PostgresServer


@dataclass(frozen=True, slots=True)
class Written(DistributedEvent):
    event_type: ClassVar[str] = "contract.written"
    text: str
    key: str | None = None

    @property
    def partition_key(self) -> str | None:
        return self.key


@dataclass(frozen=True, slots=True)
class Do(Command[Any]):
    action: Callable[["Storage"], Any]


@dataclass
class Storage:
    """An application on one storage."""

    make: Callable[..., UnitOfWork]
    outbox: Outbox
    inbox: Inbox
    parking: Parking
    write: Callable[[str], Any]
    read: Callable[[], Any]

    def __post_init__(self) -> None:
        handler = Binding(lambda: _Do(self), _Do, "do", RequestHandler)
        behavior = Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
        self.mediator = Mediator(Registry([handler], [behavior]))

    def __hash__(self) -> int:
        return id(self)

    @property
    def unit_of_work(self) -> UnitOfWork:
        instances = current_scope().instances
        if self not in instances:
            created = instances[self] = self.make()
            if isinstance(created, SqlAlchemyUnitOfWork):
                current_scope().on_exit(lambda _: created.aclose())
        found: UnitOfWork = instances[self]
        return found

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        unit_of_work = self.unit_of_work
        return DistributedUnitOfWorkBehavior(unit_of_work, DistributedEventBroker(unit_of_work), self.outbox)

    def add(self, *events: DistributedEvent) -> None:
        for event in events:
            DistributedEventBroker(self.unit_of_work).add(event)

    async def do(self, action: Callable[["Storage"], Any], **options: Any) -> Any:
        return await self.mediator.send(Do(action), **options)

    async def waiting(self, limit: int = 100, **options: Any) -> list[str]:
        async with self.outbox.claim(limit, **options) as batch:
            return [event.data.decode() for event in batch.events]


class _Do(RequestHandler[Do, Any]):
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def handle(self, command: Do) -> Any:
        return await command.action(self._storage)


@asynccontextmanager
async def in_memory() -> AsyncIterator[Storage]:
    database = InMemoryDatabase()

    async def write(row: str) -> None:
        unit_of_work = current_unit_of_work()
        assert isinstance(unit_of_work, InMemoryUnitOfWork)
        unit_of_work.table("entries")[row] = row

    async def read() -> list[str]:
        return sorted(database.tables.get("entries", {}))

    yield Storage(
        lambda **options: InMemoryUnitOfWork(database, **options),
        InMemoryOutbox(database),
        InMemoryInbox(database),
        InMemoryParking(database),
        write,
        read,
    )


@asynccontextmanager
async def in_database(url: str) -> AsyncIterator[Storage]:
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE entries (text TEXT)"))

        async def write(row: str) -> None:
            unit_of_work = current_unit_of_work()
            assert isinstance(unit_of_work, SqlAlchemyUnitOfWork)
            await unit_of_work.session.execute(text("INSERT INTO entries VALUES (:text)"), {"text": row})

        async def read() -> list[str]:
            async with engine.connect() as connection:
                return sorted(row.text for row in await connection.execute(text("SELECT text FROM entries")))

        yield Storage(
            lambda **options: SqlAlchemyUnitOfWork(engine, **options),
            SqlAlchemyOutbox(engine),
            SqlAlchemyInbox(engine),
            SqlAlchemyParking(engine),
            write,
            read,
        )


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            opening = in_memory()
        elif request.param == "sqlite":
            opening = in_database(f"sqlite:///{tmp_path}/contract.db")
        else:
            server: PostgresServer = request.getfixturevalue("postgres")
            opening = in_database(await stack.enter_async_context(server.database()))
        yield await stack.enter_async_context(opening)


def writing(row: str, *, fails: bool = False) -> Callable[[Storage], Any]:
    async def action(storage: Storage) -> str:
        await storage.write(row)
        storage.add(Written(row))
        if fails:
            raise LookupError(row)
        return row

    return action


def data(*rows: str) -> list[str]:
    return [f'{{"text":"{row}","key":null}}' for row in rows]


async def test_rows_and_events_are_there_after_the_commit_and_not_before(storage: Storage):
    async def action(storage: Storage) -> None:
        await writing("a")(storage)
        assert (await storage.read(), await storage.waiting()) == ([], [])

    await storage.do(action)
    assert (await storage.read(), await storage.waiting()) == (["a"], data("a"))


async def test_a_rollback_leaves_neither(storage: Storage):
    async with storage.mediator.scope() as scope:
        with pytest.raises(LookupError):
            await storage.do(writing("a", fails=True))
        assert scope.outcome is Outcome.ROLLED_BACK
        assert await storage.do(writing("b")) == "b"
        assert scope.outcome is Outcome.COMMITTED
    assert (await storage.read(), await storage.waiting()) == (["b"], data("b"))


async def test_a_rollback_to_a_savepoint_undoes_what_came_after_it(storage: Storage):
    async def action(storage: Storage) -> None:
        await writing("before")(storage)
        with pytest.raises(LookupError):
            await storage.do(writing("inner", fails=True), mode=TransactionMode.NESTED)
        await storage.do(writing("kept"), mode=TransactionMode.NESTED)
        await writing("after")(storage)

    await storage.do(action)
    assert await storage.read() == ["after", "before", "kept"]
    assert await storage.waiting() == data("before", "kept", "after")


async def test_a_swallowed_failure_dooms_the_commit(storage: Storage):
    async def action(storage: Storage) -> None:
        with pytest.raises(LookupError):
            await storage.do(writing("inner", fails=True))

    with pytest.raises(UnitOfWorkRolledBackError):
        await storage.do(action)
    assert (await storage.read(), await storage.waiting()) == ([], [])


async def test_a_new_transaction_is_independent_of_the_outer_one(storage: Storage):
    async def action(storage: Storage) -> None:
        await storage.do(writing("new"), mode=TransactionMode.NEW)
        await writing("outer", fails=True)(storage)

    with pytest.raises(LookupError):
        await storage.do(action)
    assert (await storage.read(), await storage.waiting()) == (["new"], data("new"))


async def test_an_isolation_level_that_cannot_be_given_is_refused(storage: Storage):
    async with storage.mediator.scope():
        with pytest.raises(IsolationNotSupportedError):
            await storage.unit_of_work.begin("test", isolation="READ UNCOMMITTED")


@pytest.mark.parametrize("key", ["\0", "a\0b", "k" * 256])
async def test_a_key_that_some_database_cannot_store_fails_the_command_on_each(storage: Storage, key: str):
    async def action(storage: Storage) -> None:
        await storage.write("a")
        storage.add(Written("a", key))

    with pytest.raises(EventNotSerializableError, match="partition_key"):
        await storage.do(action)
    assert (await storage.read(), await storage.waiting()) == ([], [])


@pytest.mark.parametrize("key", ["k" * 255, "ä" * 255, "\x01'\"\\%"])
async def test_any_other_key_and_any_text_come_back_unchanged(storage: Storage, key: str):
    async def action(storage: Storage) -> None:
        storage.add(Written("\0 and \U0001f600", key))

    await storage.do(action)
    async with storage.outbox.claim(10) as batch:
        assert [event.partitionkey for event in batch.events] == [key]
        assert json.loads(batch.events[0].data)["text"] == "\0 and \U0001f600"


async def test_a_claim_gives_the_oldest_events_and_settling_takes_them_away(storage: Storage):
    for row in "abc":
        await storage.do(writing(row))
    async with storage.outbox.claim(2) as batch:
        assert [event.data.decode() for event in batch.events] == data("a", "b")
        await batch.settle([batch.events[0].id])
    assert await storage.waiting() == data("b", "c")


async def test_two_claims_at_a_time_never_give_one_event_twice(storage: Storage):
    await storage.do(writing("a"))
    async with storage.outbox.claim(10) as mine, storage.outbox.claim(10) as theirs:
        assert len(mine.events) == 1
        assert len(theirs.events) == 0
    assert await storage.waiting() == data("a")


async def test_a_commit_with_events_wakes_who_waits_and_waiting_has_an_end(storage: Storage):
    await storage.outbox.wait(0.01)
    await storage.do(writing("a"))
    async with asyncio.timeout(5):
        await storage.outbox.wait(60)
        storage.outbox.wake()
        await storage.outbox.wait(60)


async def test_an_event_is_taken_in_once_and_only_if_its_transaction_commits(storage: Storage):
    async def take(storage: Storage) -> Admission:
        return await storage.inbox.insert(storage.unit_of_work, "group", "shop", "1")

    async def take_and_fail(storage: Storage) -> None:
        assert await take(storage) is Admission.NEW
        raise LookupError

    with pytest.raises(LookupError):
        await storage.do(take_and_fail)
    assert not await storage.inbox.contains("group", "shop", "1")
    assert await storage.do(take) is Admission.NEW
    assert await storage.inbox.contains("group", "shop", "1")
    assert await storage.do(take) is Admission.DUPLICATE
    assert not await storage.inbox.contains("other", "shop", "1")
    assert await storage.inbox.clean(10) == 0


@pytest.mark.parametrize("commits", [True, False])
async def test_two_transactions_at_one_event_wait_for_each_other(storage: Storage, commits: bool):
    took, go = asyncio.Event(), asyncio.Event()

    async def first(storage: Storage) -> Admission:
        taken = await storage.inbox.insert(storage.unit_of_work, "group", "shop", "1")
        took.set()
        await go.wait()
        if not commits:
            raise LookupError
        return taken

    async def second(storage: Storage) -> Admission:
        return await storage.inbox.insert(storage.unit_of_work, "group", "shop", "1")

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        one = group.create_task(_outcome(storage.do(first)))
        await took.wait()
        two = group.create_task(_outcome(storage.do(second)))
        await asyncio.sleep(0)
        go.set()
    assert (one.result(), two.result()) == (
        (Admission.NEW, Admission.DUPLICATE) if commits else (LookupError, Admission.NEW)
    )


async def _outcome(doing: Any) -> Any:
    try:
        return await doing
    except LookupError as error:
        return type(error)


async def test_the_inbox_of_another_database_is_refused(storage: Storage):
    async def action(storage: Storage) -> None:
        with pytest.raises(UnitOfWorkMismatchError):
            await InMemoryInbox(InMemoryDatabase()).insert(storage.unit_of_work, "group", "shop", "1")

    await storage.do(action)


async def test_random_commands_at_the_same_time_leave_rows_equal_to_events(storage: Storage):
    async def one(number: int) -> None:
        await _outcome(storage.do(writing(f"{number:02}", fails=bool(number % 3))))

    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(one(number))
    rows = await storage.read()
    assert rows == [f"{number:02}" for number in range(0, 30, 3)]
    assert sorted(await storage.waiting()) == data(*rows)
