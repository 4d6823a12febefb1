"""Sending requests and publishing notifications."""

from dataclasses import dataclass
from typing import Any

import pytest

from mediator import Command, DistributedEvent, Notification
from mediator.errors import HandlerNotFoundError, MisuseError
from tests.unit.samples import (
    CountStudents,
    EnrollStudent,
    ExpelStudent,
    StudentChanged,
    StudentEnrolled,
    answer_name,
    answer_none,
)
from tests.unit.wiring import around, bind, handles, listens, wire


@dataclass(frozen=True)
class StatusChanged(DistributedEvent):
    event_type = "university.status-changed"


@pytest.mark.parametrize(
    ("method", "message", "remedy"),
    [
        ("send", StudentChanged(), "await mediator.publish("),
        ("publish", EnrollStudent(), "await mediator.send("),
        ("send", StatusChanged(), "DistributedEventBroker"),
        ("publish", StatusChanged(), "DistributedEventBroker"),
        ("send", "private text", "Derive its class from"),
        ("publish", 3, "Derive its class from"),
        ("send", EnrollStudent, "`EnrollStudent(...)`"),
        ("publish", StudentChanged, "`StudentChanged(...)`"),
    ],
)
async def test_an_object_that_cannot_be_dispatched_is_refused_with_the_remedy(method: str, message: Any, remedy: str):
    with pytest.raises(MisuseError, match="was given|cannot take") as caught:
        await getattr(wire(), method)(message)
    assert remedy in str(caught.value)
    assert f"`{method}`" in str(caught.value)
    assert caught.value.subject is message
    assert "private" not in str(caught.value)


METHODS = ["send", "publish", "stream", "publish_after_commit"]
KINDS = {"send": "a request", "stream": "a stream request"}
BASES = {"send": "Command or Query", "stream": "StreamRequest"}


async def refusal(method: str, message: Any) -> str:
    with pytest.raises(MisuseError, match="was given|cannot take") as caught:
        result = getattr(wire(), method)(message)
        if hasattr(result, "__await__"):
            await result
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
async def test_none_is_refused_as_a_missing_message(method: str):
    assert await refusal(method, None) == (
        f"`{method}` was given None instead of {KINDS.get(method, 'a notification')}. Check the function that returned it: "
        "a `return` may be missing there."
    )


@pytest.mark.parametrize("method", METHODS)
async def test_a_coroutine_is_refused_as_unawaited_and_closed(method: str):
    async def make() -> EnrollStudent:
        return EnrollStudent()

    coroutine = make()
    text = await refusal(method, coroutine)

    assert "was given the coroutine or future " in text
    assert "make, which nobody awaited, instead of a message." in text
    assert f"Write `{method}(await ...)` if it returns the message." in text
    assert coroutine.cr_frame is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", [EnrollStudent, StudentChanged, list, list[int]])
async def test_a_class_is_refused_with_the_advice_to_make_a_message_of_it(method: str, given: Any):
    name = given.__name__
    assert await refusal(method, given) == (
        f"`{method}` was given the class {name} itself. Make a message of it: `{name}(...)`."
    )


@pytest.mark.parametrize("method", METHODS)
async def test_the_refusal_of_another_object_names_the_base_class_to_derive_from(method: str):
    assert await refusal(method, 3) == (
        f"`{method}` cannot take a int. Derive its class from {BASES.get(method, 'Notification')}."
    )


async def test_the_refusal_of_a_request_without_a_handler_names_the_most_similar_request():
    @dataclass
    class EnrolStudent(Command[str]):
        pass

    with pytest.raises(HandlerNotFoundError) as caught:
        await wire(handles(EnrollStudent, answer_name), handles(ExpelStudent, answer_none)).send(EnrolStudent())
    assert caught.value.subject is EnrolStudent
    assert caught.value.nearest[0] == "EnrollStudent"
    assert "Did you mean EnrollStudent" in str(caught.value)


async def test_no_handler_is_suggested_when_none_is_similar():
    with pytest.raises(HandlerNotFoundError) as caught:
        await wire(handles(CountStudents, answer_none)).send(ExpelStudent())
    assert "Did you mean" not in str(caught.value)


async def test_nothing_is_dispatched_before_the_start():
    mediator = wire(handles(EnrollStudent, answer_name), started=False)
    with pytest.raises(MisuseError, match="EnrollStudent .* lifespan"):
        await mediator.send(EnrollStudent())
    with pytest.raises(MisuseError, match="outside the lifespan"):
        await mediator.publish(StudentChanged())
    with pytest.raises(MisuseError, match="outside the lifespan"):
        async with mediator.scope():
            pass
    mediator.started = True
    assert await mediator.send(EnrollStudent()) == "Ada"


async def test_nothing_is_dispatched_after_the_stop_although_it_was_dispatched_before():
    mediator = wire(handles(EnrollStudent, answer_name))
    await mediator.send(EnrollStudent())
    await mediator.publish(StudentChanged())
    mediator.started = False
    with pytest.raises(MisuseError, match="outside the lifespan"):
        await mediator.send(EnrollStudent())
    with pytest.raises(MisuseError, match="outside the lifespan"):
        await mediator.publish(StudentChanged())


async def test_a_message_dispatched_the_right_way_is_still_refused_the_wrong_way():
    mediator = wire(handles(EnrollStudent, answer_name))
    await mediator.send(EnrollStudent())
    await mediator.publish(StudentChanged())
    wrong: Any = mediator
    with pytest.raises(MisuseError, match="was given|cannot take"):
        await wrong.publish(EnrollStudent())
    with pytest.raises(MisuseError, match="was given|cannot take"):
        await wrong.send(StudentChanged())


async def test_an_error_of_a_handler_reaches_the_sender_as_the_same_object():
    raised = ValueError("raw")

    async def fail(_message: Any) -> None:
        raise raised

    async def pass_on(_message: Any, call_next: Any) -> Any:
        return await call_next()

    with pytest.raises(ValueError, match="raw") as caught:
        await wire(handles(EnrollStudent, fail), behaviors=[around(Any, pass_on)]).send(EnrollStudent())
    assert caught.value is raised
    assert raised.__cause__ is raised.__context__ is None


async def test_a_notification_reaches_handlers_of_its_class_and_its_bases_in_the_order_of_declaration():
    log: list[str] = []

    def note(name: str) -> Any:
        async def work(_message: Any) -> None:
            log.append(name)

        return work

    mediator = wire(
        listens(StudentEnrolled, note("enrolled")),
        listens(Notification, note("any")),
        listens(StudentChanged, note("changed")),
        listens(StudentEnrolled | StudentChanged, note("both")),
        handles(EnrollStudent, note("command")),
    )
    await mediator.publish(StudentEnrolled())
    assert log == ["enrolled", "any", "changed", "both"]
    log.clear()
    await mediator.publish(StudentChanged())
    assert log == ["any", "changed", "both"]


async def test_the_first_error_stops_a_publish_and_is_raised_unchanged():
    log: list[str] = []
    raised = KeyError("raw")

    async def note(_message: Any) -> None:
        log.append("first")

    async def fail(_message: Any) -> None:
        raise raised

    def never() -> Any:
        raise AssertionError("built")

    listeners = [listens(StudentChanged, note), listens(StudentChanged, fail)]
    with pytest.raises(KeyError) as caught:
        await wire(*listeners, bind(listens(StudentChanged, note), never)).publish(StudentChanged())
    assert caught.value is raised
    assert log == ["first"]


async def test_a_notification_needs_no_handler():
    await wire().publish(StudentChanged())


async def test_each_handler_is_built_immediately_before_it_runs():
    log: list[str] = []

    async def note(_message: Any) -> None:
        log.append("handled")

    def source() -> Any:
        log.append("built")
        return listens(StudentChanged, note)

    listener = bind(listens(StudentChanged, note), source)
    await wire(listener, listener).publish(StudentChanged())
    assert log == ["built", "handled"] * 2
