"""TimeoutBehavior: limits the time that a message may take."""

import asyncio
from typing import Any, ClassVar, TypeVar, overload

from mediator.errors import CommitOutcomeUnknownError, CommittedError, MessageTimeoutError, SettingError
from mediator.messages import Notification, Request
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import current_frame
from mediator.settings import is_seconds

Message = TypeVar("Message", bound=Request[Any] | Notification)


class TimeoutBehavior(PipelineBehavior[Message, Any]):
    """Cancels the handling of a message that takes too long.

    Without a type argument the limit applies to requests and to published notifications. For a different limit of some
    messages, derive a class: `class ReportTimeout(TimeoutBehavior[MakeReport])`. If several timeouts match a message,
    only the most specific one applies.

    If this behavior is before the transaction behavior in the list, the measured time includes the commit. If this
    behavior is before the retry behavior, the limit applies to all attempts together. If this behavior is after the
    retry behavior, the limit applies to each attempt.

    A commit is never interrupted. If the time is up during a commit, the commit continues, for at most the unit of
    work's `commit_timeout`. The error that is raised at the end tells the outcome of the commit.

    Args:
        seconds: The longest time that the rest of the pipeline may take, in seconds.

    Raises:
        SettingError: `seconds` is not a finite number above 0.
    """

    one_of: ClassVar[str | None] = "timeout"

    @overload  # for the class itself, without a type argument
    def __init__(self: "TimeoutBehavior[Request[Any] | Notification]", seconds: float) -> None: ...

    @overload
    def __init__(self, seconds: float) -> None: ...  # pyright: ignore[reportOverlappingOverload]  # for subclasses

    def __init__(self, seconds: float) -> None:
        if not is_seconds(seconds):
            raise SettingError("seconds", seconds, "use a finite number of seconds above 0")
        self._seconds = seconds

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        """Run the rest of the pipeline, for at most the given time.

        Raises:
            MessageTimeoutError: The time is up. The transaction of the message, if there was one, was rolled back.
            CommittedError: The time was up after the message had committed. The error carries the response.
            CommitOutcomeUnknownError: The time was up during the commit, and it is unknown whether the commit
                succeeded.
        """
        deadline = asyncio.timeout(self._seconds)
        response, failure = None, None
        try:
            async with deadline:
                try:
                    response = await call_next()
                except Exception as error:  # raised below: from Python 3.13 on `asyncio.timeout` modifies errors
                    failure = error
        except TimeoutError as error:
            failure = error
        if failure is None:
            return response
        try:
            cancellation = failure.__cause__ or failure.__context__
            is_late = deadline.expired() and isinstance(failure, TimeoutError)
            if not is_late or not isinstance(cancellation, asyncio.CancelledError):
                raise failure
        finally:
            del failure  # without this, the error and this frame would form a reference cycle
        if isinstance(cancellation.__cause__, CommittedError | CommitOutcomeUnknownError):
            raise cancellation.__cause__
        frame = current_frame()
        late = MessageTimeoutError(message, self._seconds)
        late.__cause__ = cancellation
        raise late if frame is None else (frame.dispatch or frame).with_outcome(late)
