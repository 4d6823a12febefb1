"""Report: one exception lists every kind of fault of a wiring."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from dependency_injector import containers, providers

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    Query,
    RequestHandler,
)
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, validate
from mediator.errors import ContainerValidationError
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, open_engine


@dataclass(frozen=True, slots=True)
class EnrollStudent(Command[str]):
    name: str


@dataclass(frozen=True, slots=True)
class EnrolStudent(Command[str]):
    name: str


@dataclass(frozen=True, slots=True)
class CountStudents(Query[int]):
    pass


class Enroll(RequestHandler[EnrollStudent, str]):
    async def handle(self, command: EnrollStudent) -> str:
        return command.name


class EnrollAgain(Enroll):
    pass


class CountWrongly(RequestHandler[CountStudents, str]):
    async def handle(self, _query: CountStudents) -> str:
        return "many"


class ExpelStudent(Command[None]):
    pass


class ExpelSynchronously(RequestHandler[ExpelStudent, None]):
    def handle(self, _command: ExpelStudent) -> None:  # type: ignore[override]  # the fault
        pass


class Grades:
    def __init__(self, scale: int) -> None:
        self.scale = scale


class PraiseStudent(Command[None]):
    pass


class Praise(RequestHandler[PraiseStudent, None]):
    def __init__(self, grades: Grades) -> None:
        self.grades = grades

    async def handle(self, _command: PraiseStudent) -> None: ...


class Archive:
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self.unit_of_work = unit_of_work


class Chicken:
    def __init__(self, egg: Any) -> None:
        self.egg = egg


class Egg:
    def __init__(self, chicken: Any) -> None:
        self.chicken = chicken


def handler_of(event_class: type[DistributedEvent]) -> Any:
    class Handler(DistributedEventHandler[event_class]):  # type: ignore[valid-type]  # only known here
        async def handle(self, event: Any) -> None: ...

    return Handler


def faulty() -> Any:
    class Untyped(
        DistributedEvent
    ):  # local, because the other containers of this package would include top-level classes
        pass

    class Typed(DistributedEvent):
        event_type: ClassVar[str] = "university.student-expelled"

    class TypedAlike(DistributedEvent):
        event_type: ClassVar[str] = "university.student-expelled"

    class App(containers.DeclarativeContainer):
        engine = providers.Resource(open_engine, "sqlite:///never-made.db")
        unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
        distributed_events = Scoped(DistributedEventBroker, unit_of_work)
        outbox = providers.Singleton(SqlAlchemyOutbox, engine)
        transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
        stranger = providers.Factory(Grades, 6)
        mediator = MediatorProvider(behaviors=providers.List(transaction, stranger))

        enroll = providers.Factory(Enroll)
        enroll_again = providers.Factory(EnrollAgain)
        count = providers.Factory(CountWrongly)
        expel = providers.Factory(ExpelSynchronously)
        grades = providers.Factory(Grades)
        praise = providers.Factory(Praise, grades)
        archive = providers.Singleton(Archive, unit_of_work)
        chicken: Any = providers.Factory(Chicken)
        egg = providers.Factory(Egg, chicken)
        chicken.add_args(egg)
        untyped = providers.Factory(handler_of(Untyped))
        typed = providers.Factory(handler_of(Typed))
        alike = providers.Factory(handler_of(TypedAlike))

    return App()


HERE = f"{__name__}.faulty.<locals>"
REPORT = {
    ("container.mediator", f"{__name__}.EnrolStudent"): "EnrolStudent has no handler. Did you mean EnrollStudent or",
    ("container.enroll_again", "EnrollAgain"): "handles EnrollStudent, which has 2 handlers: container.enroll,",
    ("container.count", "CountWrongly"): "returns str, but CountStudents is a request for int.",
    ("container.expel", "ExpelSynchronously"): "async",
    ("container.grades", "Grades"): "missing a required argument: 'scale'",
    ("container.chicken", "Chicken"): "container.chicken -> container.egg -> container.chicken",
    ("container.archive", "Archive"): "is a Singleton, which lives as long as the application, and holds",
    ("container.stranger", "Grades"): "PipelineBehavior",
    ("container.transaction", "DistributedUnitOfWorkBehavior"): "an outbox that no relay empties",
    ("container.untyped", f"{HERE}.Untyped"): 'Declare `event_type: ClassVar[str] = "<domain>.<name>"`',
    ("container.alike", f"{HERE}.TypedAlike"): "has the type university.student-expelled.v1, and so has",
    ("container.untyped", "Handler"): "add a provider of an EventConsumer",
    ("container.typed", "Handler"): "add a provider of an EventConsumer",
    ("container.alike", "Handler"): "add a provider of an EventConsumer",
}


def test_one_report_contains_every_fault_of_the_wiring_with_its_label_and_class():
    with pytest.raises(ContainerValidationError) as caught:
        validate(faulty(), requests=[EnrolStudent, EnrollStudent])
    first, *lines = str(caught.value).splitlines()
    assert first == f"{len(REPORT)} problems in the container:"
    assert len(lines) == len(REPORT)
    for (label, subject), text in REPORT.items():
        (line,) = [line for line in lines if f" {label} ({subject}): " in line]
        assert text in line


async def test_the_lifespan_of_a_faulty_container_raises_the_same_report_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContainerValidationError) as caught:
        async with lifespan(faulty(), requests=[EnrolStudent, EnrollStudent]):
            pass
    assert len(caught.value.problems) == len(REPORT)
    assert list(tmp_path.iterdir()) == []
