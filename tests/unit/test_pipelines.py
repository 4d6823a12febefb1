"""The chain of behaviors around a message."""

from dataclasses import replace
from typing import Any, Literal, NewType

import pytest

from mediator import Command, Notification, PipelineBehavior, Query, RequestHandler
from mediator.errors import MisuseError
from tests.unit.samples import CountStudents, EnrollStudent, ExpelStudent, StudentChanged, StudentEnrolled, answer_name
from tests.unit.wiring import around, bind, handles, listens, wire


def recorder(name: str, log: list[str]) -> Any:
    async def work(_message: Any, call_next: Any) -> Any:
        log.append(f"{name} in")
        response = await call_next()
        log.append(f"{name} out")
        return response

    return work


async def test_behaviors_run_in_the_order_of_the_list_outermost_first():
    log: list[str] = []
    behaviors = [around(Any, recorder(name, log)) for name in ("first", "second", "third")]
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=behaviors)
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
    assert log == ["first in", "second in", "third in", "third out", "second out", "first out"]


async def test_a_behavior_that_skips_call_next_returns_the_response_and_no_handler_is_built():
    def never() -> Any:
        raise AssertionError("built")

    async def from_cache(_message: Any, _call_next: Any) -> str:
        return "cached"

    handler = bind(handles(EnrollStudent, answer_name), never)
    mediator = wire(handler, behaviors=[around(Any, from_cache), bind(around(Any, from_cache), never)])
    assert await mediator.send(EnrollStudent()) == "cached"


async def test_calling_call_next_again_builds_the_inner_behaviors_and_the_handler_anew():
    built: list[str] = []

    class Inner(PipelineBehavior[Any, Any]):
        def __init__(self):
            built.append("behavior")

        async def handle(self, message, call_next, /):
            return await call_next()

    class Flaky(RequestHandler[EnrollStudent, str]):
        def __init__(self):
            built.append("handler")

        async def handle(self, command, /):
            if built.count("handler") == 1:
                raise ConnectionError
            return command.name

    async def retry(_message: Any, call_next: Any) -> Any:
        try:
            return await call_next()
        except ConnectionError:
            return await call_next()

    assert await wire(Flaky, behaviors=[around(Any, retry), Inner]).send(EnrollStudent("Ada")) == "Ada"
    assert built == ["behavior", "handler", "behavior", "handler"]


async def test_a_behavior_may_replace_the_message_for_the_inner_behaviors_and_the_handler():
    seen: list[Any] = []

    async def shout(message: Any, call_next: Any) -> Any:
        return await call_next(replace(message, name=message.name.upper()))

    async def look(message: Any, call_next: Any) -> Any:
        seen.append(message)
        return await call_next()

    behaviors = [around(Any, look), around(Any, shout), around(Any, look)]
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=behaviors)
    assert await mediator.send(EnrollStudent("Ada")) == "ADA"
    assert seen == [EnrollStudent("Ada"), EnrollStudent("ADA")]


async def test_a_replaced_notification_reaches_every_handler():
    seen: list[Any] = []

    async def see(message: Any) -> None:
        seen.append(message.name)

    async def shout(message: Any, call_next: Any) -> Any:
        return await call_next(replace(message, name=message.name.upper()))

    mediator = wire(listens(StudentChanged, see), listens(StudentChanged, see), behaviors=[around(Notification, shout)])
    await mediator.publish(StudentChanged("Ada"))
    assert seen == ["ADA", "ADA"]


@pytest.mark.parametrize("other", [None, ExpelStudent("Bob"), "Bob", EnrollStudent])
async def test_a_message_cannot_be_replaced_by_one_of_another_class(other: Any):
    async def swap(_message: Any, call_next: Any) -> Any:
        return await call_next(other)

    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[around(Any, swap)])
    with pytest.raises(MisuseError, match=r"in place of a EnrollStudent.*`await mediator\.send"):
        await mediator.send(EnrollStudent())


async def test_a_notification_can_be_replaced_by_a_derived_one_and_not_by_one_of_its_base_class():
    seen: list[Any] = []

    async def see(message: Any) -> None:
        seen.append(message)

    async def swap(message: Any, call_next: Any) -> Any:
        return await call_next(StudentEnrolled() if message == StudentChanged() else StudentChanged())

    mediator = wire(listens(StudentChanged, see), behaviors=[around(Any, swap)])
    await mediator.publish(StudentChanged())
    assert seen == [StudentEnrolled()]
    with pytest.raises(MisuseError, match="in place of a"):
        await mediator.publish(StudentEnrolled())


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (Any, {"enroll", "expel", "count", "changed"}),
        (Command[Any], {"enroll", "expel"}),
        (Command[Any] | Notification, {"enroll", "expel", "changed"}),
        (Query[Any], {"count"}),
        (ExpelStudent, {"expel"}),
    ],
)
async def test_a_behavior_applies_only_where_its_type_argument_matches(argument: Any, expected: set[str]):
    seen: set[str] = set()
    names = {EnrollStudent: "enroll", ExpelStudent: "expel", CountStudents: "count", StudentChanged: "changed"}

    async def look(message: Any, call_next: Any) -> Any:
        seen.add(names[type(message)])
        return await call_next()

    async def work(_message: Any) -> None:
        return None

    mediator = wire(*(handles(cls, work) for cls in list(names)[:3]), behaviors=[around(argument, look)])
    await mediator.send(EnrollStudent())
    await mediator.send(ExpelStudent())
    await mediator.send(CountStudents())
    await mediator.publish(StudentChanged())
    assert seen == expected


async def test_the_most_specific_of_the_behaviors_with_one_name_applies_at_its_own_place():
    log: list[str] = []

    class General(PipelineBehavior[Command[Any] | Notification, Any]):
        one_of = "transaction"

        async def handle(self, message, call_next, /):
            log.append("general")
            return await call_next()

    class Special(PipelineBehavior[EnrollStudent, Any]):
        one_of = "transaction"

        async def handle(self, message, call_next, /):
            log.append("special")
            return await call_next()

    behaviors = [General, around(Any, recorder("between", log)), Special]
    mediator = wire(handles(EnrollStudent, answer_name), handles(ExpelStudent, answer_name), behaviors=behaviors)
    await mediator.send(EnrollStudent())
    assert log == ["between in", "special", "between out"]
    log.clear()
    await mediator.send(ExpelStudent())
    assert log == ["general", "between in", "between out"]


async def test_handlers_and_behaviors_may_come_from_asynchronous_providers():
    log: list[str] = []
    handler, listener = handles(EnrollStudent, answer_name), listens(StudentChanged, answer_name)
    behavior = around(Any, recorder("behavior", log))

    def later(part: Any) -> Any:
        async def source() -> Any:
            log.append("resolved")
            return part

        return bind(part, source)

    mediator = wire(later(handler), later(listener), behaviors=[later(behavior)])
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
    await mediator.publish(StudentEnrolled())
    assert log == ["resolved", "behavior in", "resolved", "behavior out"] * 2


async def test_a_pipeline_is_compiled_once_per_message_class():
    mediator = wire(handles(EnrollStudent, answer_name))
    assert mediator.registry.pipeline(EnrollStudent) is mediator.registry.pipeline(EnrollStudent)


async def test_a_behavior_around_a_publish_runs_once_for_any_number_of_handlers():
    log: list[str] = []
    listeners = [listens(StudentChanged, answer_name) for _ in range(3)]
    await wire(*listeners, behaviors=[around(Notification, recorder("behavior", log))]).publish(StudentChanged())
    assert log == ["behavior in", "behavior out"]


async def test_a_new_registry_is_used_from_the_next_dispatch_on():
    mediator = wire(handles(EnrollStudent, answer_name))

    async def other(_message: Any) -> str:
        return "other"

    mediator.rebind(wire(handles(EnrollStudent, other)).registry)
    assert await mediator.send(EnrollStudent()) == "other"


def test_describe_shows_the_exact_chain_with_its_labels():
    class Audit(PipelineBehavior[Command[Any], Any]):
        pass

    class Trace(PipelineBehavior[Any, Any]):
        pass

    class Enroll(RequestHandler[EnrollStudent, str]):
        pass

    mediator = wire(Enroll, listens(StudentChanged, answer_name), behaviors=[Trace, Audit])
    assert mediator.describe(EnrollStudent).splitlines() == [
        "EnrollStudent -> str",
        "  1. Trace                               container.Trace",
        "  2. Audit                               container.Audit",
        "  handler: Enroll                        container.Enroll",
    ]
    assert mediator.describe(StudentEnrolled).splitlines() == [
        "StudentEnrolled",
        "  1. Trace                               container.Trace",
        "  subscriber: Listener                   container.Listener",
    ]


@pytest.mark.parametrize(
    ("response", "spelling"),
    [
        (None, "None"),
        (int | None, "int | None"),
        (EnrollStudent | None, "EnrollStudent | None"),
        (dict[str, list[EnrollStudent]], "dict[str, list[EnrollStudent]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Literal["a", "b"], "Literal['a', 'b']"),
        (Any, "Any"),
        (NewType("StudentId", str), "StudentId"),
    ],
)
def test_describe_shows_the_response_type_as_it_is_written_in_source(response: Any, spelling: str):
    class Ask(Query[response]):  # type: ignore[valid-type]  # only known here
        pass

    class Answer(RequestHandler[Ask, response]):  # type: ignore[valid-type]
        pass

    assert wire(Answer).describe(Ask).splitlines()[0] == f"Ask -> {spelling}"


def test_describe_without_a_class_shows_every_message_that_has_a_handler():
    mediator = wire(handles(EnrollStudent, answer_name), listens(StudentChanged, answer_name))
    assert mediator.describe() == f"{mediator.describe(EnrollStudent)}\n\n{mediator.describe(StudentChanged)}"
    assert "no subscribers" in wire().describe(StudentChanged)
