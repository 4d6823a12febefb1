"""RetryBehavior: handles a message again after an error that may pass. It needs the extra `retry`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, TypeVar, overload

import structlog

from mediator.ambient import running_fields
from mediator.errors import CommitOutcomeUnknownError, CommittedError, NoScopeError, SettingError
from mediator.extras import Extra
from mediator.messages import Request
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import Frame, Scope, current_frame, enter
from mediator.transactions import TransactionMode

with Extra("retry"):
    from tenacity import AsyncRetrying, RetryCallState
    from tenacity.retry import retry_if_exception
    from tenacity.stop import stop_after_attempt
    from tenacity.wait import wait_exponential, wait_random

Message = TypeVar("Message", bound=Request[Any])
Errors = type[Exception] | tuple[type[Exception], ...]


class RetryBehavior(PipelineBehavior[Message, Any]):
    """Goes on again, after a growing pause, when an attempt failed with an error that may pass.

    Each attempt has a scope of its own: a new handler, new scoped objects, and a new transaction from the transaction
    behavior, which must stand inside. An attempt that has committed, or may have, is never repeated, whatever it raised
    afterwards; nor is one that was cancelled. A message that joins a running transaction is not repeated either: the
    outermost one is, as a whole.

    Without a type argument it applies to requests. For other settings of some messages derive a class:
    `class ReportRetry(RetryBehavior[MakeReport])`; the most specific one is taken.

    Args:
        on: The errors that may pass. Name those of your database driver or your network client: repeating a mistake of
            the sender helps nobody.
        attempts: How often to try, the first time included.
        first_wait: The pause after the first attempt, in seconds. It doubles from there; up to as much is added by chance.
        last_wait: The longest pause before that addition, in seconds.
        sleep: Waits for a number of seconds.
    """

    one_of: ClassVar[str | None] = "retry"
    belongs_outside: ClassVar[Mapping[str, str]] = {
        "unit of work": "a transaction in which something failed cannot go on, and an attempt needs one of its own"
    }

    @overload  # for the class as it is: type checkers need not be told what it applies to
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
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # classes that narrow the message use it
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
        if attempts < 1:
            raise SettingError("attempts", attempts, "there is at least one.")
        self._on = on
        self._attempts = attempts
        self._wait = wait_exponential(multiplier=first_wait, max=last_wait) + wait_random(0, first_wait)
        self._sleep = sleep
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator")

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        """Try, and return the response of the first attempt that has one; or raise what the last one raised."""
        frame = current_frame()
        if frame is None:
            raise NoScopeError("a retry")
        if frame.scope.transaction is not None:
            return await call_next()
        response: Any = None
        async for attempt in self._retrying(message, frame.scope):
            with attempt:
                response = await _attempt(frame, message, call_next)
        return response

    def _retrying(self, message: Message, scope: Scope) -> AsyncRetrying:
        settled_before = scope.settled_id

        def may_pass(error: BaseException) -> bool:
            if isinstance(error, CommittedError | CommitOutcomeUnknownError) or scope.settled_id != settled_before:
                return False
            return isinstance(error, self._on) and isinstance(error, Exception)

        def log(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            pause = round(state.upcoming_sleep, 3)
            flow = running_fields()
            name, kind = type(message).__name__, type(error).__name__
            self._log.warning("retrying", message=name, error=kind, attempt=state.attempt_number, seconds=pause, **flow)

        return AsyncRetrying(
            sleep=self._sleep,
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=retry_if_exception(may_pass),
            before_sleep=log,
            reraise=True,
        )


async def _attempt(outer: Frame, message: Any, call_next: CallNext[Any]) -> Any:
    """Go on in a scope of its own, and keep in the outer one what became of it."""
    mode = TransactionMode.NEW if outer.scope.transactional else TransactionMode.SUPPRESS
    frame = enter(mode, message, outer.origin, outer.context)
    try:
        response = await call_next()
    except BaseException as error:
        await frame.leave(error)
        raise
    else:
        await frame.leave()
    finally:
        _report(frame.scope, outer.scope)
    return response


def _report(attempt: Scope, outer: Scope) -> None:
    outer.outcome, outer.response = attempt.outcome, attempt.response
    outer.settled_id = attempt.settled_id or outer.settled_id
