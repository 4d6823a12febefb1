"""TimeoutBehavior: the longest time that a message may take."""

import asyncio
from typing import Any, ClassVar, TypeVar, overload

from mediator.errors import CommitOutcomeUnknownError, CommittedError, MessageTimeoutError, SettingError
from mediator.messages import Notification, Request
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import Scope, current_scope
from mediator.transactions import Outcome

Message = TypeVar("Message", bound=Request[Any] | Notification)


class TimeoutBehavior(PipelineBehavior[Message, Any]):
    """Cancels what takes too long.

    Without a type argument it applies to requests and to publishes. For another limit of some messages derive a class:
    `class ReportTimeout(TimeoutBehavior[MakeReport])`; the most specific one is taken.

    Before the transaction in the list the limit covers the commit, after it only what happens before. Before retry it is
    for all attempts together, after it for each one. A commit is never interrupted: when the time is up meanwhile, it
    ends first (bounded by `commit_timeout`), and the error says that the command has happened.

    Args:
        seconds: How long the rest of the pipeline may take.
    """

    one_of: ClassVar[str | None] = "timeout"

    @overload  # for the class as it is: type checkers need not be told what it applies to
    def __init__(self: "TimeoutBehavior[Request[Any] | Notification]", seconds: float) -> None: ...

    @overload
    def __init__(self, seconds: float) -> None: ...  # pyright: ignore[reportOverlappingOverload]  # for narrower ones

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise SettingError("seconds", seconds, "a timeout is longer than nothing.")
        self._seconds = seconds

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        """Run the rest, at most for as long as it may take.

        Raises:
            MessageTimeoutError: It took longer. Its transaction, if it had one, was rolled back.
            CommittedError: The time was up when it had committed. It carries the response.
            CommitOutcomeUnknownError: The time was up at the commit, and whether that happened is unknown.
        """
        scope = current_scope("a timeout")
        settled_before = scope.settled_id
        deadline = asyncio.timeout(self._seconds)
        try:
            async with deadline:
                return await call_next()
        except TimeoutError as error:
            cancellation = error.__cause__ or error.__context__
            if not deadline.expired() or not isinstance(cancellation, asyncio.CancelledError):
                raise  # somebody else's
        settled = scope.settled_id != settled_before
        raise self._failure(message, cancellation, scope if settled else None)

    def _failure(self, message: Message, cancellation: asyncio.CancelledError, settled: Scope | None) -> Exception:
        """What to raise; of a commit that had an error of its own, that."""
        failure: Exception = MessageTimeoutError(message, self._seconds)
        if isinstance(cancellation.__cause__, CommittedError | CommitOutcomeUnknownError):
            return cancellation.__cause__
        if settled is not None and settled.settled_id is not None:
            if settled.outcome is Outcome.COMMITTED:
                failure = CommittedError(settled.settled_id, settled.response)
            elif settled.outcome is Outcome.UNKNOWN:
                failure = CommitOutcomeUnknownError(settled.settled_id, str(failure))
        failure.__cause__ = cancellation
        return failure
