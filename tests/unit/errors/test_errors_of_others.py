"""Errors of other libraries: they arrive as the same object, even if their class refuses new attributes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from mediator import (
    Command,
    Concurrent,
    Mediator,
    Notification,
    Sequential,
    StreamRequest,
    TimeoutBehavior,
    TransactionMode,
    current_scope,
)
from mediator.behaviors import (
    RequestExceptionAction,
    RequestExceptionActionProcessorBehavior,
    RequestExceptionHandler,
    RequestExceptionProcessorBehavior,
)
from mediator.behaviors.retry import RetryBehavior
from mediator.blocks import add_note, asynccontextmanager, contextmanager
from mediator.errors import AfterCommitError
from mediator.printable import traceback_of
from mediator.testing import InMemoryDatabase, InMemoryUnitOfWork
from mediator.testing.failpoints import Failure, failpoint
from tests.unit.distributed.inbox.application import Application
from tests.unit.samples import EnrollStudent, ExpelStudent, StudentEnrolled
from tests.unit.transactions import Transactional
from tests.unit.wiring import around, handles, listens, streams, wire


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int = 1


@dataclass(frozen=True, slots=True)
class SlottedError(Exception):
    code: int = 1
    text: tuple[str, ...] = ()


@dataclass
class EmptyError(Exception):
    """An error that is also a collection, and is falsy while it is empty."""

    faults: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.faults)


class LockedError(Exception):
    """Refuses every new attribute and every note."""

    def __setattr__(self, name: str, value: object) -> None:
        raise ZeroDivisionError(name)

    def add_note(self, note: str, /) -> NoReturn:
        raise ZeroDivisionError(note)


@dataclass(frozen=True)
class FrozenInterrupt(BaseException):
    code: int = 1


ERRORS: list[Callable[[], BaseException]] = [FrozenError, SlottedError, EmptyError, LockedError, FrozenInterrupt]

each_error = pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)


class Numbers(StreamRequest[int]):
    pass


def raising(error: BaseException) -> Callable[[Any], Any]:
    async def work(_message: Any) -> None:
        current_scope().on_exit(fail_to_close)
        raise error

    return work


def fail_to_close(_error: BaseException | None) -> None:
    raise ValueError("this becomes a note, where the error takes one")


async def arrives(error: BaseException, work: Any) -> None:
    with pytest.raises(type(error)) as caught:
        await work
    assert caught.value is error
    assert error.__traceback__ is not None


def mediator_of(error: BaseException, *behaviors: Any) -> Mediator:
    async def outer(_message: Any) -> Any:
        return await mediator.send(ExpelStudent(), mode=TransactionMode.NESTED)

    async def items(_request: Any) -> AsyncIterator[int]:
        yield 1
        raise error

    handlers = [
        handles(EnrollStudent, outer),
        handles(ExpelStudent, raising(error)),
        listens(StudentEnrolled, raising(error)),
        streams(Numbers, items),
    ]
    mediator = wire(*handlers, behaviors=behaviors)
    return mediator


@each_error
async def test_an_error_of_a_handler_arrives_unchanged(kind: Any):
    mediator = mediator_of(error := kind())
    for mode in TransactionMode:
        await arrives(error, mediator.send(ExpelStudent(), mode=mode))
        await arrives(error, mediator.publish(StudentEnrolled(), mode=mode))


@each_error
async def test_an_error_of_a_handler_behind_a_savepoint_arrives_unchanged(kind: Any):
    mediator = mediator_of(error := kind(), Transactional())
    await arrives(error, mediator.send(EnrollStudent()))


@each_error
async def test_an_error_in_the_body_of_a_scope_arrives_unchanged(kind: Any):
    mediator = mediator_of(error := kind())

    async def work() -> None:
        async with mediator.scope(), mediator.context(tenant="t"), mediator.scope(TransactionMode.NEW):
            raise error

    await arrives(error, work())


@each_error
async def test_an_error_in_the_body_of_a_unit_of_work_arrives_unchanged(kind: Any):
    mediator, error = mediator_of(ValueError()), kind()

    async def work(mode: TransactionMode) -> None:
        async with mediator.scope():
            unit_of_work = InMemoryUnitOfWork(InMemoryDatabase())
            async with unit_of_work, mediator.scope(mode):
                raise error

    for mode in (TransactionMode.DEFAULT, TransactionMode.NESTED, TransactionMode.NEW):
        await arrives(error, work(mode))


@each_error
async def test_an_error_of_a_stream_or_its_consumer_arrives_unchanged(kind: Any):
    mediator = mediator_of(error := kind())

    async def work(*, all_items: bool) -> None:
        async with mediator.stream(Numbers()) as items:
            async for _ in items:
                if not all_items:
                    raise error

    await arrives(error, work(all_items=True))
    await arrives(error, work(all_items=False))


@pytest.mark.parametrize("kind", ERRORS[:4], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "behaviors",
    [
        [TimeoutBehavior(5.0)],
        [RetryBehavior(on=Exception, attempts=2, first_wait=0.0)],
        [RetryBehavior(on=LookupError, attempts=2, first_wait=0.0)],
        [RequestExceptionProcessorBehavior(), RequestExceptionActionProcessorBehavior()],
        [around(Command[Any] | Notification, lambda _message, call_next: call_next())],
    ],
    ids=["timeout", "retry", "no retry", "exceptions", "own"],
)
async def test_an_error_passes_every_behavior_unchanged(kind: Any, behaviors: list[Any]):
    class Answer(RequestExceptionHandler[ExpelStudent, None, Exception]):
        async def handle(self, request, error, /):
            return "neither Handled(...) nor None"

    class Look(RequestExceptionAction[ExpelStudent, Exception]):
        async def execute(self, request, error, /):
            raise ValueError("this becomes a note, where the error takes one")

    error = kind()
    mediator = wire(handles(ExpelStudent, raising(error)), behaviors=behaviors, collaborators=[Answer, Look])
    await arrives(error, mediator.send(ExpelStudent()))


@pytest.mark.parametrize("on", [Exception, LookupError])
@pytest.mark.parametrize("kind", [StopAsyncIteration, GeneratorExit, asyncio.CancelledError])
async def test_a_stop_iteration_or_cancellation_passes_a_retry_unchanged(kind: Any, on: Any):
    error, starts = kind(), []

    async def work(_message: Any) -> None:
        starts.append(1)
        raise error

    retry = RetryBehavior[Any](on=on, attempts=3, first_wait=0.0)
    await arrives(error, wire(handles(ExpelStudent, work), behaviors=[retry]).send(ExpelStudent()))
    assert len(starts) == (3 if issubclass(kind, on) else 1)


@pytest.mark.parametrize("kind", ERRORS[:4], ids=lambda kind: kind.__name__)
async def test_an_error_of_concurrent_handlers_arrives_unchanged(kind: Any):
    error = kind()
    one = wire(listens(StudentEnrolled, raising(error)))
    two = wire(listens(StudentEnrolled, raising(error)), listens(StudentEnrolled, raising(error)))
    for strategy in (Concurrent(), Sequential("collect")):
        await arrives(error, one.publish(StudentEnrolled(), strategy=strategy))
        with pytest.raises(ExceptionGroup) as caught:
            await two.publish(StudentEnrolled(), strategy=strategy)
        assert all(each is error for each in caught.value.exceptions)


@pytest.mark.parametrize("kind", ERRORS[:4], ids=lambda kind: kind.__name__)
async def test_an_error_after_the_commit_is_named_by_the_after_commit_error(kind: Any):
    mediator = mediator_of(error := kind())
    with pytest.raises(AfterCommitError) as caught:
        async with mediator.scope(), InMemoryUnitOfWork(InMemoryDatabase()):
            mediator.publish_after_commit(StudentEnrolled())
    assert caught.value.errors[0] is error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("kind", ERRORS[:4], ids=lambda kind: kind.__name__)
async def test_an_error_of_an_event_handler_is_parked_with_the_event(kind: Any):
    application, error = Application({"retry_delays": (), "fatal_errors": (kind,)}), kind()

    async def fail(_event: Any) -> None:
        raise error

    application.acts[1] = fail
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert application.parking.events[0].error.startswith(f"{kind.__name__}: ")


class UnprintableError(Exception):
    """An error that Python cannot print, because each method that printing calls fails."""

    @property
    def __notes__(self) -> NoReturn:
        raise ZeroDivisionError

    def __str__(self) -> str:
        raise ZeroDivisionError


async def test_an_error_that_cannot_be_printed_stops_no_consumer():
    application = Application({"retry_delays": ()})

    async def fail(_event: Any) -> None:
        raise UnprintableError

    application.acts[1] = fail
    application.publish(1, 2)
    async with application.running():
        await application.settled(2)
    assert application.effects == [2]
    assert application.parking.events[0].error.startswith("UnprintableError: ")
    stack = traceback_of(application_error := UnprintableError())
    assert stack is not None
    assert "UnprintableError" in stack
    assert traceback_of(application_error.__cause__) is None


@each_error
async def test_the_exit_callbacks_of_a_stream_receive_the_error(kind: Any):
    error, told = kind(), []

    async def items(_request: Any) -> AsyncIterator[int]:
        current_scope().on_exit(told.append)
        yield 1

    mediator = wire(streams(Numbers, items))

    async def work() -> None:
        async with mediator.stream(Numbers()) as opened:
            async for _ in opened:
                raise error

    await arrives(error, work())
    assert len(told) == 1
    assert told[0] is error


@each_error
async def test_an_error_in_the_body_of_a_context_manager_arrives_unchanged(kind: Any):
    error, ended = kind(), []

    @contextmanager
    def block() -> Any:
        try:
            yield 1
        finally:
            ended.append(1)

    @asynccontextmanager
    async def async_block() -> Any:
        try:
            yield 2
        except BaseException as caught:
            add_note(caught, "a note")
            raise
        finally:
            ended.append(2)

    async def work() -> None:
        async with async_block() as two:
            with block() as one:
                assert (one, two) == (1, 2)
                raise error

    await arrives(error, work())
    assert ended == [1, 2]


@pytest.mark.parametrize(
    "error", [StopIteration(1), StopAsyncIteration(1), GeneratorExit(), RuntimeError(), KeyError()]
)
async def test_a_context_manager_passes_on_every_error_and_swallows_what_its_generator_swallows(error: BaseException):
    @contextmanager
    def block(*, swallow: bool) -> Any:
        with suppress(*[type(error)] * swallow):
            yield

    @asynccontextmanager
    async def async_block(*, swallow: bool) -> Any:
        with suppress(*[type(error)] * swallow):
            yield

    def fail() -> NoReturn:
        raise error

    for swallow in (True, False):
        seen: list[BaseException] = []
        try:
            with block(swallow=swallow):
                fail()
        except BaseException as raised:
            seen.append(raised)
        try:
            async with async_block(swallow=swallow):
                fail()
        except BaseException as raised:
            seen.append(raised)
        assert seen == ([] if swallow else [error, error])


async def test_a_context_manager_that_replaces_an_error_or_does_not_yield_once_raises():
    @contextmanager
    def block(times: int) -> Any:
        for _ in range(times):
            with suppress(KeyError):
                yield

    @asynccontextmanager
    async def async_block(times: int) -> Any:
        for _ in range(times):
            with suppress(KeyError):
                yield

    for times in (0, 2):
        for error in (None, KeyError()):
            with pytest.raises(RuntimeError, match="yield"), block(times):
                if error is not None:
                    raise error
            with pytest.raises(RuntimeError, match="yield"):
                async with async_block(times):
                    if error is not None:
                        raise error


async def test_a_traceback_ends_where_the_error_was_raised_and_has_no_steps_of_context_managers():
    mediator = mediator_of(ValueError())
    with pytest.raises(LookupError) as caught:
        async with mediator.scope(), mediator.context():
            raise LookupError
    assert [each.name for each in caught.traceback] == [
        "test_a_traceback_ends_where_the_error_was_raised_and_has_no_steps_of_context_managers"
    ]


async def test_a_note_is_added_once_and_only_to_errors_that_accept_notes():
    error = ValueError()
    for _ in range(2):
        add_note(error, "where it was")
    assert error.__notes__ == ["where it was"]
    for kind in ERRORS:
        add_note(kind(), "where it was")


async def test_an_error_that_replaces_the_cancellation_of_a_timeout_arrives_too():
    """From Python 3.13 on, `asyncio.timeout` sets attributes of such an error."""
    error = FrozenError()

    async def work(_message: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise error from None

    await arrives(error, wire(handles(ExpelStudent, work), behaviors=[TimeoutBehavior(0.01)]).send(ExpelStudent()))


async def test_an_error_of_the_commit_arrives_unchanged():
    mediator, error = mediator_of(ValueError()), FrozenError()

    async def work() -> None:
        async with mediator.scope(), InMemoryUnitOfWork(InMemoryDatabase()):
            pass

    with failpoint("unit_of_work.before_commit", Failure(error)):
        await arrives(error, work())
