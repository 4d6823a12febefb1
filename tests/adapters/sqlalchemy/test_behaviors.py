"""The library's behaviors around real transactions: errors, retries and conversions agree with the database."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from mediator import Mediator, PipelineBehavior, TimeoutBehavior, TransactionMode
from mediator.behaviors import Handled, RequestExceptionHandler, RequestExceptionProcessorBehavior
from mediator.behaviors.retry import RetryBehavior
from mediator.binding import Binding
from mediator.errors import (
    AfterCommitError,
    CommitOutcomeUnknownError,
    CommittedError,
    MessageTimeoutError,
    RolledBackError,
)
from mediator.registry import Registry
from mediator.testing.failpoints import Failure, failpoint
from mediator.transactions import Outcome
from tests.adapters.sqlalchemy.ledger import Count, Do, Ledger, Noted, Write

LIMIT = 0.5
"""Seconds, more than a command takes on a busy machine, so that the time runs out at the place chosen by a test."""


class RefusedError(Exception):
    pass


class Answer(RequestExceptionHandler[Write, str, RefusedError]):
    async def handle(self, _request: Write, _error: RefusedError) -> Handled[str]:
        return Handled("refused")


class AnswerAnything(RequestExceptionHandler[Do, str, Exception]):
    async def handle(self, _request: Do, error: Exception) -> Handled[str]:
        return Handled(type(error).__name__)


COMPANIONS = [Binding(cls, cls, cls.__name__, RequestExceptionHandler) for cls in (Answer, AnswerAnything)]


def listed(ledger: Ledger, *before: Any, after: Any = ()) -> Ledger:
    """Put behaviors before and after the transaction in the list."""
    registry = ledger.mediator.registry

    def bound(behaviors: Any) -> list[Binding]:
        return [
            Binding(lambda behavior=behavior: behavior, type(behavior), "here", PipelineBehavior)  # type: ignore[misc]
            for behavior in behaviors
        ]

    behaviors = [*bound(before), *registry.behaviors, *bound(after)]
    ledger.mediator = Mediator(Registry(registry.handlers, behaviors, COMPANIONS))
    ledger.send = ledger.mediator.send
    return ledger


async def refuse(_ledger: Ledger) -> None:
    raise RefusedError


def retry(**options: Any) -> RetryBehavior[Any]:
    async def sleep(_seconds: float) -> None:
        await asyncio.sleep(0)

    return RetryBehavior(on=(ConnectionError, CommittedError), sleep=sleep, **options)


def failing(times: int, error: type[Exception] = ConnectionError) -> Callable[[Ledger], Any]:
    left = [error() for _ in range(times)]

    async def fail(_ledger: Ledger) -> None:
        if left:
            raise left.pop()

    return fail


def until_timed_out() -> Callable[[], Any]:
    """An action of a failpoint that lasts until the timeout cancels this task."""
    task = asyncio.current_task()

    async def wait() -> None:
        while task is not None and not task.cancelling():
            await asyncio.sleep(0.001)

    return wait


# Timeout


async def test_a_command_that_takes_too_long_is_rolled_back(ledger: Ledger) -> None:
    async def hang(_ledger: Ledger) -> None:
        await asyncio.Event().wait()

    listed(ledger, TimeoutBehavior(LIMIT))
    async with ledger.mediator.scope() as scope:
        with pytest.raises(MessageTimeoutError):
            await ledger.send(Write("a", then=hang))
        assert scope.outcome is Outcome.ROLLED_BACK
    assert await ledger.entries() == await ledger.staged() == []


@pytest.mark.parametrize("name", ["unit_of_work.during_commit", "unit_of_work.after_commit"])
async def test_a_timeout_after_the_commit_began_says_that_the_command_was_committed(ledger: Ledger, name: str) -> None:
    listed(ledger, TimeoutBehavior(LIMIT))
    with failpoint(name, until_timed_out()), pytest.raises((CommittedError, MessageTimeoutError)) as caught:
        await ledger.send(Write("a"))
    assert isinstance(caught.value, CommittedError)
    assert caught.value.response == "A"
    assert caught.value.transaction_id
    assert await ledger.entries() == await ledger.staged() == ["a"]


async def test_a_timeout_before_the_commit_rolls_the_command_back(ledger: Ledger) -> None:
    listed(ledger, TimeoutBehavior(LIMIT))
    with failpoint("unit_of_work.before_commit", until_timed_out()), pytest.raises(MessageTimeoutError):
        await ledger.send(Write("a"))
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_timeout_does_not_hide_the_unknown_outcome_of_a_commit(ledger: Ledger) -> None:
    lost = CommitOutcomeUnknownError("the transaction", "the connection was lost")

    async def lose() -> None:
        await until()
        raise lost

    until = until_timed_out()
    listed(ledger, TimeoutBehavior(LIMIT))
    with failpoint("unit_of_work.during_commit", lose), pytest.raises(CommitOutcomeUnknownError) as caught:
        await ledger.send(Write("a"))
    assert caught.value is lost


async def test_a_failure_after_the_commit_is_raised_rather_than_the_timeout(ledger: Ledger) -> None:
    async def act(ledger: Ledger) -> str:
        ledger.mediator.publish_after_commit(Noted("b", fails=True))
        await ledger.write("a")
        return "done"

    listed(ledger, TimeoutBehavior(LIMIT))
    with failpoint("unit_of_work.during_commit", until_timed_out()), pytest.raises(AfterCommitError) as caught:
        await ledger.send(Do(act))
    assert caught.value.response == "done"
    assert await ledger.entries() == ["a"]


async def test_a_timeout_of_a_query_does_not_mention_an_earlier_commit(ledger: Ledger) -> None:
    async def hang(_message: Any, _call_next: Any) -> None:
        await asyncio.Event().wait()

    class Hang(PipelineBehavior[Count, int]):
        async def handle(self, message: Any, call_next: Any) -> Any:
            await hang(message, call_next)

    listed(ledger, TimeoutBehavior(LIMIT), after=[Hang()])
    async with ledger.mediator.scope() as scope:
        await ledger.send(Write("a"))
        assert scope.outcome is Outcome.COMMITTED
        with pytest.raises(MessageTimeoutError):
            await ledger.send(Count())


async def test_a_timeout_around_retries_says_that_an_attempt_was_committed(ledger: Ledger) -> None:
    listed(ledger, TimeoutBehavior(LIMIT), retry())
    with failpoint("unit_of_work.during_commit", until_timed_out()), pytest.raises(CommittedError) as caught:
        await ledger.send(Write("a"))
    assert caught.value.response == "A"
    assert await ledger.entries() == ["a"]


async def test_an_attempt_that_timed_out_can_be_retried(ledger: Ledger) -> None:
    calls: list[str] = []

    async def hang_once(_ledger: Ledger) -> None:
        calls.append("call")
        if len(calls) == 1:
            await asyncio.Event().wait()

    behavior = RetryBehavior[Any](on=MessageTimeoutError, first_wait=0.001)
    listed(ledger, behavior, TimeoutBehavior(LIMIT))
    assert await ledger.send(Write("a", then=hang_once)) == "A"
    assert await ledger.entries() == ["a"]


# Retry


async def test_a_retried_command_takes_effect_once_and_each_attempt_has_its_own_transaction(ledger: Ledger) -> None:
    listed(ledger, retry())
    assert await ledger.send(Write("a", then=failing(2))) == "A"
    assert await ledger.entries() == await ledger.staged() == ["a"]


async def test_a_failed_last_attempt_leaves_no_rows_of_any_attempt(ledger: Ledger) -> None:
    listed(ledger, retry(attempts=2))
    with pytest.raises(ConnectionError):
        await ledger.send(Write("a", then=failing(2)))
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_failed_commit_is_retried(ledger: Ledger) -> None:
    listed(ledger, retry())
    with failpoint("unit_of_work.before_commit", Failure(ConnectionError())):
        assert await ledger.send(Write("a")) == "A"
    assert await ledger.entries() == ["a"]


@pytest.mark.parametrize("error", [ConnectionError("later"), CommittedError("1", "response")])
async def test_a_committed_command_is_never_retried_after_any_error(ledger: Ledger, error: Exception) -> None:
    class FailAfterwards(PipelineBehavior[Write, str]):
        async def handle(self, _message: Write, call_next: Any) -> str:
            await call_next()
            raise error

    listed(ledger, retry(), FailAfterwards())
    with pytest.raises(CommittedError) as caught:
        await ledger.send(Write("a"))
    assert error in (caught.value, caught.value.__cause__)
    assert caught.value.response in ("A", "response")
    assert await ledger.entries() == ["a"]


async def test_a_commit_of_unknown_outcome_is_never_retried(ledger: Ledger) -> None:
    class Disguise(PipelineBehavior[Write, str]):
        async def handle(self, _message: Write, call_next: Any) -> str:
            try:
                response: str = await call_next()
            except CommitOutcomeUnknownError as error:
                raise ConnectionError from error
            return response

    listed(ledger, retry(), Disguise())
    unknown = CommitOutcomeUnknownError("the transaction", "the connection was lost")
    with (
        failpoint("unit_of_work.during_commit", Failure(unknown)),
        pytest.raises(CommitOutcomeUnknownError, match="the connection was lost") as caught,
    ):
        await ledger.send(Write("a"))
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert await ledger.entries() == []  # a second attempt would have written


async def test_the_whole_transaction_is_retried_and_not_its_part(ledger: Ledger) -> None:
    part = failing(1)

    async def act(ledger: Ledger) -> str:
        await ledger.write("outer")
        return await ledger.send(Write("inner", then=part))

    listed(ledger, retry())
    assert await ledger.send(Do(act)) == "INNER"
    assert await ledger.entries() == ["outer", "inner"]


# Handlers of errors


async def test_a_converted_error_outside_the_transaction_rolls_everything_back(ledger: Ledger) -> None:
    listed(ledger, RequestExceptionProcessorBehavior())
    assert await ledger.send(Write("a", then=refuse)) == "refused"
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_converted_error_inside_the_transaction_commits_the_earlier_part_only(ledger: Ledger) -> None:
    class Audit(PipelineBehavior[Write, str]):
        async def handle(self, _message: Write, call_next: Any) -> str:
            await ledger.write("attempted")
            response: str = await call_next()
            return response

    listed(ledger, after=[Audit(), RequestExceptionProcessorBehavior()])
    assert await ledger.send(Write("a", then=refuse)) == "refused"
    assert await ledger.entries() == ["attempted"]
    assert await ledger.staged() == []


@pytest.mark.parametrize("mode", [TransactionMode.DEFAULT, TransactionMode.NESTED])
async def test_a_part_with_a_converted_error_leaves_no_rows_and_the_whole_commits(
    ledger: Ledger, mode: TransactionMode
) -> None:
    answers: list[str] = []

    async def act(ledger: Ledger) -> None:
        await ledger.write("before")
        answers.append(await ledger.send(Write("part", then=refuse), mode=mode))
        await ledger.write("after")

    listed(ledger, RequestExceptionProcessorBehavior())
    await ledger.send(Do(act))
    assert answers == ["refused"]
    assert await ledger.entries() == ["before", "after"]
    assert await ledger.staged() == []


async def test_an_error_that_doomed_the_whole_cannot_be_converted_into_a_commit(ledger: Ledger) -> None:
    async def act(ledger: Ledger) -> None:
        await ledger.write("a")
        with contextlib.suppress(ConnectionError):
            await ledger.send(Write("b", then=failing(1)))  # no handler converts this error

    listed(ledger, after=[RequestExceptionProcessorBehavior()])
    # Inside, the doomed savepoint is rolled back and the error of that is what is converted; nothing of it is left.
    assert await ledger.send(Do(act)) == RolledBackError.__name__
    assert await ledger.entries() == await ledger.staged() == []


async def test_error_handlers_outside_the_transaction_receive_errors_of_the_commit(ledger: Ledger) -> None:
    async def act(ledger: Ledger) -> str:
        await ledger.write("a")
        return "done"

    listed(ledger, RequestExceptionProcessorBehavior())
    with failpoint("unit_of_work.before_commit", Failure(ConnectionError())):
        assert await ledger.send(Do(act)) == "ConnectionError"
    assert await ledger.entries() == []
