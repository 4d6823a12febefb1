"""Retrying, without a database."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mediator import Command, MessageContext, TransactionMode, current_context, current_scope
from mediator.behaviors.retry import RetryBehavior
from mediator.errors import CommitOutcomeUnknownError, CommittedError, ScopeError, SettingError
from mediator.transactions import Outcome
from tests.unit.samples import CountStudents, EnrollStudent, answer_name
from tests.unit.transactions import Transactional
from tests.unit.wiring import around, bind, handles, wire


class FakeSleep:
    """A sleep that returns at once and records the requested seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Flaky:
    """A handler that raises the given errors one by one, and then returns a response."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self, message: Any, *_: Any) -> Any:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return message.name


class Stop(BaseException):
    pass


def retry(**options: Any) -> RetryBehavior[Any]:
    return RetryBehavior(**{"on": ConnectionError, "sleep": FakeSleep(), **options})


@given(failures=st.integers(0, 6), attempts=st.integers(1, 5))
async def test_attempts_are_made_until_one_succeeds_or_the_last_one_fails(failures, attempts):
    errors = [ConnectionError(str(number)) for number in range(failures)]
    work = Flaky(*errors)
    mediator = wire(handles(EnrollStudent, work), behaviors=[retry(attempts=attempts)])
    if failures < attempts:
        assert await mediator.send(EnrollStudent("Ada")) == "Ada"
        assert work.calls == failures + 1
    else:
        with pytest.raises(ConnectionError) as caught:
            await mediator.send(EnrollStudent())
        assert caught.value is errors[attempts - 1]
        assert work.calls == attempts


async def test_each_attempt_has_its_own_scope_and_handler_and_the_ids_of_the_message():
    scopes: list[Any] = []
    contexts: list[Any] = []
    built: list[Any] = []
    flaky = Flaky(ConnectionError(), ConnectionError())

    async def work(message: Any) -> Any:
        scopes.append(current_scope())
        contexts.append(current_context())
        return await flaky(message)

    def build() -> Any:
        built.append(handles(EnrollStudent, work))
        return built[-1]

    async def look(_message: Any, call_next: Any) -> Any:
        scopes.append(current_scope())
        contexts.append(current_context())
        response = await call_next()
        assert current_scope() is scopes[0]
        return response

    handler = bind(handles(EnrollStudent, work), build)
    await wire(handler, behaviors=[around(Any, look), retry()]).send(EnrollStudent())
    assert len(set(map(id, scopes))) == 4
    assert len(built) == 3
    assert len(set(contexts)) == 1
    assert all(scope.closed for scope in scopes)


async def test_the_scope_of_a_failed_attempt_is_closed_with_its_error_before_the_next_begins():
    log: list[str] = []
    flaky = Flaky(ConnectionError())

    async def work(message: Any) -> Any:
        log.append("attempt")
        current_scope().on_exit(lambda error: log.append(f"closed after {error!r}"))
        return await flaky(message)

    await wire(handles(EnrollStudent, work), behaviors=[retry()]).send(EnrollStudent())
    assert log == ["attempt", "closed after ConnectionError()", "attempt", "closed after None"]


async def test_pauses_grow_up_to_the_maximum_and_have_jitter():
    slept = FakeSleep()
    behavior = retry(attempts=6, first_wait=0.1, last_wait=1.0, sleep=slept)
    with pytest.raises(ConnectionError):
        await wire(handles(EnrollStudent, Flaky(*[ConnectionError()] * 6)), behaviors=[behavior]).send(EnrollStudent())
    assert len(slept.seconds) == 5
    for number, seconds in enumerate(slept.seconds):
        assert min(0.1 * 2**number, 1.0) <= seconds <= min(0.1 * 2**number, 1.0) + 0.1


async def test_a_retry_is_logged_without_the_message_and_the_text_of_the_error():
    with capture_logs() as logs:
        mediator = wire(handles(EnrollStudent, Flaky(ConnectionError("secret"))), behaviors=[retry()])
        await mediator.send(EnrollStudent("Ada"), context=MessageContext("m-1", "flow-1", principal="eve"))
    (line,) = logs
    assert 0.1 <= line.pop("seconds") <= 0.2
    assert line.pop("message_id") != line["causation_id"]
    assert line == {
        "event": "retrying",
        "correlation_id": "flow-1",
        "causation_id": "m-1",
        "principal": "eve",
        "log_level": "warning",
        "message_type": "EnrollStudent",
        "error": "ConnectionError",
        "attempt": 1,
    }


@pytest.mark.parametrize(
    "error",
    [LookupError(), CommittedError("1", "response"), CommitOutcomeUnknownError("1", "lost"), Stop()],
    ids=lambda error: type(error).__name__,
)
async def test_other_errors_and_errors_after_a_commit_are_never_retried(error):
    named = Exception if isinstance(error, CommittedError | CommitOutcomeUnknownError) else ConnectionError
    work = Flaky(error)
    with pytest.raises(type(error)) as caught:
        await wire(handles(EnrollStudent, work), behaviors=[retry(on=named)]).send(EnrollStudent())
    assert caught.value is error
    assert work.calls == 1


async def test_an_attempt_is_not_repeated_once_a_transaction_in_its_scope_has_committed():
    async def work(message: Any) -> Any:
        current_scope().settled_id = "42"
        return await flaky(message)

    flaky = Flaky(ConnectionError())
    with pytest.raises(ConnectionError):
        await wire(handles(EnrollStudent, work), behaviors=[retry()]).send(EnrollStudent())
    assert flaky.calls == 1


async def test_the_outer_scope_receives_the_outcome_of_the_last_attempt():
    async def work(_message: Any) -> str:
        scope = current_scope()
        scope.outcome, scope.response, scope.settled_id = Outcome.COMMITTED, "response", "42"
        return "response"

    mediator = wire(handles(EnrollStudent, work), behaviors=[retry()])
    async with mediator.scope() as scope:
        await mediator.send(EnrollStudent())
        assert (scope.outcome, scope.response, scope.settled_id) == (Outcome.COMMITTED, "response", "42")


@pytest.mark.parametrize("named", [Exception, (ConnectionError, asyncio.CancelledError)])
async def test_a_cancellation_during_an_attempt_or_a_pause_is_never_retried(named):
    reached = asyncio.Event()
    calls: list[Any] = []

    async def hang(*_: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def fail_then_hang(message: Any) -> Any:
        calls.append(message)
        raise ConnectionError

    for work, sleep in [(hang, asyncio.sleep), (fail_then_hang, hang)]:
        reached.clear()
        mediator = wire(handles(EnrollStudent, work), behaviors=[retry(on=named, sleep=sleep)])
        task = asyncio.create_task(mediator.send(EnrollStudent()))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(calls) == 1


async def test_a_message_that_joins_a_running_transaction_is_tried_once_in_its_scope():
    class Outer(Command[None]):
        pass

    scopes: list[Any] = []
    errors = [ConnectionError(), ConnectionError()]

    async def inner(_message: Any) -> None:
        scopes.append(current_scope())
        if errors:
            raise errors.pop()

    async def outer(_message: Any) -> None:
        scopes.append(current_scope())
        await mediator.send(EnrollStudent())

    transactional = Transactional()
    mediator = wire(handles(Outer, outer), handles(EnrollStudent, inner), behaviors=[retry(), transactional])
    await mediator.send(Outer())
    assert len(transactional.begun) == 3  # the outermost command is repeated with its inner commands
    assert [scopes[n] is scopes[n + 1] for n in (0, 2, 4)] == [True] * 3
    assert len(set(map(id, scopes))) == 3


async def test_no_attempt_has_a_transaction_in_mode_suppress():
    transactional = Transactional()
    mediator = wire(handles(EnrollStudent, Flaky(ConnectionError())), behaviors=[retry(), transactional])
    await mediator.send(EnrollStudent(), mode=TransactionMode.SUPPRESS)
    assert transactional.begun == []


async def test_the_most_specific_settings_apply():
    class Once(RetryBehavior[EnrollStudent]):
        pass

    work = Flaky(ConnectionError())
    behaviors = [retry(), Once(on=ConnectionError, attempts=1)]
    with pytest.raises(ConnectionError):
        await wire(handles(EnrollStudent, work), behaviors=behaviors).send(EnrollStudent())
    mediator = wire(handles(CountStudents, Flaky(ConnectionError())), behaviors=behaviors)
    with pytest.raises(AttributeError):  # the second attempt returns a name that this query does not have
        await mediator.send(CountStudents())


async def test_outside_a_dispatch_the_behavior_has_no_scope():
    with pytest.raises(ScopeError, match="no dispatch is running"):
        await retry().handle(EnrollStudent(), answer_name)  # type: ignore[arg-type]


def test_zero_attempts_are_refused():
    with pytest.raises(SettingError, match="attempts"):
        retry(attempts=0)
