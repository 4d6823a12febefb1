"""RecordingMediator: replaces the mediator in a test of a handler, and records what the handler sends."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from mediator.blocks import asynccontextmanager
from mediator.context import MessageContext, new_id
from mediator.distributed.events import DistributedEvent
from mediator.distributed.unit_of_work import DistributedEventBroker, check_event
from mediator.errors import UnexpectedMessageError, misuse
from mediator.mediator import Mediator
from mediator.messages import Notification, Request, StreamRequest
from mediator.registry import Registry
from mediator.strategies import PublishStrategy, check_strategy
from mediator.testing.memory import InMemoryDatabase, InMemoryUnitOfWork
from mediator.transactions import TransactionMode, check_mode

R = TypeVar("R")
T = TypeVar("T")

_NOTHING: Any = object()


class Expectation(Generic[R]):
    """The prepared answer to a request. `expect(...)` creates an expectation, and `returns` or `raises` sets its answer.

    Attributes:
        met: Whether a matching request has been sent.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._response: Any = _NOTHING
        self._error: BaseException | None = None
        self.met: bool = False

    def returns(self, response: R, /) -> None:
        """Set the response to a request, or the items of a stream request."""
        self._response = response

    def raises(self, error: BaseException, /) -> None:
        """Set the error that is raised as the answer."""
        self._error = error

    @property
    def name(self) -> str:
        """The request as text, for error messages."""
        return self._request.__name__ if isinstance(self._request, type) else repr(self._request)

    def fits(self, message: object) -> bool:
        """Return whether this expectation has an answer and matches the message."""
        answered = self._response is not _NOTHING or self._error is not None
        same = isinstance(message, self._request) if isinstance(self._request, type) else message == self._request
        return answered and same

    def answer(self) -> R:
        """Return the response or raise the error, and mark this expectation as met."""
        self.met = True
        if self._error is not None:
            raise self._error
        response: R = self._response
        return response


class RecordingMediator(Mediator):
    """Records messages and gives prepared answers. It calls no handler and opens no scope.

        mediator = RecordingMediator()
        mediator.expect(FindCourse).returns(Course("Algebra"))
        await EnrollHandler(mediator, mediator.distributed_events).handle(Enroll("Ada"))
        assert mediator.published == [StudentEnrolled("Ada")]

    Attributes:
        sent: The requests and stream requests, in order.
        published: The notifications given to `publish`, in order.
        after_commit: The notifications given to `publish_after_commit`, in order.
        staged: The distributed events that were added to `distributed_events`.
        distributed_events: The event broker to pass to the handler under test.
    """

    def __init__(self) -> None:
        super().__init__(Registry())
        self.sent: list[object] = []
        self.published: list[Notification] = []
        self.after_commit: list[Notification] = []
        self.staged: list[DistributedEvent] = []
        self.distributed_events: DistributedEventBroker = RecordingEventBroker(self.staged)
        self._expectations: list[Expectation[Any]] = []

    @overload
    def expect(self, request: Request[R] | type[Request[R]], /) -> Expectation[R]: ...
    @overload
    def expect(self, request: StreamRequest[T] | type[StreamRequest[T]], /) -> Expectation[Iterable[T]]: ...
    def expect(self, request: Any, /) -> Expectation[Any]:
        """Prepare the answer to a request: `expect(FindCourse).returns(course)`, or `.raises(error)`.

        Args:
            request: A request that the sent request must equal, or the class of the sent request. If several
                expectations match, the latest expectation answers.
        """
        expectation: Expectation[Any] = Expectation(request)
        self._expectations.insert(0, expectation)
        return expectation

    @property
    def unmet(self) -> Sequence[str]:
        """The expected requests that were never sent, as texts."""
        return [each.name for each in reversed(self._expectations) if not each.met]

    async def send(
        self,
        request: Request[R],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> R:
        """Record the request, and return its prepared response or raise its prepared error.

        Raises:
            MisuseError: `request` is not a request.
            SettingError: `mode` is no `TransactionMode`.
            UnexpectedMessageError: No answer was prepared for the request.
        """
        if not isinstance(request, Request):
            raise misuse.wrong_kind(request, "send")
        check_mode(mode)
        response: R = self._answer(request)
        return response

    def stream(
        self,
        request: StreamRequest[T],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        """Record the stream request, and return a context that yields its items. Raises the same errors as `send`."""
        if not isinstance(request, StreamRequest):
            raise misuse.wrong_kind(request, "stream")
        check_mode(mode)
        return _opened(self._answer(request))

    async def publish(
        self,
        notification: Notification,
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        strategy: PublishStrategy | None = None,
        context: MessageContext | None = None,
    ) -> None:
        """Record the notification.

        Raises:
            MisuseError: `notification` is not a notification.
            SettingError: `mode` is no `TransactionMode`, or `strategy` is not a hashable `PublishStrategy`.
        """
        if not isinstance(notification, Notification):
            raise misuse.wrong_kind(notification, "publish")
        check_mode(mode)
        if strategy is not None:
            check_strategy(strategy)
        self.published.append(notification)

    def publish_after_commit(self, notification: Notification, /, *, strategy: PublishStrategy | None = None) -> None:
        """Record the notification. Raises the same errors as `publish`."""
        if not isinstance(notification, Notification):
            raise misuse.wrong_kind(notification, "publish_after_commit")
        if strategy is not None:
            check_strategy(strategy)
        self.after_commit.append(notification)

    def _answer(self, request: object) -> Any:
        self.sent.append(request)
        for expectation in self._expectations:
            if expectation.fits(request):
                return expectation.answer()
        raise UnexpectedMessageError(request, [each.name for each in reversed(self._expectations)])


class RecordingEventBroker(DistributedEventBroker):
    """Records distributed events without a unit of work.

    Args:
        staged: The list to which events are appended.
    """

    def __init__(self, staged: list[DistributedEvent]) -> None:
        super().__init__(InMemoryUnitOfWork(InMemoryDatabase()))
        self._recorded = staged

    @property
    def pending(self) -> Sequence[DistributedEvent]:
        """The recorded events, in the order in which they were added."""
        return tuple(self._recorded)

    def add(self, event: DistributedEvent, /, *, deliver_at: datetime | None = None) -> str:
        """Record the event and return a new id.

        Raises:
            MisuseError: `event` is not a distributed event, or `deliver_at` is not a timezone-aware datetime.
            DeclarationError: The class of the event declares no valid type.
        """
        check_event(event, deliver_at)
        self._recorded.append(event)
        return new_id()


@asynccontextmanager
async def _opened(items: Iterable[T]) -> AsyncGenerator[AsyncIterator[T], None]:
    async def iterate() -> AsyncGenerator[T, None]:
        for item in items:
            yield item

    yield iterate()
