"""No write is lost silently: an unsaved write is an error at the end of its scope, and the error names its class."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from mediator import (
    AggregateRoot,
    Command,
    Concurrent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    Mediator,
    Notification,
    NotificationHandler,
    PipelineBehavior,
    Query,
    ReadOnlyTransactionBehavior,
    RequestHandler,
    StreamRequest,
    StreamRequestHandler,
    TransactionMode,
    current_scope,
)
from mediator.binding import Binding
from mediator.blocking import BlockingMediator
from mediator.errors import CommittedError, MisuseError, NotStoredError, NoUnitOfWorkError
from mediator.fastapi import RequestMediator
from mediator.registry import Registry
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, create_schema, open_engine

Action = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Renamed(Notification):
    name: str


@dataclass(frozen=True, slots=True)
class Do(Command[Any]):
    action: Action


@dataclass(frozen=True, slots=True)
class Ask(Query[Any]):
    action: Action


@dataclass(frozen=True, slots=True)
class Tell(Notification):
    action: Action


@dataclass(frozen=True, slots=True)
class Watch(StreamRequest[int]):
    action: Action


class Base(DeclarativeBase):
    pass


class Student(AggregateRoot, Base):
    __tablename__ = "students"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="Ada")


class _Act(RequestHandler[Do | Ask, Any]):
    async def handle(self, message: Do | Ask) -> Any:
        return await message.action()


class _Hear(NotificationHandler[Tell]):
    async def handle(self, notification: Tell) -> None:
        await notification.action()


class _Show(StreamRequestHandler[Watch, int]):
    async def handle(self, request: Watch) -> AsyncIterator[int]:
        yield 1
        await request.action()
        yield 2


class _HearRenamed(NotificationHandler[Renamed]):
    def __init__(self, heard: list[str]) -> None:
        self._heard = heard

    async def handle(self, notification: Renamed) -> None:
        self._heard.append(notification.name)


class School:
    """An application. Its behaviors contain the transaction only if `transactional` is set."""

    def __init__(self, engine: AsyncEngine, *, transactional: bool = False, reading: bool = False) -> None:
        self.engine = engine
        self.heard: list[str] = []
        self._outbox = SqlAlchemyOutbox(engine)
        handlers = [
            Binding(lambda: _HearRenamed(self.heard), _HearRenamed, "hear_renamed", NotificationHandler),
            Binding(_Act, _Act, "act", RequestHandler),
            Binding(_Hear, _Hear, "hear", NotificationHandler),
            Binding(_Show, _Show, "show", StreamRequestHandler),
        ]
        behaviors = [Binding(self._writing, DistributedUnitOfWorkBehavior, "writing", PipelineBehavior)] * transactional
        behaviors += [Binding(self._reading, ReadOnlyTransactionBehavior, "reading", PipelineBehavior)] * reading
        self.mediator = Mediator(Registry(handlers, behaviors))

    def _writing(self) -> DistributedUnitOfWorkBehavior[Any]:
        return DistributedUnitOfWorkBehavior(self.unit_of_work, DistributedEventBroker(self.unit_of_work), self._outbox)

    def _reading(self) -> ReadOnlyTransactionBehavior[Any]:
        return ReadOnlyTransactionBehavior(self.unit_of_work)

    @property
    def unit_of_work(self) -> SqlAlchemyUnitOfWork:
        scope = current_scope()
        if self not in scope.instances:
            created = scope.instances[self] = SqlAlchemyUnitOfWork(self.engine)
            scope.on_exit(lambda _: created.aclose())
        found: SqlAlchemyUnitOfWork = scope.instances[self]
        return found

    @property
    def session(self) -> AsyncSession:
        return self.unit_of_work.session

    async def students(self) -> list[str]:
        async with self.engine.connect() as connection:
            return list(await connection.scalars(select(Student.name).order_by(Student.id)))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(url, writer_timeout=5.0) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(insert(Student).values(id=1, name="Ada"))
        yield engine


real_database = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
pytestmark = real_database


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database) as engine:
        yield engine


@pytest.fixture
def school(engine: AsyncEngine) -> School:
    return School(engine)


async def add(school: School) -> None:
    school.session.add(Student(id=2, name="Carl"))


async def change(school: School) -> None:
    (await school.session.get_one(Student, 1)).name = "Eda"


async def delete(school: School) -> None:
    await school.session.delete(await school.session.get_one(Student, 1))


async def record(school: School) -> None:
    (await school.session.get_one(Student, 1)).record(Renamed("Eda"))


WRITES = {
    add: r"Student \(new\)",
    change: r"Student \(changed\)",
    delete: r"Student \(deleted\)",
    record: r"Renamed \(recorded\)",
}
every_write = pytest.mark.parametrize("write", WRITES)


async def by_command(school: School, action: Action) -> None:
    await school.mediator.send(Do(action))


async def by_query(school: School, action: Action) -> None:
    await school.mediator.send(Ask(action))


async def suppressed(school: School, action: Action) -> None:
    transactional = School(school.engine, transactional=True)
    await transactional.mediator.send(Do(action), mode=TransactionMode.SUPPRESS)


async def by_scope(school: School, action: Action) -> None:
    async with school.mediator.scope():
        await action()


async def by_query_in_scope(school: School, action: Action) -> None:
    async with school.mediator.scope():
        await school.mediator.send(Ask(action))


async def by_notification(school: School, action: Action) -> None:
    await school.mediator.publish(Tell(action))


async def by_concurrent_notification(school: School, action: Action) -> None:
    await school.mediator.publish(Tell(action), strategy=Concurrent())


async def by_stream(school: School, action: Action) -> None:
    async with school.mediator.stream(Watch(action)) as items:
        async for _ in items:
            pass


async def by_stream_that_is_left_early(school: School, action: Action) -> None:
    async with school.mediator.stream(Watch(action)) as items:
        async for item in items:
            if item == 2:
                break


WAYS = [
    by_command,
    by_query,
    suppressed,
    by_scope,
    by_query_in_scope,
    by_notification,
    by_concurrent_notification,
    by_stream,
    by_stream_that_is_left_early,
]


@every_write
async def test_an_unsaved_write_is_an_error_for_every_way_to_write(school, write):
    for way in WAYS:
        with pytest.raises(NoUnitOfWorkError, match=f"Storing .*{WRITES[write]}"):
            await way(school, lambda: write(school))
    assert await school.students() == ["Ada"]


@every_write
async def test_a_read_only_transaction_ends_with_the_error_and_names_the_query(engine, write):
    school = School(engine, reading=True)
    with pytest.raises(NoUnitOfWorkError, match=f"{WRITES[write]}.*Ask is answered"):
        await school.mediator.send(Ask(lambda: write(school)))
    async with school.mediator.scope():
        with pytest.raises(NoUnitOfWorkError, match="answered in a read-only transaction"):
            await school.mediator.send(Ask(lambda: write(school)))
    assert await school.students() == ["Ada"]


@every_write
async def test_an_error_of_the_handler_is_not_masked(school, write):
    async def fail() -> None:
        await write(school)
        raise LookupError("the first")

    async def be_cancelled() -> None:
        await write(school)
        raise asyncio.CancelledError

    for way in WAYS:
        with pytest.raises(LookupError, match="the first"):
            await way(school, fail)
    with pytest.raises(asyncio.CancelledError):
        await by_scope(school, be_cancelled)
    reading = School(school.engine, reading=True)
    with pytest.raises(LookupError, match="the first"):
        await reading.mediator.send(Ask(fail))


async def test_an_object_changed_back_to_its_old_values_is_no_error(school):
    async def change_back() -> None:
        student = await school.session.get_one(Student, 1)
        student.name = "Eda"
        student.name = "Ada"
        assert student in school.session.dirty

    for way in WAYS:
        await way(school, change_back)


async def test_a_change_that_the_handler_rolls_back_is_no_error(school):
    async def take_back() -> None:
        await add(school)
        school.session.expunge_all()
        await change(school)
        await school.session.rollback()

    await by_query(school, take_back)


async def test_a_select_that_would_write_names_the_classes_and_the_scope_still_ends_with_the_error(school):
    async def swallow() -> None:
        await add(school)
        with pytest.raises(NoUnitOfWorkError, match=r"Student \(new\)"):
            await school.session.scalars(select(Student))
        with pytest.raises(NoUnitOfWorkError, match=r"Student \(new\)"):
            await school.session.commit()

    with pytest.raises(NoUnitOfWorkError, match=r"Student \(new\)"):
        await by_query(school, swallow)


async def test_statements_outside_a_unit_of_work_are_refused_at_once(school):
    async def run(statement: Any) -> None:
        await school.session.execute(statement)

    async def run_on_the_connection() -> None:
        await (await school.unit_of_work.connection()).execute(insert(Student).values(id=3))

    async def run_by_sync() -> None:
        await school.session.run_sync(lambda sync: sync.execute(insert(Student), [{"id": 3}, {"id": 4}]))

    statements: list[Any] = [
        insert(Student).values(id=3),
        update(Student).values(name="Eda"),
        update(Student).where(Student.id == 77).values(name="Eda"),
        text("INSERT INTO students VALUES (3, 'Carl')"),
        text("DELETE FROM students WHERE id = 77"),
        text("CREATE TABLE others (id INTEGER)"),
    ]
    for statement in statements:
        with pytest.raises(NoUnitOfWorkError):
            await by_query(school, lambda each=statement: run(each))
    for action in (run_on_the_connection, run_by_sync):
        with pytest.raises(NoUnitOfWorkError):
            await by_query(school, action)
    assert await school.students() == ["Ada"]


async def test_a_command_does_not_commit_while_another_session_of_its_scope_has_unsaved_writes(engine, tmp_path):
    school = School(engine, transactional=True)
    async with opened(f"sqlite:///{tmp_path}/other.db") as other_engine:
        other = School(other_engine)

        async def write_both() -> None:
            await add(school)
            await add(other)

        with pytest.raises(NoUnitOfWorkError, match=r"Student \(new\)"):
            await school.mediator.send(Do(write_both))
    assert await school.students() == ["Ada"]


async def test_an_event_that_was_recorded_between_two_transactions_is_published_by_the_next_one(engine):
    school = School(engine, transactional=True)

    async def load() -> Student:
        return await school.session.get_one(Student, 1)

    async with school.mediator.scope():
        student = await school.mediator.send(Do(load))
        student.record(Renamed("Eda"))
        reading = School(engine, reading=True)
        await reading.mediator.send(Ask(load))
        assert (school.heard, reading.heard) == ([], [])
        await school.mediator.send(Do(load))
    assert school.heard == ["Eda"]


@every_write
async def test_an_unsaved_write_after_a_commit_is_an_error_that_reports_both(engine, write):
    school = School(engine, transactional=True)

    async def give_answer() -> str:
        await school.session.execute(update(Student).values(name="Ida"))
        return "the answer"

    with pytest.raises(NotStoredError, match=f"committed.*{WRITES[write]}") as caught:
        async with school.mediator.scope():
            await school.mediator.send(Do(give_answer))
            await write(school)
    assert isinstance(caught.value, NoUnitOfWorkError)
    assert isinstance(caught.value, CommittedError)
    assert caught.value.response == "the answer"
    assert await school.students() == ["Ida"]


async def begin_and_write(school: School) -> None:
    await school.unit_of_work.begin("a script")
    await school.session.execute(insert(Student).values(id=3, name="Carl"))


@asynccontextmanager
async def scope_that_fails(mediator: Mediator, error: BaseException | None) -> AsyncIterator[None]:
    if error is None:
        async with mediator.scope():
            yield
        return
    with pytest.raises(type(error)):
        async with mediator.scope():
            yield
            raise error


@pytest.mark.parametrize("error", [None, LookupError("the first"), asyncio.CancelledError()])
async def test_a_transaction_that_is_left_open_is_rolled_back_with_a_warning_that_names_it(school, error):
    with capture_logs() as logs:
        async with scope_that_fails(school.mediator, error):
            await begin_and_write(school)
    (warning,) = [each for each in logs if each["log_level"] == "warning"]
    assert "left open" in warning["event"]
    assert warning["message_type"] == "a script"
    assert await school.students() == ["Ada"]
    assert school.engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    async with asyncio.timeout(5), school.mediator.scope(), school.unit_of_work:
        await add(school)
    assert await school.students() == ["Ada", "Carl"]


async def test_a_transaction_that_is_left_open_before_its_first_statement_is_rolled_back_too(school):
    with capture_logs() as logs:
        async with school.mediator.scope() as scope:
            await school.unit_of_work.begin("a script")
    assert scope.transaction is None
    assert [each["message_type"] for each in logs if each["log_level"] == "warning"] == ["a script"]


async def test_unsaved_changes_in_a_transaction_left_open_are_an_error(school):
    for write in (add, change, delete, record):
        with pytest.raises(NoUnitOfWorkError, match=WRITES[write]):
            async with school.mediator.scope():
                await school.unit_of_work.begin("a script")
                await write(school)
    assert await school.students() == ["Ada"]


async def test_a_transaction_left_open_by_a_cancelled_task_releases_its_connection_and_locks(school):
    begun = asyncio.Event()

    async def work() -> None:
        async with school.mediator.scope():
            await begin_and_write(school)
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    async with asyncio.timeout(5), school.mediator.scope(), school.unit_of_work:
        await add(school)


@pytest.mark.filterwarnings(f"ignore::{SAWarning.__module__}.SAWarning")
async def test_a_handler_cannot_commit_a_part_of_its_command_on_the_connection(engine):
    school = School(engine, transactional=True)

    async def commit_connection() -> None:
        await add(school)
        await school.session.flush()
        await (await school.unit_of_work.connection()).commit()

    async def commit_and_swallow() -> None:
        with pytest.raises(MisuseError, match="was called inside unit of work"):
            await commit_connection()

    async def commit_transaction() -> None:
        connection = await school.session.connection()
        await connection.execute(insert(Student).values(id=3))
        transaction = connection.get_transaction()
        assert transaction is not None
        await transaction.commit()

    for action in (commit_connection, commit_transaction):
        with pytest.raises(MisuseError, match="was called inside unit of work"):
            await school.mediator.send(Do(action))
    with pytest.raises(Exception, match=r"commit|inactive"):
        await school.mediator.send(Do(commit_and_swallow))
    assert await school.students() == ["Ada"]
    await school.mediator.send(Do(lambda: add(school)))
    assert await school.students() == ["Ada", "Carl"]


def test_a_blocking_call_raises_the_error(database: str | None):
    if database is None:
        return
    engine: list[AsyncEngine] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with opened(database) as made:
            engine.append(made)
            yield

    school = School.__new__(School)
    handlers = [Binding(_Act, _Act, "act", RequestHandler)]
    school.mediator = Mediator(Registry(handlers))
    with BlockingMediator(school.mediator, lifespan()) as blocking:
        school.engine = engine[0]
        with pytest.raises(NoUnitOfWorkError, match="Student"):
            blocking.send(Ask(lambda: add(school)))


def test_a_web_request_fails_with_the_error(database: str | None):
    school = School.__new__(School)

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[dict[str, Mediator]]:
        assert database is not None
        async with opened(database) as engine:
            School.__init__(school, engine)
            yield {"mediator": school.mediator}

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def endpoint(mediator: RequestMediator) -> str:
        await mediator.send(Ask(lambda: add(school)))
        return "done"

    with TestClient(app) as client, pytest.raises(NoUnitOfWorkError, match="Student"):
        client.get("/")
