"""Pre- and post-processors, error handlers and error actions."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import Command, PipelineBehavior, Query, Request, TransactionMode
from mediator.behaviors import (
    Handled,
    RequestExceptionAction,
    RequestExceptionActionProcessorBehavior,
    RequestExceptionHandler,
    RequestExceptionProcessorBehavior,
    RequestPostProcessor,
    RequestPostProcessorBehavior,
    RequestPreProcessor,
    RequestPreProcessorBehavior,
)
from tests.unit.samples import CountStudents, EnrollStudent, ExpelStudent, answer_name
from tests.unit.transactions import Transactional
from tests.unit.wiring import around, bind, handles, wire


class SchoolError(Exception):
    pass


class CourseError(SchoolError):
    pass


class CourseFullError(CourseError):
    pass


ERRORS = (Exception, SchoolError, CourseError, CourseFullError)


def raises(error: BaseException) -> Any:
    async def work(_message: Any, *_call_next: Any) -> Any:
        raise error

    return work


def before(message: Any, log: list[str], name: str = "before") -> Any:
    class Before(RequestPreProcessor[message]):
        async def process(self, request):
            log.append(f"{name} {type(request).__name__}")

    return Before()


def after(message: Any, log: list[str], name: str = "after") -> Any:
    class After(RequestPostProcessor[message, Any]):
        async def process(self, request, response):
            log.append(f"{name} {type(request).__name__}: {response}")

    return After()


def rescue(message: Any, error_type: Any, log: list[Any], answer: Any = None, name: str = "") -> Any:
    class Rescue(RequestExceptionHandler[message, Any, error_type]):
        async def handle(self, _request, error):
            log.append(name or error)
            return answer

    return Rescue()


def observe(message: Any, error_type: Any, log: list[Any], name: str = "") -> Any:
    class Observe(RequestExceptionAction[message, error_type]):
        async def execute(self, _request, error):
            log.append(name or error)

    return Observe()


# Pre- and post-processors


async def test_processors_run_before_and_after_the_handler_in_the_order_of_declaration():
    log: list[str] = []

    async def work(command: EnrollStudent) -> str:
        log.append("handler")
        return command.name

    mediator = wire(
        handles(EnrollStudent, work),
        behaviors=[RequestPreProcessorBehavior, RequestPostProcessorBehavior],
        collaborators=[
            after(Command[Any], log, "after any"),
            before(EnrollStudent, log),
            before(Request[Any], log, "before any"),
            after(EnrollStudent, log),
            before(CountStudents, log, "never"),
        ],
    )
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
    assert log == [
        "before EnrollStudent",
        "before any EnrollStudent",
        "handler",
        "after any EnrollStudent: Ada",
        "after EnrollStudent: Ada",
    ]


async def test_a_failing_preprocessor_stops_later_processors_and_the_handler_is_never_built():
    log: list[str] = []

    class Refuse(RequestPreProcessor[EnrollStudent]):
        async def process(self, _request):
            raise CourseFullError

    def never() -> Any:
        raise AssertionError("built")

    mediator = wire(
        bind(handles(EnrollStudent, answer_name), never),
        behaviors=[RequestPreProcessorBehavior],
        collaborators=[Refuse, before(EnrollStudent, log)],
    )
    with pytest.raises(CourseFullError):
        await mediator.send(EnrollStudent())
    assert log == []


async def test_postprocessors_do_not_run_when_the_handler_failed():
    log: list[str] = []
    mediator = wire(
        handles(EnrollStudent, raises(CourseFullError())),
        behaviors=[RequestPostProcessorBehavior],
        collaborators=[after(EnrollStudent, log)],
    )
    with pytest.raises(CourseFullError):
        await mediator.send(EnrollStudent())
    assert log == []


@pytest.mark.parametrize(
    "behavior",
    [
        RequestPreProcessorBehavior,
        RequestPostProcessorBehavior,
        RequestExceptionProcessorBehavior,
        RequestExceptionActionProcessorBehavior,
    ],
)
def test_a_behavior_without_collaborators_for_a_message_is_not_in_its_pipeline(behavior):
    log: list[Any] = []
    mediator = wire(
        handles(EnrollStudent, answer_name),
        handles(CountStudents, answer_name),
        behaviors=[behavior],
        collaborators=[
            before(CountStudents, log),
            after(CountStudents, log),
            rescue(CountStudents, Exception, log),
            observe(CountStudents, Exception, log),
        ],
    )
    assert mediator.registry.pipeline(EnrollStudent).behaviors == []
    (binding,) = mediator.registry.pipeline(CountStudents).behaviors
    assert len(binding.collaborators) == 1
    assert f"with {binding.collaborators[0].cls.__name__}" in mediator.describe(CountStudents)


async def test_collaborators_and_their_behavior_may_be_made_by_coroutines():
    log: list[str] = []

    async def make(part: Any) -> Any:
        await asyncio.sleep(0)
        return part

    behavior, collaborator = RequestPreProcessorBehavior(), before(EnrollStudent, log)
    mediator = wire(
        handles(EnrollStudent, answer_name),
        behaviors=[bind(behavior, lambda: make(behavior))],
        collaborators=[bind(collaborator, lambda: make(collaborator))],
    )
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
    assert log == ["before EnrollStudent"]


async def test_outside_a_dispatch_the_behavior_calls_the_handler():
    async def call_next(*_: Any) -> str:
        return "went on"

    assert await RequestPreProcessorBehavior().handle(EnrollStudent(), call_next) == "went on"


# Error handlers


async def test_an_error_handler_turns_an_error_into_a_response():
    log: list[Any] = []
    error = CourseFullError()
    mediator = wire(
        handles(EnrollStudent, raises(error)),
        behaviors=[RequestExceptionProcessorBehavior],
        collaborators=[rescue(EnrollStudent, CourseFullError, log, Handled("waiting list"))],
    )
    assert await mediator.send(EnrollStudent()) == "waiting list"
    assert log == [error]


async def test_none_is_a_valid_response_to_an_error():
    mediator = wire(
        handles(ExpelStudent, raises(CourseFullError())),
        behaviors=[RequestExceptionProcessorBehavior],
        collaborators=[rescue(ExpelStudent, CourseFullError, [], Handled(None))],
    )
    assert await mediator.send(ExpelStudent()) is None


async def test_an_error_that_no_handler_handles_reaches_the_sender_unchanged():
    log: list[Any] = []
    error = CourseFullError()
    mediator = wire(
        handles(EnrollStudent, raises(error)),
        behaviors=[RequestExceptionProcessorBehavior],
        collaborators=[
            rescue(EnrollStudent, CourseFullError, log),
            rescue(EnrollStudent, LookupError, log, Handled("wrong error")),
            rescue(CountStudents, CourseFullError, log, Handled("wrong message")),
        ],
    )
    with pytest.raises(CourseFullError) as caught:
        await mediator.send(EnrollStudent())
    assert caught.value is error
    assert log == [error]


async def test_a_wrong_return_value_of_an_error_handler_is_ignored_and_noted_on_the_error():
    mediator = wire(
        handles(EnrollStudent, raises(CourseFullError())),
        behaviors=[RequestExceptionProcessorBehavior],
        collaborators=[rescue(EnrollStudent, CourseFullError, [], "waiting list")],
    )
    with pytest.raises(CourseFullError) as caught:
        await mediator.send(EnrollStudent())
    assert caught.value.__notes__ == ["Rescue must return Handled(...) or None, and returned neither."]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([EnrollStudent, Command[Any], Request[Any]]), st.booleans())),
    st.integers(0, 3),
)
def test_error_handlers_are_chosen_by_the_most_specific_error_then_message_then_declaration(declared, raised):
    messages = [EnrollStudent, Command[Any], Request[Any]]
    log: list[Any] = []
    collaborators = [
        rescue(message, ERRORS[error], log, Handled(index) if handles_it else None, name=f"{index}")
        for index, (error, message, handles_it) in enumerate(declared)
    ]
    fitting = [index for index, (error, *_) in enumerate(declared) if error <= raised]
    asked = sorted(fitting, key=lambda index: (-declared[index][0], messages.index(declared[index][1]), index))
    answering = next((place for place, index in enumerate(asked) if declared[index][2]), None)
    mediator = wire(
        handles(EnrollStudent, raises(ERRORS[raised]())),
        behaviors=[RequestExceptionProcessorBehavior],
        collaborators=collaborators,
    )
    if answering is None:
        with pytest.raises(ERRORS[raised]):
            asyncio.run(mediator.send(EnrollStudent()))
    else:
        assert asyncio.run(mediator.send(EnrollStudent())) == asked[answering]
        asked = asked[: answering + 1]
    assert log == [str(index) for index in asked]


async def test_errors_of_inner_behaviors_and_of_the_handlers_constructor_are_handled():
    log: list[Any] = []

    def broken() -> Any:
        raise CourseError

    rescued = rescue(EnrollStudent, CourseError, log, Handled("rescued"))
    inside = wire(
        handles(EnrollStudent, answer_name),
        behaviors=[RequestExceptionProcessorBehavior, around(Any, raises(CourseFullError()))],
        collaborators=[rescued],
    )
    unbuilt = wire(
        bind(handles(EnrollStudent, answer_name), broken),
        behaviors=[RequestExceptionProcessorBehavior],
        collaborators=[rescued],
    )
    assert await inside.send(EnrollStudent()) == "rescued"
    assert await unbuilt.send(EnrollStudent()) == "rescued"
    assert [type(error) for error in log] == [CourseFullError, CourseError]


async def test_errors_of_outer_behaviors_are_not_handled():
    mediator = wire(
        handles(EnrollStudent, answer_name),
        behaviors=[around(Any, raises(CourseFullError())), RequestExceptionProcessorBehavior],
        collaborators=[rescue(EnrollStudent, CourseFullError, [], Handled("rescued"))],
    )
    with pytest.raises(CourseFullError):
        await mediator.send(EnrollStudent())


@pytest.mark.parametrize("declared", [Exception, BaseException, asyncio.CancelledError])
async def test_cancellation_is_never_offered_to_a_handler_or_an_action(declared):
    log: list[Any] = []
    running = asyncio.Event()

    async def wait_for_ever(_message: Any) -> None:
        running.set()
        await asyncio.Event().wait()

    mediator = wire(
        handles(EnrollStudent, wait_for_ever),
        behaviors=[RequestExceptionActionProcessorBehavior, RequestExceptionProcessorBehavior],
        collaborators=[rescue(Any, declared, log, Handled("converted")), observe(Any, declared, log)],
    )
    task = asyncio.create_task(mediator.send(EnrollStudent()))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == []


async def test_an_error_of_an_error_handler_reaches_the_sender_with_the_first_error_as_its_context():
    class Fail(RequestExceptionHandler[EnrollStudent, str, CourseFullError]):
        async def handle(self, _request, _error):
            raise LookupError

    error = CourseFullError()
    mediator = wire(
        handles(EnrollStudent, raises(error)), behaviors=[RequestExceptionProcessorBehavior], collaborators=[Fail]
    )
    with pytest.raises(LookupError) as caught:
        await mediator.send(EnrollStudent())
    assert caught.value.__context__ is error


# Error actions


async def test_all_actions_see_an_error_once_most_specific_first_and_the_error_is_raised_unchanged():
    log: list[Any] = []
    error = CourseFullError()
    mediator = wire(
        handles(EnrollStudent, raises(error)),
        behaviors=[RequestExceptionActionProcessorBehavior],
        collaborators=[
            observe(Any, Exception, log, "any error"),
            observe(EnrollStudent, LookupError, log, "another error"),
            observe(Command[Any], CourseFullError, log, "of a command"),
            observe(EnrollStudent, CourseFullError, log, "exact"),
            observe(EnrollStudent, CourseFullError | SchoolError, log, "either"),
        ],
    )
    with pytest.raises(CourseFullError) as caught:
        await mediator.send(EnrollStudent())
    assert caught.value is error
    assert log == ["exact", "either", "of a command", "any error"]


async def test_a_failing_action_is_noted_on_the_error_and_hides_neither_the_error_nor_other_actions():
    log: list[Any] = []

    class Fail(RequestExceptionAction[EnrollStudent, CourseFullError]):
        async def execute(self, _request, _error):
            raise LookupError("no pager")

    error = CourseFullError()
    mediator = wire(
        handles(EnrollStudent, raises(error)),
        behaviors=[RequestExceptionActionProcessorBehavior],
        collaborators=[Fail, observe(EnrollStudent, CourseFullError, log, "observed")],
    )
    with pytest.raises(CourseFullError) as caught:
        await mediator.send(EnrollStudent())
    assert caught.value is error
    assert error.__notes__ == ["The action Fail on this error failed: LookupError('no pager')"]
    assert log == ["observed"]


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("outside", [True, False])
async def test_outer_actions_see_unhandled_errors_and_inner_actions_see_every_error(outside, handled):
    log: list[Any] = []
    behaviors = [RequestExceptionActionProcessorBehavior, RequestExceptionProcessorBehavior]
    mediator = wire(
        handles(EnrollStudent, raises(CourseFullError())),
        behaviors=behaviors if outside else behaviors[::-1],
        collaborators=[
            rescue(EnrollStudent, CourseFullError, [], Handled("ok") if handled else None),
            observe(EnrollStudent, CourseFullError, log, "observed"),
        ],
    )
    if handled:
        assert await mediator.send(EnrollStudent()) == "ok"
    else:
        with pytest.raises(CourseFullError):
            await mediator.send(EnrollStudent())
    assert log == ([] if outside and handled else ["observed"])


# Error handlers and transactions


@dataclass(frozen=True, slots=True)
class Outer(Command[str]):
    pass


@dataclass(frozen=True, slots=True)
class Read(Query[str]):
    pass


def joined(*messages: Any, mode: TransactionMode = TransactionMode.DEFAULT) -> Any:
    transactional = Transactional()

    async def send_inside(_message: Any) -> str:
        return await mediator.send(messages[0](), mode=mode)

    mediator = wire(
        handles(Outer, send_inside),
        *(handles(message, raises(CourseFullError())) for message in messages),
        behaviors=[RequestExceptionProcessorBehavior, transactional],
        collaborators=[rescue(messages[0], CourseFullError, [], Handled("rescued"))],
    )
    return mediator, transactional


async def test_a_joined_command_with_a_converted_error_is_rolled_back_to_a_savepoint():
    mediator, transactional = joined(EnrollStudent)
    assert await mediator.send(Outer()) == "rescued"
    (transaction,) = transactional.begun
    assert transaction.log == ["savepoint for EnrollStudent", "rolled back to savepoint"]


async def test_a_nested_command_whose_error_is_converted_dooms_nothing():
    mediator, transactional = joined(EnrollStudent, mode=TransactionMode.NESTED)
    assert await mediator.send(Outer()) == "rescued"
    (transaction,) = transactional.begun
    assert transaction.log == [
        "savepoint for EnrollStudent",
        "savepoint for EnrollStudent",
        "rolled back to savepoint",
        "released savepoint",
    ]


async def test_a_joined_query_with_a_converted_error_is_rolled_back_too():
    mediator, transactional = joined(Read)
    assert await mediator.send(Outer()) == "rescued"
    assert transactional.begun[0].log == ["savepoint for Read", "rolled back to savepoint"]


async def test_a_converted_error_of_a_query_outside_a_transaction_begins_no_transaction():
    transactional = Transactional()
    mediator = wire(
        handles(Read, raises(CourseFullError())),
        behaviors=[RequestExceptionProcessorBehavior, transactional],
        collaborators=[rescue(Read, CourseFullError, [], Handled("rescued"))],
    )
    assert await mediator.send(Read()) == "rescued"
    assert transactional.begun == []


async def test_a_class_derived_from_handled_counts_as_handled():
    class Rescued(Handled[str]):
        pass

    mediator = wire(
        handles(EnrollStudent, raises(CourseFullError())),
        behaviors=[RequestExceptionProcessorBehavior],
        collaborators=[rescue(EnrollStudent, CourseFullError, [], Rescued("rescued"))],
    )
    assert await mediator.send(EnrollStudent()) == "rescued"


async def test_a_converted_error_inside_the_transaction_behavior_rolls_back_a_savepoint():
    transactional = Transactional()
    mediator = wire(
        handles(EnrollStudent, raises(CourseFullError())),
        behaviors=[transactional, RequestExceptionProcessorBehavior],
        collaborators=[rescue(EnrollStudent, CourseFullError, [], Handled("rescued"))],
    )
    assert await mediator.send(EnrollStudent()) == "rescued"
    assert transactional.begun[0].log == ["savepoint for EnrollStudent", "rolled back to savepoint"]


async def test_inner_processors_receive_the_replaced_request():
    log: list[str] = []

    class Rename(PipelineBehavior[EnrollStudent, str]):
        async def handle(self, _message, call_next):
            return await call_next(EnrollStudent("Grace"))

    class Look(RequestPreProcessor[EnrollStudent]):
        async def process(self, request):
            log.append(request.name)

    mediator = wire(
        handles(EnrollStudent, answer_name), behaviors=[Rename, RequestPreProcessorBehavior], collaborators=[Look]
    )
    assert await mediator.send(EnrollStudent("Ada")) == "Grace"
    assert log == ["Grace"]
