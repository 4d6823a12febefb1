"""Outcomes: an error after a commit reports the commit, and after a rollback no response or error claims a commit."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mediator import (
    Command,
    Concurrent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    LoggingBehavior,
    Mediator,
    Notification,
    PipelineBehavior,
    Query,
    TimeoutBehavior,
    TransactionMode,
    current_scope,
)
from mediator.behaviors import (
    Handled,
    RequestExceptionHandler,
    RequestExceptionProcessorBehavior,
    RequestPostProcessor,
    RequestPostProcessorBehavior,
)
from mediator.behaviors.retry import RetryBehavior
from mediator.binding import Binding
from mediator.distributed.outbox import EventPublisher
from mediator.errors import (
    AfterCommitError,
    CommitOutcomeUnknownError,
    CommittedError,
    EventsNotPublishedError,
    MessageTimeoutError,
    RolledBackError,
    ScopeError,
)
from mediator.registry import Registry
from mediator.testing import InMemoryDatabase, InMemoryOutbox, InMemoryUnitOfWork
from mediator.testing.failpoints import Failure, failpoint
from mediator.transactions import Outcome
from tests.unit.distributed.inbox.application import OrderPlaced
from tests.unit.virtual_time import in_virtual_time, now
from tests.unit.wiring import bind, handles, listens


@dataclass(frozen=True)
class Write(Command[str]):
    """Writes a row and calls `then`."""

    row: str = "a"
    then: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Orchestrate(Query[str]):
    """A request without a transaction."""

    then: Callable[[], Any]


@dataclass(frozen=True)
class Written(Notification):
    row: str
    then: Callable[[], Any] | None = None


@dataclass
class App:
    """An application in memory, with behaviors outside its transaction."""

    outside: list[Any] = field(default_factory=list)
    collaborators: list[Any] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = InMemoryDatabase()
        transaction = Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
        work = [handles(Write, self._write), handles(Orchestrate, self._orchestrate), listens(Written, self._follow)]
        behaviors = [*map(bind, self.outside), transaction]
        registry = Registry([bind(each) for each in work], behaviors, [bind(each) for each in self.collaborators])
        self.mediator = Mediator(registry)
        self.send = self.mediator.send

    @property
    def unit_of_work(self) -> InMemoryUnitOfWork:
        instances = current_scope().instances
        if InMemoryUnitOfWork not in instances:
            instances[InMemoryUnitOfWork] = InMemoryUnitOfWork(self.database)
        found: InMemoryUnitOfWork = instances[InMemoryUnitOfWork]
        return found

    def _transaction(self) -> Any:
        unit = self.unit_of_work
        options = {"outbox": InMemoryOutbox(self.database), **self.options}
        return DistributedUnitOfWorkBehavior(unit, DistributedEventBroker(unit), **options)

    async def _write(self, command: Write) -> str:
        self.unit_of_work.table("rows")[command.row] = command.row
        if command.then is not None:
            await command.then()
        return command.row.upper()

    async def _orchestrate(self, query: Orchestrate) -> Any:
        return await query.then()

    async def _follow(self, notification: Written) -> None:
        self.unit_of_work.table("rows")[notification.row] = notification.row
        if notification.then is not None:
            await notification.then()

    @property
    def rows(self) -> list[str]:
        return list(self.database.tables.get("rows", {}))


def after(work: Callable[[], Any], message: Any = Write) -> PipelineBehavior[Any, Any]:
    """Return a behavior that does something after the rest of the pipeline has succeeded."""

    class After(PipelineBehavior[message, Any]):
        async def handle(self, _message: Any, call_next: Any, /) -> Any:
            response = await call_next()
            replaced = await work()
            return response if replaced is None else replaced

    return After()


def instead(work: Callable[[Exception], Any], message: Any = Write) -> PipelineBehavior[Any, Any]:
    """Return a behavior that does something instead of raising an error."""

    class Instead(PipelineBehavior[message, Any]):
        async def handle(self, _message: Any, call_next: Any, /) -> Any:
            try:
                return await call_next()
            except Exception as error:
                return await work(error)

    return Instead()


def raising(error: BaseException) -> Callable[..., Any]:
    async def work(*_arguments: Any) -> Any:
        raise error

    return work


LATE = OSError(28, "No space left on device")


async def error_of(app: App, message: Any = None) -> BaseException:
    with pytest.raises(BaseException) as caught:
        await app.send(Write() if message is None else message)
    return caught.value


class Broken(EventPublisher):
    async def publish(self, _events: Any, /) -> Any:
        raise asyncio.CancelledError


class Late(RequestPostProcessor[Write, str]):
    async def process(self, _request: Write, _response: str, /) -> None:
        raise LATE


# After the commit


@settings(max_examples=40, deadline=None)
@given(places=st.lists(st.booleans(), min_size=1, max_size=4), kind=st.sampled_from([OSError, ValueError, KeyError]))
def test_any_error_of_a_behavior_after_the_commit_reports_that_the_command_committed(
    places: list[bool], kind: type[Exception]
) -> None:
    """`places` are the behaviors outside the transaction that raise, counted from the outermost."""
    errors = [kind(str(place)) for place, raises in enumerate(places) if raises]
    remaining = list(errors)
    outside = [after(raising(remaining.pop(0))) if raises else LoggingBehavior() for raises in places]

    async def run() -> None:
        app = App(outside)
        if not errors:
            assert await app.send(Write()) == "A"
        else:
            error = await error_of(app)
            assert isinstance(error, CommittedError)
            assert (error.response, error.__cause__, error.message) == ("A", errors[-1], Write())
        assert app.rows == ["a"]

    asyncio.run(run())


async def test_a_post_processor_that_fails_after_the_commit_does_not_look_like_a_failure() -> None:
    error = await error_of(App([RequestPostProcessorBehavior()], [Late]))
    assert isinstance(error, CommittedError)
    assert error.__cause__ is LATE


@pytest.mark.parametrize("cause", ["exit", "left running"])
async def test_a_scope_that_cannot_be_closed_does_not_look_like_a_failure(cause: str) -> None:
    waiting: list[asyncio.Task[Any]] = []

    async def close_badly() -> str:
        async def inner() -> str:
            await asyncio.Event().wait()
            return ""

        if cause == "exit":
            current_scope().on_exit(lambda _error: (_ for _ in ()).throw(LATE))
        else:
            waiting.append(asyncio.ensure_future(app.send(Orchestrate(inner))))
            await asyncio.sleep(0)
        return "replaced"

    app = App([after(close_badly)])
    error = await error_of(app)
    assert isinstance(error, CommittedError)
    assert error.response == "replaced"
    assert isinstance(error.__cause__, OSError if cause == "exit" else ScopeError)
    for task in waiting:
        task.cancel()
        await asyncio.wait({task})


async def test_an_error_of_closing_a_scope_is_unchanged_when_nothing_committed() -> None:
    async def close_badly() -> str:
        current_scope().on_exit(lambda _error: (_ for _ in ()).throw(LATE))
        return "done"

    assert await error_of(App(), Orchestrate(close_badly)) is LATE


async def test_an_error_of_closing_a_scope_opened_by_hand_reports_the_last_commit_in_the_scope() -> None:
    app = App()
    with pytest.raises(CommittedError) as caught:
        async with app.mediator.scope() as scope:
            scope.on_exit(lambda _error: (_ for _ in ()).throw(LATE))
            await app.send(Write("a"))
            await app.send(Write("b"))
            with pytest.raises(LookupError):
                await app.send(Write("c", raising(LookupError())))
    assert (caught.value.response, caught.value.__cause__, caught.value.message) == ("B", LATE, Write("b"))
    assert app.rows == ["a", "b"]


async def test_an_error_of_the_body_of_a_scope_is_unchanged_although_a_command_committed() -> None:
    app = App()
    with pytest.raises(LookupError):
        async with app.mediator.scope():
            await app.send(Write())
            raise LookupError
    assert app.rows == ["a"]


async def test_the_reported_response_is_the_one_that_an_outer_behavior_put_in_its_place() -> None:
    async def replace() -> str:
        return "replaced"

    error = await error_of(App([after(raising(LATE)), after(replace)]))
    assert isinstance(error, CommittedError)
    assert error.response == "replaced"


async def test_the_first_commit_is_reported_although_a_second_transaction_in_a_behavior_fails() -> None:
    async def audit() -> None:
        await app.send(Write("audit", raising(LookupError("audit"))))

    app = App([after(audit)])
    error = await error_of(app)
    assert isinstance(error, CommittedError)
    assert isinstance(error.__cause__, LookupError)
    assert (error.response, app.rows) == ("A", ["a"])


async def test_an_earlier_commit_in_the_same_scope_does_not_count_for_the_next_command() -> None:
    app = App([instead(raising(ValueError("translated")))])
    async with app.mediator.scope() as scope:
        await app.send(Write("a"))
        error = await error_of(app, Write("b", raising(LookupError())))
        assert isinstance(error, ValueError)
        assert scope.outcome is Outcome.ROLLED_BACK


async def test_an_outer_retry_never_repeats_a_command_that_failed_after_the_commit() -> None:
    app = App([RetryBehavior(on=Exception, sleep=asyncio.sleep), after(raising(LATE))])
    error = await error_of(app)
    assert isinstance(error, CommittedError)
    assert (error.response, error.message, app.rows) == ("A", Write(), ["a"])


async def test_an_outer_behavior_sees_that_the_command_committed() -> None:
    seen: list[Exception] = []

    async def look(error: Exception) -> Any:
        seen.append(error)
        raise error

    app = App([instead(look), after(raising(LATE))])
    error = await error_of(app)
    assert seen == [error]
    assert isinstance(error, CommittedError)


async def test_an_error_handler_replaces_the_response_of_a_committed_command_only_if_it_names_the_error() -> None:
    class AnswerAnything(RequestExceptionHandler[Write, str, Exception]):
        async def handle(self, _request: Write, _error: Exception, /) -> Handled[str]:
            return Handled("failed")

    class AnswerCommitted(RequestExceptionHandler[Write, str, CommittedError]):
        async def handle(self, _request: Write, error: CommittedError, /) -> Handled[str]:
            return Handled(f"committed {error.response}")

    behaviors = [RequestExceptionProcessorBehavior(), after(raising(LATE))]
    assert isinstance(await error_of(App(behaviors, [AnswerAnything])), CommittedError)
    assert await App(behaviors, [AnswerAnything, AnswerCommitted]).send(Write()) == "committed A"
    assert await App(behaviors, [AnswerAnything]).send(Write("a", raising(LookupError()))) == "failed"


async def test_a_timeout_after_the_commit_reports_that_the_command_committed() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    app = App([TimeoutBehavior(0.05), after(hang)])
    error = await error_of(app)
    assert isinstance(error, CommittedError)
    assert isinstance(error.__cause__, MessageTimeoutError)


async def test_a_cancellation_after_the_commit_remains_a_cancellation_with_the_outcome_as_its_cause() -> None:
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    app = App([after(hang)])
    task = asyncio.create_task(app.send(Write()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__cause__, CommittedError)
    assert caught.value.__cause__.response == "A"


@pytest.mark.parametrize("failing", [False, True])
async def test_a_cancellation_while_the_scope_is_closed_has_the_outcome_as_its_cause(failing: bool) -> None:
    reached = asyncio.Event()

    async def hang(_error: BaseException | None) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def close_slowly() -> str:
        current_scope().on_exit(hang)
        if failing:
            raise LATE
        return "replaced"

    task = asyncio.create_task(App([after(close_slowly)]).send(Write()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__cause__, CommittedError)
    assert caught.value.__cause__.response == ("A" if failing else "replaced")


async def test_a_cancellation_while_a_scope_without_a_commit_is_closed_has_no_cause() -> None:
    async def be_cancelled() -> str:
        current_scope().on_exit(lambda _error: (_ for _ in ()).throw(asyncio.CancelledError()))
        raise LookupError

    for message in (Write("a", be_cancelled), Orchestrate(be_cancelled)):
        with pytest.raises(asyncio.CancelledError) as caught:
            await App().send(message)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "point", ["unit_of_work.after_answer", "unit_of_work.before_wake", "unit_of_work.after_commit"]
)
async def test_a_failure_after_the_commit_of_a_unit_of_work_by_hand_reports_the_commit(point: str) -> None:
    app = App()
    followed: list[str] = []

    async def note() -> None:
        followed.append("followed")

    with failpoint(point, Failure(LATE)), pytest.raises(CommittedError) as caught:
        async with app.mediator.scope(), app.unit_of_work as unit:
            unit.table("rows")["a"] = "a"
            unit.after_commit("note", note)
    assert caught.value.__cause__ is LATE
    assert (app.rows, followed) == (["a"], ["followed"])


async def test_the_outcome_of_the_first_transaction_is_cleared_while_the_second_runs() -> None:
    async def look() -> None:
        scope = current_scope()
        seen.append((scope.outcome, scope.response))

    app, seen = App(), list[Any]()
    async with app.mediator.scope() as scope:
        for row in ("a", "b"):
            await app.send(Write(row, look))
            assert (scope.outcome, scope.response) == (Outcome.COMMITTED, row.upper())
    assert seen == [(Outcome.NONE, None)] * 2


async def test_a_publisher_that_cancels_itself_does_not_cancel_the_sender() -> None:
    async def add() -> None:
        DistributedEventBroker(app.unit_of_work).add(OrderPlaced(1))

    app = App(options={"outbox": None, "publisher": Broken(), "delivery": "direct"})
    error = await error_of(app, Write("a", add))
    assert isinstance(error, EventsNotPublishedError)
    assert (error.response, app.rows) == ("A", ["a"])


async def test_handlers_with_their_own_scopes_report_their_own_commits() -> None:
    async def close_badly() -> None:
        current_scope().on_exit(lambda _error: (_ for _ in ()).throw(LATE))

    app = App()
    with pytest.raises(CommittedError) as caught:
        await app.mediator.publish(Written("a", close_badly), strategy=Concurrent())
    assert (caught.value.__cause__, app.rows) == (LATE, ["a"])
    with pytest.raises(LookupError):
        await app.mediator.publish(Written("b", raising(LookupError())), strategy=Concurrent())
    assert app.rows == ["a"]


# Before the commit


async def test_the_commit_of_an_inner_command_is_not_reported_as_a_commit_of_the_outer_command() -> None:
    async def inner() -> None:
        await app.send(Write("inner"), mode=TransactionMode.NEW)

    app = App([after(raising(LATE))])
    error = await error_of(app, Write("outer", inner))
    assert isinstance(error, RolledBackError)
    assert isinstance(error.cause, CommittedError)
    assert (error.cause.response, error.message, app.rows) == ("INNER", Write("outer", inner), ["inner"])
    assert "everything in this one was rolled back" in str(error)


async def test_a_response_in_place_of_an_error_does_not_make_a_rollback_look_like_success() -> None:
    async def nothing(_error: Exception) -> str:
        return "fine"

    with capture_logs() as logs:
        error = await error_of(App([LoggingBehavior(), instead(nothing)]), Write("a", raising(LookupError())))
    assert isinstance(error, RolledBackError)
    assert isinstance(error.cause, LookupError)
    assert "Handled" in str(error)
    assert "handled" not in [line["event"] for line in logs]


@in_virtual_time
async def test_a_rollback_without_an_answer_delays_the_sender_for_at_most_half_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(InMemoryUnitOfWork, "roll_back_transaction", lambda _: asyncio.sleep(3600))
    for end in (30.0, 60.0):
        assert isinstance(await error_of(App(), Write("a", raising(LookupError()))), LookupError)
        assert now() == pytest.approx(end)


async def test_a_response_in_place_of_an_unknown_outcome_does_not_look_like_success() -> None:
    async def nothing(_error: Exception) -> str:
        return "fine"

    unknown = CommitOutcomeUnknownError("1", "the connection was lost")
    with failpoint("unit_of_work.during_commit", Failure(unknown)):
        assert await error_of(App([instead(nothing)])) is unknown


async def test_an_error_in_place_of_an_unknown_outcome_does_not_look_like_a_failure() -> None:
    unknown, translated = CommitOutcomeUnknownError("1", "the connection was lost"), ValueError()
    for outside in (
        [instead(raising(translated))],
        [LoggingBehavior(), instead(raising(translated)), LoggingBehavior()],
    ):
        with failpoint("unit_of_work.during_commit", Failure(unknown)):
            error = await error_of(App(outside))
        assert isinstance(error, CommitOutcomeUnknownError)
        assert error.__cause__ is translated


async def test_a_rolled_back_attempt_is_not_reported_after_a_successful_one() -> None:
    failures = [LookupError()]

    async def fail_once() -> None:
        if failures:
            raise failures.pop()

    async def sleep(_seconds: float) -> None:
        pass

    app = App([LoggingBehavior(), RetryBehavior(on=LookupError, sleep=sleep)])
    assert await app.send(Write("a", fail_once)) == "A"


async def test_a_dispatch_without_a_transaction_raises_the_errors_of_its_parts_unchanged() -> None:
    async def parts() -> Any:
        await app.send(Write("a"))
        await app.send(Write("b", raising(LookupError())))

    app = App()
    assert isinstance(await error_of(app, Orchestrate(parts)), LookupError)
    assert app.rows == ["a"]


# Calls after the commit


def publishing(app: App, *notifications: Written, fails: bool = False) -> Callable[[], Any]:
    async def publish() -> None:
        for each in notifications:
            app.mediator.publish_after_commit(each)
        if fails:
            raise LookupError

    return publish


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("strategy", [None, Concurrent()])
async def test_only_the_notification_that_did_not_commit_has_to_be_published_again_at_any_depth(
    depth: int, strategy: Any
) -> None:
    app = App()
    failing = Written("failing", raising(LookupError("deep")))
    last: Written = failing
    for number in range(depth):
        last = Written(str(number), publishing(app, last))

    async def start() -> None:
        app.mediator.publish_after_commit(last, strategy=strategy)

    error = await error_of(app, Write("a", start))
    assert isinstance(error, AfterCommitError)
    assert error.notifications == [failing]
    assert [str(each) for each in error.errors] == ["deep"]
    assert sorted(app.rows) == sorted(["a", *map(str, range(depth))])


async def test_a_notification_that_failed_after_its_commit_must_not_be_published_again() -> None:
    app = App([after(raising(LATE), Written)])
    error = await error_of(app, Write("a", publishing(app, Written("b"))))
    assert isinstance(error, AfterCommitError)
    assert (error.notifications, app.rows) == ([], ["a", "b"])


async def test_an_error_that_replaces_an_after_commit_error_keeps_the_names_of_the_notifications() -> None:
    translated = ValueError("translated")
    app = App([LoggingBehavior(), instead(raising(translated))])
    failing = Written("failing", raising(LookupError()))
    error = await error_of(app, Write("a", publishing(app, failing)))
    assert isinstance(error, AfterCommitError)
    assert (error.notifications, error.__cause__) == ([failing], translated)


async def test_a_notification_that_committed_before_the_timeout_must_not_be_published_again() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    app = App([after(hang, Written)], options={"after_commit_timeout": 0.1})
    late = Written("late")
    error = await error_of(app, Write("a", publishing(app, Written("b"), late)))
    assert isinstance(error, AfterCommitError)
    assert (error.notifications, app.rows) == ([late], ["a", "b"])
