"""Plain functions as handlers."""

import inspect
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import pytest
from dependency_injector import containers, providers

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventHandler,
    Notification,
    NotificationHandler,
    PipelineBehavior,
    Query,
    RequestHandler,
    StreamRequest,
    as_handler,
    as_sync_handler,
)
from mediator.dependency_injector import MediatorProvider, lifespan, validate
from mediator.errors import ContainerError, ContainerValidationError, HandlerNotFoundError
from mediator.handlers import type_arguments
from tests.unit.samples import CountStudents, EnrollStudent, StudentChanged, StudentEnrolled
from tests.unit.wiring import wire

T = TypeVar("T")


class Students:
    def __init__(self) -> None:
        self.names: list[str] = []


@dataclass(frozen=True, slots=True)
class ListNames(StreamRequest[str]):
    pass


class NamesListed(DistributedEvent):
    event_type = "university.names-listed"


async def enroll(command: EnrollStudent, students: Students, *, suffix: str = "") -> str:
    """Enroll a student."""
    students.names.append(command.name)
    return command.name + suffix


def count(_query: CountStudents, students: Students) -> int:
    return len(students.names)


async def greet(notification: StudentChanged, students: Students) -> None:
    students.names.append(f"hello {notification.name}")


async def names(_request: ListNames, students: Students) -> AsyncIterator[str]:
    for name in students.names:
        yield name


async def record(event: NamesListed) -> None:
    raise AssertionError(event)


class App(containers.DeclarativeContainer):
    students = providers.Singleton(Students)
    mediator = MediatorProvider()
    enroll = providers.Factory(as_handler(enroll), students, suffix="!")
    count = providers.Factory(as_sync_handler(count), students)
    greet = providers.Factory(as_handler(greet), students=students)
    names = providers.Factory(as_handler(names), students)


async def test_functions_handle_messages_with_arguments_from_their_providers():
    async with lifespan(App(), requests=[EnrollStudent, CountStudents, ListNames]) as container:
        mediator = container.mediator()
        assert await mediator.send(EnrollStudent("Ada")) == "Ada!"
        assert await mediator.send(CountStudents()) == 1
        await mediator.publish(StudentEnrolled("Bob"))
        async with mediator.stream(ListNames()) as items:
            assert [item async for item in items] == ["Ada", "hello Bob"]
        assert mediator.describe(EnrollStudent).splitlines()[1].split() == ["handler:", "enroll", "container.enroll"]


@pytest.mark.parametrize(
    ("function", "kind", "arguments"),
    [
        (as_handler(enroll), RequestHandler, (EnrollStudent, str)),
        (as_sync_handler(count), RequestHandler, (CountStudents, int)),
        (as_handler(greet), NotificationHandler, (StudentChanged,)),
        (as_handler(record), DistributedEventHandler, (NamesListed,)),
    ],
)
def test_a_function_makes_a_handler_class_of_its_kind(function: Any, kind: type, arguments: Any):
    assert issubclass(function, kind)
    assert type_arguments(function, kind) == arguments


def test_the_handler_class_has_the_names_of_the_function_and_the_function_is_unchanged():
    made: Any = as_handler(enroll)
    assert (made.__name__, made.__doc__, made.__module__) == ("enroll", "Enroll a student.", __name__)
    assert list(inspect.signature(made).parameters) == ["students", "suffix"]
    assert inspect.iscoroutinefunction(enroll)


async def test_wrong_arguments_are_reported_when_the_container_is_validated():
    class Faulty(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        enroll = providers.Factory(as_handler(enroll))
        count = providers.Factory(as_sync_handler(count), providers.Factory(dict))

    with pytest.raises(ContainerValidationError) as caught:
        validate(Faulty())
    first, second = caught.value.problems
    assert (first.label, first.subject) == ("container.enroll", "enroll")
    assert "missing a required argument: 'students'" in first.text
    assert (second.label, second.text.split(",")[0]) == ("container.count", "needs a Students as 'students'")


async def test_wrong_arguments_are_refused_when_the_handler_is_constructed():
    with pytest.raises(TypeError, match="students"):
        as_handler(enroll)()  # type: ignore[call-arg]


async def test_a_function_may_handle_several_messages():
    async def either(message: EnrollStudent | Rename) -> str:
        return type(message).__name__

    mediator = wire(as_handler(either))
    assert await mediator.send(EnrollStudent()) == "EnrollStudent"
    assert await mediator.send(Rename()) == "Rename"


class Rename(Command[str]):
    pass


def no_annotation(message) -> None: ...


def no_message(message: int) -> None: ...


def nothing() -> None: ...


def keywords(*, message: EnrollStudent) -> None: ...


async def waits(message: EnrollStudent) -> str:
    return message.name


async def yields(message: EnrollStudent) -> AsyncIterator[str]:
    yield message.name


async def unresolvable(message: "Unknown") -> str:  # type: ignore[name-defined]  # noqa: F821  # the fault
    return message.name


def misspelt(message: "EnrollStudent[") -> None: ...  # type: ignore[valid-type]  # noqa: F722  # the fault


class Callable:
    async def __call__(self, message: EnrollStudent) -> str:
        return message.name


async def returns(request: ListNames) -> list[str]:
    return []


def streams(request: ListNames) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("make", "function", "text"),
    [
        (as_sync_handler, no_annotation, "not annotated with a message class"),
        (as_sync_handler, no_message, "not annotated with a message class"),
        (as_sync_handler, nothing, "takes no message"),
        (as_sync_handler, keywords, "takes no message"),
        (as_sync_handler, waits, "is async; make a handler of it with `as_handler`"),
        (as_handler, count, "is not async; make a handler of it with `as_sync_handler`"),
        (as_handler, yields, "has a `yield`"),
        (as_handler, returns, "has no `yield`"),
        (as_sync_handler, streams, "must be an async generator"),
        (
            as_handler,
            unresolvable,
            "unresolvable cannot be resolved: name 'Unknown' is not defined.*imported at run time",
        ),
        (as_sync_handler, misspelt, "misspelt cannot be resolved"),
        (as_handler, partial(waits), r"A partial of waits is no function.*providers\.Factory\(as_handler"),
        (as_sync_handler, partial(count), "A partial of count is no function"),
        (as_handler, Callable(), "is no function. Write a function, or derive a class from RequestHandler"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused_at_once(make: Any, function: Any, text: str):
    with pytest.raises(ContainerError, match=text):
        make(function)


# Requests with base classes.


class Change(Command[str]):
    pass


class ChangeName(Change):
    pass


class ChangeFirstName(ChangeName):
    pass


async def test_a_request_goes_to_its_own_handler_or_to_the_handler_of_its_nearest_base():
    def answering(message: Any, answer: str) -> Any:
        class Answering(RequestHandler[message, str]):
            async def handle(self, request: Any) -> str:
                return f"{answer} {type(request).__name__}"

        return Answering

    mediator = wire(answering(Change, "change"), answering(ChangeName, "name"))
    assert await mediator.send(Change()) == "change Change"
    assert await mediator.send(ChangeName()) == "name ChangeName"
    assert await mediator.send(ChangeFirstName()) == "name ChangeFirstName"
    everything = wire(answering(Command[Any], "any"), answering(Query[Any] | Change, "other"))
    assert await everything.send(Rename()) == "any Rename"
    assert await everything.send(ChangeName()) == "other ChangeName"


async def test_a_handler_of_a_generic_request_serves_the_classes_with_its_arguments_only():
    class Create(Command[str], Generic[T]):
        pass

    class CreateStudent(Create[int]):
        pass

    class CreateCourse(Create[str]):
        pass

    class Students(RequestHandler[Create[int] | Rename, str]):
        async def handle(self, request: Any) -> str:
            return "students"

    class Others(RequestHandler[Create[Any], str]):
        async def handle(self, request: Any) -> str:
            return "others"

    students = wire(Students)
    assert await students.send(CreateStudent()) == "students"
    with pytest.raises(HandlerNotFoundError):
        await students.send(CreateCourse())
    both = wire(Students, Others)
    assert [await both.send(CreateStudent()), await both.send(CreateCourse())] == ["students", "others"]


Thing = TypeVar("Thing")


class Add(Command[str], Generic[Thing]):
    pass


class AddAnimal(Add[int]):
    pass


class AddPuppy(Add[bool]):
    pass


class AddCourse(Add[str]):
    pass


class Added(Notification, Generic[Thing]):
    pass


class PuppyAdded(Added[bool]):
    pass


class CourseAdded(Added[str]):
    pass


class AnyAdder(RequestHandler[Add[Any], str]):
    async def handle(self, request: Any) -> str:
        return "any"


class AnimalAdder(RequestHandler[Add[int], str]):
    async def handle(self, request: Any) -> str:
        return "animal"


class PuppyAdder(RequestHandler[Add[bool], str]):
    async def handle(self, request: Any) -> str:
        return "puppy"


class Adders(containers.DeclarativeContainer):
    mediator = MediatorProvider()
    anything = providers.Factory(AnyAdder)
    animal = providers.Factory(AnimalAdder)
    puppy = providers.Factory(PuppyAdder)


async def test_the_handler_with_the_nearest_type_arguments_handles_a_generic_request():
    async with lifespan(Adders(), requests=[AddAnimal, AddPuppy, AddCourse]) as container:
        send = container.mediator().send
        answers = [await send(AddAnimal()), await send(AddPuppy()), await send(AddCourse())]
    assert answers == ["animal", "puppy", "any"]


def test_two_handlers_of_a_generic_request_with_the_same_type_arguments_are_refused():
    class Twins(Adders):
        another = providers.Factory(PuppyAdder)

    with pytest.raises(ContainerValidationError, match=r"handles Add\[bool\], which has 2 handlers"):
        validate(Twins())


def test_a_generic_request_with_other_arguments_has_no_handler():
    class Narrow(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        animal = providers.Factory(AnimalAdder)

    with pytest.raises(ContainerValidationError, match="AddCourse has no handler"):
        validate(Narrow(), requests=[AddPuppy, AddCourse])


async def test_handlers_and_behaviors_of_a_generic_message_apply_only_to_its_type_arguments():
    seen: list[str] = []

    class Listener(NotificationHandler[Added[int]]):
        async def handle(self, notification: Any) -> None:
            seen.append(type(notification).__name__)

    class Around(PipelineBehavior[Add[int] | Added[str], Any]):
        async def handle(self, message: Any, call_next: Any) -> Any:
            seen.append(f"around {type(message).__name__}")
            return await call_next()

    mediator = wire(AnyAdder, Listener, behaviors=[Around])
    for notification in (PuppyAdded(), CourseAdded()):
        await mediator.publish(notification)
    for command in (AddAnimal(), AddCourse()):
        await mediator.send(command)
    assert seen == ["PuppyAdded", "around CourseAdded", "around AddAnimal"]


def test_a_request_has_a_handler_if_its_base_class_has_one():
    class Handler(RequestHandler[Change, str]):
        async def handle(self, request: Change) -> str:
            return ""

    class Family(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        change = providers.Factory(Handler)

    validate(Family(), requests=[Change, ChangeName, ChangeFirstName])
