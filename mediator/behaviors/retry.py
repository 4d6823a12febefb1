"""RetryBehavior: handles a message again after a transient error. It needs `mediator-uow[retry]`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, overload

from mediator.ambient import running_fields
from mediator.errors import CommitOutcomeUnknownError, CommittedError, RolledBackError, SettingError, misuse
from mediator.extras import Extra
from mediator.logger import Logger
from mediator.messages import Request
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import Frame, Scope, current_frame, enter
from mediator.settings import is_count, is_pause
from mediator.transactions import Outcome, TransactionMode

with Extra("retry"):
    from tenacity import AsyncRetrying, RetryCallState
    from tenacity.retry import retry_if_result
    from tenacity.stop import stop_after_attempt
    from tenacity.wait import wait_exponential, wait_random

Message = TypeVar("Message", bound=Request[Any])
Errors = type[Exception] | tuple[type[Exception], ...]


class RetryBehavior(PipelineBehavior[Message, Any]):
    """Handles a message again with exponential backoff when an attempt failed with a transient error.

    Each attempt has its own scope: a new handler, new scoped objects, and a new transaction. So place this behavior
    outside the transaction behavior. An attempt that committed, or may have committed, is never repeated, whatever
    error the attempt raised. A cancelled attempt is not repeated either. A message that joins a running transaction
    is never repeated alone: only the outermost message is repeated, as a whole.

    Without a type argument the behavior applies to all requests. To use other settings for some messages, derive a
    class: `class ReportRetry(RetryBehavior[MakeReport])`. If several retry behaviors match a message, only the most
    specific one applies.

    Args:
        on: The transient errors, such as the connection errors of your database driver or network client. Repeating a
            request that is itself invalid does not help.
        attempts: The number of attempts, including the first.
        first_wait: The pause after the first attempt, in seconds. The pause doubles after each further attempt. A
            random time of up to `first_wait` is added to each pause.
        last_wait: The longest pause in seconds, without the added random time.
        sleep: Waits for a number of seconds.

    Raises:
        SettingError: `attempts` is not a whole number of at least 1, or a pause is not a finite number of at least 0.
    """

    one_of: ClassVar[str | None] = "retry"
    belongs_outside: ClassVar[Mapping[str, str]] = {
        "unit of work": "a failed transaction cannot continue, so each attempt needs its own transaction"
    }

    @overload  # for the class itself, without a type argument
    def __init__(
        self: "RetryBehavior[Request[Any]]",
        *,
        on: Errors,
        attempts: int = ...,
        first_wait: float = ...,
        last_wait: float = ...,
        sleep: Callable[[float], Awaitable[None]] = ...,
    ) -> None: ...

    @overload
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # for subclasses that narrow the message
        self,
        *,
        on: Errors,
        attempts: int = ...,
        first_wait: float = ...,
        last_wait: float = ...,
        sleep: Callable[[float], Awaitable[None]] = ...,
    ) -> None: ...

    def __init__(
        self,
        *,
        on: Errors,
        attempts: int = 3,
        first_wait: float = 0.1,
        last_wait: float = 5.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not is_count(attempts):
            raise SettingError("attempts", attempts, "use a whole number, at least 1")
        for setting, wait in {"first_wait": first_wait, "last_wait": last_wait}.items():
            if not is_pause(wait):
                raise SettingError(setting, wait, "use a finite number of seconds, or 0 for no pause")
        self._on = on
        self._attempts = attempts
        self._wait = wait_exponential(multiplier=first_wait, max=last_wait) + wait_random(0, first_wait)
        self._sleep = sleep
        self._log: Logger = Logger()

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        frame = current_frame()
        if frame is None:
            raise misuse.no_scope("a retry")
        if frame.scope.transaction is not None:
            return await call_next()
        attempt: _Attempt = await self._retrying(message, frame.scope)(_tried, frame, call_next)
        if attempt.error is not None:
            try:
                raise attempt.error
            finally:
                del attempt  # without this, the error's traceback and the attempt would refer to each other
        return attempt.response

    def _retrying(self, message: Message, scope: Scope) -> AsyncRetrying:
        settled_before = scope.settled_id

        def may_pass(attempt: _Attempt) -> bool:
            error = attempt.error
            cause = error.cause if isinstance(error, RolledBackError) else error
            if isinstance(cause, CommittedError | CommitOutcomeUnknownError) or scope.settled_id != settled_before:
                return False
            return isinstance(error, self._on) and isinstance(error, Exception)

        def log(state: RetryCallState) -> None:
            error = _last(state).error
            pause = round(state.upcoming_sleep, 3)
            flow = running_fields()
            name, kind = type(message).__name__, type(error).__name__
            self._log.warning(
                "retrying", message_type=name, error=kind, attempt=state.attempt_number, seconds=pause, **flow
            )

        return AsyncRetrying(
            sleep=self._sleep,
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=retry_if_result(may_pass),
            before_sleep=log,
            retry_error_callback=_last,
        )


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The response or the error of an attempt.

    The error is returned to tenacity as a value, and not raised. Tenacity would ignore a raised error whose truth value
    is false, and take a raised `StopAsyncIteration` for the end of the attempts.
    """

    response: Any = None
    error: BaseException | None = None


def _last(state: RetryCallState) -> _Attempt:
    attempt: _Attempt = state.outcome.result() if state.outcome is not None else _Attempt()
    return attempt


async def _tried(outer: Frame, call_next: CallNext[Any]) -> _Attempt:
    try:
        return _Attempt(await _attempt(outer, call_next))
    except BaseException as error:  # raised again after the last attempt
        return _Attempt(error=error)


async def _attempt(outer: Frame, call_next: CallNext[Any]) -> Any:
    """Run the rest of the pipeline in a new scope, and record the outcome of the new scope in the outer scope."""
    mode = TransactionMode.NEW if outer.scope.transactional else TransactionMode.SUPPRESS
    frame = enter(mode, (outer.dispatch or outer).message, outer.origin, outer.context, is_dispatch=False)
    response: Any = None
    try:
        response = await call_next()
        frame.check_outcome()
    except BaseException as error:
        _report(frame, outer)
        await frame.leave(error)
        frame.raise_with_outcome(error)
        raise
    _report(frame, outer)
    await frame.leave(response=response)
    return response


def _report(attempt: Frame, outer: Frame) -> None:
    dispatch = outer.dispatch or outer
    if attempt.ending is None and dispatch.ending is not None and dispatch.ending.outcome is Outcome.ROLLED_BACK:
        dispatch.ending = None  # the ending of an earlier attempt
    elif attempt.ending is not None:
        dispatch.ending = attempt.ending
    inner, around = attempt.scope, dispatch.scope
    if inner.outcome is not Outcome.NONE:
        around.outcome, around.response = inner.outcome, inner.response
    around.committed = inner.committed or around.committed
    around.settled_id = inner.settled_id or around.settled_id
