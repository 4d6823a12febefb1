"""The recording mediator, behaviors run alone, and the fixtures."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from mediator import (
    Authorizer,
    Command,
    DistributedEvent,
    DistributedEventBroker,
    Mediator,
    MessageContext,
    Notification,
    NotificationPipelineBehavior,
    PipelineBehavior,
    RequestHandler,
    StreamPipelineBehavior,
    StreamRequest,
    ValidationBehavior,
    ValidationFailure,
    Validator,
    current_context,
)
from mediator.behaviors import StreamAuthorizationBehavior
from mediator.errors import (
    ContainerError,
    DeclarationError,
    MisuseError,
    NotAuthorizedError,
    UnexpectedMessageError,
    ValidationFailedError,
)
from mediator.testing import RecordingMediator, run_behavior, run_stream_behavior

pytest_plugins = ["pytester"]


@dataclass(frozen=True, slots=True)
class Enroll(Command[str]):
    name: str


@dataclass(frozen=True, slots=True)
class Greet(Command[str]):
    name: str


@dataclass(frozen=True, slots=True)
class Enrolled(Notification):
    name: str


@dataclass(frozen=True, slots=True)
class StatusChanged(DistributedEvent):
    event_type: ClassVar[str] = "university.status-changed"
    name: str


class ListNames(StreamRequest[str]):
    pass


class EnrollHandler(RequestHandler[Enroll, str]):
    def __init__(self, mediator: Mediator, distributed_events: DistributedEventBroker) -> None:
        self._mediator = mediator
        self._distributed_events = distributed_events

    async def handle(self, command: Enroll) -> str:
        greeting = await self._mediator.send(Greet(command.name))
        await self._mediator.publish(Enrolled(command.name))
        self._mediator.publish_after_commit(Enrolled("later"))
        self._distributed_events.add(StatusChanged(command.name))
        return greeting


async def test_messages_and_events_of_a_handler_are_recorded():
    mediator = RecordingMediator()
    mediator.expect(Greet).returns("hello")
    assert await EnrollHandler(mediator, mediator.distributed_events).handle(Enroll("Ada")) == "hello"
    assert mediator.sent == [Greet("Ada")]
    assert mediator.published == [Enrolled("Ada")]
    assert mediator.after_commit == [Enrolled("later")]
    assert mediator.staged == list(mediator.distributed_events.pending) == [StatusChanged("Ada")]
    assert mediator.unmet == []


async def test_the_answer_of_an_equal_request_precedes_that_of_its_class_and_the_last_one_counts():
    mediator = RecordingMediator()
    mediator.expect(Greet).returns("anybody")
    mediator.expect(Greet("Ada")).returns("Ada")
    mediator.expect(Greet("Bob")).raises(LookupError("Bob"))
    assert await mediator.send(Greet("Ada")) == "Ada"
    assert await mediator.send(Greet("Cyd")) == "anybody"
    with pytest.raises(LookupError):
        await mediator.send(Greet("Bob"))
    mediator.expect(Greet).returns("new")
    assert await mediator.send(Greet("Ada")) == "new"


async def test_an_unexpected_request_is_a_failure_that_lists_the_expected_ones():
    mediator = RecordingMediator()
    with pytest.raises(UnexpectedMessageError, match="It has no responses"):
        await mediator.send(Greet("Ada"))
    mediator.expect(Greet("Bob")).returns("Bob")
    mediator.expect(Enroll)
    with pytest.raises(AssertionError, match=r"Greet was sent.*has responses for: Greet\(name='Bob'\), Enroll\."):
        await mediator.send(Greet("Ada"))
    with pytest.raises(UnexpectedMessageError):
        mediator.stream(ListNames())
    assert mediator.unmet == ["Greet(name='Bob')", "Enroll"]


async def test_an_expectation_without_an_answer_does_not_count():
    mediator = RecordingMediator()
    mediator.expect(Enroll).returns("42")
    mediator.expect(Enroll)
    assert await mediator.send(Enroll("Ada")) == "42"


async def test_a_stream_request_is_answered_with_items():
    mediator = RecordingMediator()
    mediator.expect(ListNames).returns(["Ada", "Bob"])
    async with mediator.stream(ListNames()) as items:
        assert [item async for item in items] == ["Ada", "Bob"]


async def test_messages_of_the_wrong_kind_are_refused_as_the_mediator_does():
    mediator: Any = RecordingMediator()
    for refused in (mediator.send(Enrolled("a")), mediator.publish(Enroll("a")), mediator.publish("a")):
        with pytest.raises(MisuseError, match="was given|cannot take"):
            await refused
    with pytest.raises(MisuseError, match="was given|cannot take"):
        mediator.publish_after_commit(Enroll("a"))
    with pytest.raises(MisuseError, match="was given|cannot take"):
        mediator.stream(Enroll("a"))
    with pytest.raises(MisuseError, match="is not a DistributedEvent"):
        mediator.distributed_events.add(Enrolled("a"))
    with pytest.raises(DeclarationError, match="Declare `event_type"):
        mediator.distributed_events.add(type("Untyped", (DistributedEvent,), {})())


class Twice(PipelineBehavior[Command[Any], str]):
    async def handle(self, message: Command[Any], call_next: Any) -> str:
        first = await call_next()
        return f"{first} {await call_next(Enroll(current_context().tenant or ''))}"


async def test_a_behavior_is_run_alone_in_a_scope():
    context = MessageContext.new(tenant="acme")
    run = await run_behavior(Twice(), Enroll("Ada"), returns="inner", context=context)
    assert run.response == "inner inner"
    assert run.inner == [Enroll("Ada"), Enroll("acme")]


async def test_a_behavior_receives_the_error_of_the_inner_handler():
    with pytest.raises(LookupError):
        await run_behavior(Twice(), Enroll("Ada"), raises=LookupError())


async def test_a_behavior_that_forgets_to_await_is_an_error():
    class Forgets(PipelineBehavior[Any, Any]):
        async def handle(self, message: Any, call_next: Any) -> Any:
            return call_next()

    with pytest.raises(MisuseError, match="nobody awaited, so it has not run"):
        await run_behavior(Forgets(), Enroll("Ada"))


class OnlyAda(Authorizer[Any]):
    async def authorize(self, message: Any, context: MessageContext) -> bool:
        return context.principal == "ada"


class NameIsShort(Validator[Enroll]):
    async def validate(self, message: Enroll) -> list[ValidationFailure]:
        return [ValidationFailure("name", "is long")] if len(message.name) > 3 else []


class GreetsNobody(Validator[Greet]):
    async def validate(self, message: Greet) -> list[ValidationFailure]:
        return [ValidationFailure("name", "is forbidden")]


async def test_a_behavior_is_run_with_its_collaborators():
    validators = [NameIsShort(), GreetsNobody()]
    run = await run_behavior(ValidationBehavior(), Enroll("Ada"), returns="1", collaborators=validators)
    assert run.response == "1"
    with pytest.raises(ValidationFailedError) as caught:
        await run_behavior(ValidationBehavior(), Enroll("Grace"), collaborators=validators)
    assert caught.value.by_validator == {"NameIsShort": ["is long"]}


async def test_a_behavior_around_streams_is_run_with_its_collaborators():
    behavior, ada = StreamAuthorizationBehavior(), MessageContext.new(principal="ada")
    run = await run_stream_behavior(behavior, ListNames(), yields=["a"], collaborators=[OnlyAda()], context=ada)
    assert run.response == ["a"]
    with pytest.raises(NotAuthorizedError):
        await run_stream_behavior(behavior, ListNames(), yields=["a"], collaborators=[OnlyAda()])


async def test_a_collaborator_that_the_behavior_does_not_use_is_refused():
    with pytest.raises(ContainerError, match="ValidationBehavior does not work with a OnlyAda, but with a Validator"):
        await run_behavior(ValidationBehavior(), Enroll("Ada"), collaborators=[OnlyAda()])
    with pytest.raises(ContainerError, match=r"Twice does not work with a OnlyAda\."):
        await run_behavior(Twice(), Enroll("Ada"), collaborators=[OnlyAda()])


async def test_a_behavior_that_drops_its_coroutine_or_replaces_the_message_is_an_error():
    class Drops(PipelineBehavior[Any, Any]):
        async def handle(self, message: Any, call_next: Any) -> Any:
            call_next()

    class Swaps(PipelineBehavior[Any, Any]):
        async def handle(self, message: Any, call_next: Any) -> Any:
            return await call_next(Greet("Ada"))

    with pytest.raises(MisuseError, match="nobody awaited, so it has not run"):
        await run_behavior(Drops(), Enroll("Ada"))
    with pytest.raises(MisuseError, match="in place of a"):
        await run_behavior(Swaps(), Enroll("Ada"))


async def test_a_behavior_around_each_handler_is_run_alone():
    seen: list[type] = []

    class Note(NotificationPipelineBehavior[Enrolled]):
        async def handle(self, notification: Enrolled, handler: type, call_next: Any) -> None:
            seen.append(handler)
            await call_next()

    run = await run_behavior(Note(), Enrolled("Ada"), handler=dict)
    assert (run.inner, seen) == ([Enrolled("Ada")], [dict])


async def test_a_behavior_around_streams_is_run_alone():
    class Shout(StreamPipelineBehavior[Any, str]):
        async def handle(self, request: Any, call_next: Any) -> AsyncIterator[str]:
            try:
                async for item in call_next(Enroll("Bob")):
                    yield item.upper()
            except LookupError:
                yield current_context().tenant or ""

    context = MessageContext.new(tenant="acme")
    run = await run_stream_behavior(Shout(), Enroll("Ada"), yields=["a", "b"], raises=LookupError(), context=context)
    assert (run.response, run.inner) == (["A", "B", "acme"], [Enroll("Bob")])


def test_the_fixtures_are_found_and_fail_a_test_with_unmet_expectations(pytester: pytest.Pytester):
    pytester.makepyfile(
        """
        from mediator import Command

        class Greet(Command[str]):
            pass

        def test_unmet(recording_mediator):
            recording_mediator.expect(Greet).returns("hello")

        def test_met(recording_mediator, in_memory_database):
            assert in_memory_database.outbox == []
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*expected but never sent: Greet*"])


async def test_the_recording_broker_accepts_the_same_times_as_the_real_one():
    broker = RecordingMediator().distributed_events
    broker.add(StatusChanged("Ada"), deliver_at=datetime.now(UTC))
    with pytest.raises(MisuseError, match="cannot be delayed"):
        broker.add(StatusChanged("Bob"), deliver_at=datetime(2026, 1, 1))  # noqa: DTZ001
    assert broker.pending == (StatusChanged("Ada"),)
