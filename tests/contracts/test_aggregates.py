"""Aggregates: recorded events are published once in the transaction, or not at all; in memory, SQLite and PostgreSQL."""

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mediator import (
    AggregateRoot,
    Command,
    Concurrent,
    DistributedEvent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    Mediator,
    Notification,
    NotificationHandler,
    PipelineBehavior,
    RequestHandler,
    TransactionMode,
    UnitOfWork,
    current_context,
    current_scope,
    current_unit_of_work,
)
from mediator.binding import Binding
from mediator.distributed.outbox import Outbox
from mediator.errors import DispatchDepthError, MisuseError, NoUnitOfWorkError, RolledBackError
from mediator.registry import Registry
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, create_schema, open_engine
from mediator.testing import InMemoryDatabase, InMemoryOutbox, InMemoryUnitOfWork


@dataclass(frozen=True, slots=True)
class Enrolled(Notification):
    name: str


@dataclass(frozen=True, slots=True)
class Renamed(Notification):
    name: str
    then: str = ""


@dataclass(frozen=True, slots=True)
class Announced(DistributedEvent):
    event_type: ClassVar[str] = "school.announced"
    name: str


class Base(DeclarativeBase):
    pass


class Student(AggregateRoot, Base):
    __tablename__ = "students"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]

    def rename(self, name: str, then: str = "") -> None:
        self.name = name
        self.record(Renamed(name, then))


def enrolled(name: str) -> Student:
    student = Student(name=name)
    student.record(Enrolled(name))
    return student


@dataclass(frozen=True, slots=True)
class Do(Command[Any]):
    action: Callable[[], Awaitable[Any]]


@dataclass(eq=False)
class School:
    """An application. `log` has the events that its handlers received."""

    make: Callable[..., UnitOfWork]
    outbox: Outbox
    add: Callable[[UnitOfWork, Student], None]
    stored: Callable[[], Awaitable[list[str]]]
    log: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    on: dict[type, Callable[[Any], Awaitable[Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        handlers = [
            Binding(_Do, _Do, "do", RequestHandler),
            Binding(lambda: _Listen(self), _Listen, "listen", NotificationHandler),
        ]
        behavior = Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
        self.mediator = Mediator(Registry(handlers, [behavior]), max_depth=7)

    @property
    def unit_of_work(self) -> UnitOfWork:
        instances = current_scope().instances
        if self not in instances:
            created = instances[self] = self.make(**self.settings)
            if isinstance(created, SqlAlchemyUnitOfWork):
                current_scope().on_exit(lambda _: created.aclose())
        found: UnitOfWork = instances[self]
        return found

    @property
    def events(self) -> DistributedEventBroker:
        return DistributedEventBroker(self.unit_of_work)

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        return DistributedUnitOfWorkBehavior(self.unit_of_work, self.events, self.outbox)

    def save(self, student: Student) -> Student:
        self.add(self.unit_of_work, student)
        return student

    async def do(self, action: Callable[[], Awaitable[Any]], **options: Any) -> Any:
        return await self.mediator.send(Do(action), **options)

    async def announced(self) -> list[str]:
        async with self.outbox.claim(100) as batch:
            return [event.data.decode() for event in batch.events]


class _Do(RequestHandler[Do, Any]):
    async def handle(self, command: Do) -> Any:
        return await command.action()


class _Listen(NotificationHandler[Enrolled | Renamed]):
    def __init__(self, school: School) -> None:
        self._school = school

    async def handle(self, event: Enrolled | Renamed) -> None:
        self._school.log.append(f"{type(event).__name__} {event.name}")
        if type(event) in self._school.on:
            await self._school.on[type(event)](event)


@asynccontextmanager
async def in_memory() -> AsyncIterator[School]:
    database = InMemoryDatabase()

    def add(unit_of_work: UnitOfWork, student: Student) -> None:
        assert isinstance(unit_of_work, InMemoryUnitOfWork)
        unit_of_work.table("students")[student.name] = student.name
        unit_of_work.track(student)

    async def stored() -> list[str]:
        return sorted(database.tables.get("students", {}))

    yield School(partial(InMemoryUnitOfWork, database), InMemoryOutbox(database), add, stored)


@asynccontextmanager
async def in_database(url: str) -> AsyncIterator[School]:
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        def add(unit_of_work: UnitOfWork, student: Student) -> None:
            assert isinstance(unit_of_work, SqlAlchemyUnitOfWork)
            unit_of_work.session.add(student)

        async def stored() -> list[str]:
            async with engine.connect() as connection:
                return sorted(await connection.scalars(select(Student.name)))

        yield School(partial(SqlAlchemyUnitOfWork, engine), SqlAlchemyOutbox(engine), add, stored)


@pytest.fixture
async def school(database: str | None) -> AsyncIterator[School]:
    async with in_memory() if database is None else in_database(database) as made:
        yield made


async def test_recorded_events_of_all_aggregates_are_published_once_in_order_in_the_transaction(school):
    seen: list[Any] = []

    async def look(event: Enrolled) -> None:
        seen.append((current_unit_of_work().transaction_id, await school.stored()))
        school.events.add(Announced(event.name))

    school.on[Enrolled] = look

    async def work() -> str:
        ada, carl = enrolled("Ada"), enrolled("Carl")
        school.save(carl).rename("Karl")
        school.save(ada).rename("Eda")
        carl.rename("Carl")
        assert school.log == []
        return current_unit_of_work().transaction_id

    transaction_id = await school.do(work)

    assert school.log == ["Enrolled Ada", "Enrolled Carl", "Renamed Karl", "Renamed Eda", "Renamed Carl"]
    assert seen == [(transaction_id, []), (transaction_id, [])]
    assert await school.announced() == ['{"name":"Ada"}', '{"name":"Carl"}']


async def test_handlers_may_record_more_events_and_all_are_published(school):
    async def go_on(event: Renamed) -> None:
        if event.then:
            school.save(enrolled(event.then))

    async def welcome(event: Enrolled) -> None:
        if event.name == "Bob":
            school.save(Student(name="Dan")).rename("Don")

    school.on |= {Renamed: go_on, Enrolled: welcome}

    async def work() -> None:
        ada = school.save(Student(name="Ada"))
        ada.rename("Ada", then="Bob")
        ada.rename("Ada", then="Carl")

    await school.do(work)

    assert school.log == ["Renamed Ada", "Renamed Ada", "Enrolled Bob", "Enrolled Carl", "Renamed Don"]


async def test_an_error_of_an_event_handler_fails_the_command_and_leaves_no_event(school):
    async def fail(event: Renamed) -> None:
        raise LookupError(event.name)

    school.on[Renamed] = fail
    kept: list[Student] = []

    async def work() -> None:
        kept.append(school.save(enrolled("Ada")))
        kept[0].rename("Eda")
        kept[0].rename("Ida")
        school.events.add(Announced("Ada"))

    with pytest.raises(LookupError, match="Eda"):
        await school.do(work)
    assert school.log == ["Enrolled Ada", "Renamed Eda"]
    assert (await school.stored(), await school.announced(), kept[0].recorded_events) == ([], [], ())

    school.log.clear()

    async def again() -> None:
        school.save(kept[0])

    await school.do(again)
    assert school.log == []


async def test_events_of_a_failed_command_are_not_published_later_by_an_aggregate_that_was_kept(school):
    async with school.mediator.scope():
        ada = Student(name="Ada")

        async def work() -> None:
            school.save(ada).rename("Eda")
            raise LookupError

        with pytest.raises(LookupError):
            await school.do(work)

        async def again() -> None:
            school.save(ada).rename("Ida")

        await school.do(again)
    assert school.log == ["Renamed Ida"]


async def test_a_savepoint_that_is_rolled_back_discards_its_events(school):
    async def work() -> None:
        ada = school.save(enrolled("Ada"))

        async def inner() -> None:
            ada.rename("Eda")
            school.save(enrolled("Carl"))
            raise LookupError

        async def good() -> None:
            school.save(enrolled("Dan"))

        with pytest.raises(LookupError):
            await school.do(inner, mode=TransactionMode.NESTED)
        await school.do(good, mode=TransactionMode.NESTED)
        school.save(enrolled("Eve"))

    await school.do(work)

    assert school.log == ["Enrolled Ada", "Enrolled Dan", "Enrolled Eve"]


async def test_a_rolled_back_savepoint_inside_an_event_handler_discards_its_events(school):
    async def nest(event: Enrolled) -> None:
        async def inner() -> None:
            school.save(Student(name="Carl")).rename("Karl")
            raise LookupError

        school.save(Student(name="Dan")).rename("Don")
        with pytest.raises(LookupError):
            await school.do(inner, mode=TransactionMode.NESTED)

    school.on[Enrolled] = nest

    async def work() -> None:
        school.save(enrolled("Ada")).rename("Eda")

    await school.do(work)

    assert school.log == ["Enrolled Ada", "Renamed Eda", "Renamed Don"]


async def test_a_joined_command_publishes_nothing_before_the_outermost_command_ends(school):
    async def inner() -> None:
        school.save(enrolled("Ada"))

    async def work() -> None:
        await school.do(inner)
        school.log.append("after the inner command")

    await school.do(work)

    assert school.log == ["after the inner command", "Enrolled Ada"]


async def test_a_new_transaction_publishes_only_its_own_events(school):
    async def inner() -> None:
        school.save(enrolled("Carl"))

    async def work() -> None:
        ada = enrolled("Ada")
        await school.do(inner, mode=TransactionMode.NEW)
        school.save(ada)
        raise LookupError

    with pytest.raises(LookupError):
        await school.do(work)
    assert school.log == ["Enrolled Carl"]
    assert await school.stored() == ["Carl"]


async def test_a_unit_of_work_opened_by_hand_publishes_recorded_events_too(school):
    async with school.mediator.scope():
        async with school.unit_of_work:
            school.save(enrolled("Ada"))
        async with school.unit_of_work:
            school.save(enrolled("Carl"))
            assert school.log == ["Enrolled Ada"]
        with pytest.raises(LookupError):
            async with school.unit_of_work:
                school.save(enrolled("Dan"))
                raise LookupError

    assert school.log == ["Enrolled Ada", "Enrolled Carl"]
    assert await school.stored() == ["Ada", "Carl"]


async def test_a_cycle_of_events_is_refused_and_the_error_names_the_events(school):
    async def once_more(event: Renamed) -> None:
        school.save(enrolled("Ada"))

    async def and_back(event: Enrolled) -> None:
        school.save(Student(name="Ada")).rename("Eda")

    school.on |= {Renamed: once_more, Enrolled: and_back}

    async def work() -> None:
        school.save(enrolled("Ada"))

    with pytest.raises(DispatchDepthError, match="Renamed -> Enrolled -> Renamed") as caught:
        await school.do(work)
    assert isinstance(caught.value, DispatchDepthError)
    assert (caught.value.limit, len(caught.value.path), await school.stored()) == (7, 8, [])


def branching(school: School) -> list[int]:
    """Let the handler of each event record two more events. Return a list with the count of handled events."""
    handled = [0]
    school.mediator.max_depth = 50

    async def twice_more(event: Renamed) -> None:
        handled[0] += 1
        assert handled[0] < 20_000
        begin_branching(2)

    school.on[Renamed] = twice_more
    return handled


def begin_branching(times: int = 1) -> None:
    current_unit_of_work().track(ada := Student(name="Ada"))
    for _ in range(times):
        ada.rename("Eda")


async def test_a_branching_cycle_of_events_is_refused_before_it_is_deep_and_the_error_names_the_events(school):
    school.settings["max_domain_events"] = 100
    handled = branching(school)

    async def work() -> None:
        begin_branching()

    with pytest.raises(DispatchDepthError, match="Renamed -> Renamed.*without end") as caught:
        await school.do(work)
    assert (caught.value.limit, caught.value.cycle, await school.stored()) == (100, ["Renamed"], [])
    assert handled[0] <= 50


async def test_a_command_may_cause_no_more_events_than_the_limit(school):
    school.settings["max_domain_events"] = 3

    async def work(count: int) -> None:
        for number in range(count):
            school.save(enrolled(f"{count}.{number}"))

    with pytest.raises(DispatchDepthError, match=r"max_domain_events \(3\): Enrolled\. ") as caught:
        await school.do(lambda: work(4))
    assert (caught.value.cycle, school.log) == ([], [])
    await school.do(lambda: work(3))
    await school.do(lambda: work(3 - 1))
    assert len(school.log) == 5


async def test_events_of_a_rolled_back_savepoint_do_not_count_towards_the_limit(school):
    school.settings["max_domain_events"] = 1

    async def fail() -> None:
        for _ in range(5):
            school.save(enrolled("Carl"))
        raise LookupError

    async def work() -> None:
        with pytest.raises(LookupError):
            await school.do(fail, mode=TransactionMode.NESTED)
        school.save(enrolled("Ada"))

    await school.do(work)
    assert school.log == ["Enrolled Ada"]


async def test_the_default_limit_is_10_000_events(school):
    handled = branching(school)

    async def work() -> None:
        begin_branching()

    with pytest.raises(DispatchDepthError, match=r"max_domain_events \(10,000\)"):
        await school.do(work)
    assert handled[0] <= 5_000


async def test_a_command_can_be_cancelled_although_its_event_handlers_never_yield(school):
    school.settings["max_domain_events"] = None
    handled = branching(school)

    async def work() -> None:
        begin_branching()
        asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.create_task(school.do(work))
    await asyncio.wait({task})
    assert task.cancelled()
    assert handled[0] < 1_000


async def test_an_aggregate_that_is_never_saved_publishes_nothing(school):
    async def work() -> tuple[Notification, ...]:
        return enrolled("Ada").recorded_events

    assert await school.do(work) == (Enrolled("Ada"),)
    assert school.log == []


async def test_the_cause_of_a_recorded_event_is_the_message_that_was_being_handled(school):
    contexts: dict[str, Any] = {}

    async def inner() -> None:
        contexts["inner"] = current_context()
        school.save(enrolled("Ada"))

    async def look(event: Enrolled) -> None:
        contexts["event"] = current_context()

    school.on[Enrolled] = look

    await school.do(lambda: school.do(inner))

    assert contexts["event"].causation_id == contexts["inner"].message_id
    assert contexts["event"].correlation_id == contexts["inner"].correlation_id


async def test_a_strategy_unfit_for_transactions_is_refused_like_in_any_publish(school):
    @dataclass(frozen=True, slots=True)
    class Broadcast(Notification):
        publish_strategy: ClassVar[Any] = Concurrent()

    async def work() -> None:
        school.save(Student(name="Ada")).record(Broadcast())

    with pytest.raises(MisuseError, match="with this strategy inside a unit of work"):
        await school.do(work)
    assert await school.stored() == []


async def test_a_command_that_swallows_an_error_publishes_nothing(school):
    async def inner() -> None:
        raise LookupError

    async def work() -> None:
        school.save(enrolled("Ada"))
        with pytest.raises(LookupError):
            await school.do(inner)

    with pytest.raises(RolledBackError):
        await school.do(work)
    assert school.log == []


async def test_an_aggregate_tracked_by_hand_is_tracked_until_the_transaction_ends(school):
    @dataclass(slots=True)
    class Plain(AggregateRoot):
        name: str

    ada = Plain("Ada")
    ada.record(Enrolled("before"))

    async def work() -> None:
        current_unit_of_work().track(ada)
        ada.record(Enrolled("inside"))
        assert ada.recorded_events == ()

    async with school.mediator.scope():
        await school.do(work)
        ada.record(Enrolled("after"))
        await school.do(lambda: school.do(nothing))
        with pytest.raises(NoUnitOfWorkError, match="Plain"):
            school.unit_of_work.track(ada)
    assert school.log == ["Enrolled before", "Enrolled inside"]
    assert ada.recorded_events == (Enrolled("after"),)


async def nothing() -> None:
    pass


def test_only_notifications_can_be_recorded():
    with pytest.raises(MisuseError, match="DistributedEventBroker"):
        Student(name="Ada").record(Announced("Ada"))  # type: ignore[arg-type]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
async def test_a_copy_of_an_aggregate_does_not_publish_the_events_of_the_original(copied):
    async with in_memory() as school:

        async def work() -> None:
            ada = enrolled("Ada")
            current_unit_of_work().track(copied(ada))
            current_unit_of_work().track(ada)

        await school.do(work)
    assert school.log == ["Enrolled Ada"]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12))
async def test_events_are_published_in_the_order_of_recording_across_aggregates(steps):
    async with in_memory() as school:

        async def work() -> None:
            students = [Student(name=str(number)) for number in range(4)]
            for number, (which, saves) in enumerate(steps):
                students[which].rename(str(number))
                if saves:
                    current_unit_of_work().track(students[which])
            for student in students:
                current_unit_of_work().track(student)

        await school.do(work)
    assert school.log == [f"Renamed {number}" for number in range(len(steps))]
