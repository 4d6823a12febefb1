"""RecordingMediator: stands in for the mediator of a handler under test, and remembers what it was given."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from mediator.context import MessageContext, new_id
from mediator.distributed.broker import DistributedEventBroker, check_event
from mediator.distributed.events import DistributedEvent
from mediator.errors import MessageKindError, UnexpectedMessageError
from mediator.mediator import Mediator
from mediator.messages import Notification, Request, StreamRequest
from mediator.registry import Registry
from mediator.strategies import PublishStrategy, check_strategy
from mediator.testing.database import InMemoryDatabase, InMemoryUnitOfWork
from mediator.transactions import TransactionMode, check_mode

R = TypeVar("R")
T = TypeVar("T")

_NOTHING: Any = object()


class Expectation(Generic[R]):
    """What is answered to a request: `expect(...)` makes it, and `returns` or `raises` completes it."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._response: Any = _NOTHING
        self._error: BaseException | None = None
        self._met = False

    def returns(self, response: R, /) -> None:
        """Answer with a response; a stream request, with the items."""
        self._response = response

    def raises(self, error: BaseException, /) -> None:
        """Answer with an error."""
        self._error = error

    @property
    def met(self) -> bool:
        """Whether such a request has been sent."""
        return self._met

    @property
    def name(self) -> str:
        """The request, for texts."""
        return self._request.__name__ if isinstance(self._request, type) else repr(self._request)

    def fits(self, message: object) -> bool:
        """Whether it is the answer to a request."""
        answered = self._response is not _NOTHING or self._error is not None
        same = isinstance(message, self._request) if isinstance(self._request, type) else message == self._request
        return answered and same

    def answer(self) -> R:
        """Give the answer."""
        self._met = True
        if self._error is not None:
            raise self._error
        response: R = self._response
        return response


class RecordingMediator(Mediator):
    """Answers what it is told to, calls no handler, and opens no scope.

        mediator = RecordingMediator()
        mediator.expect(FindCourse).returns(Course("Algebra"))
        await EnrollHandler(mediator, mediator.distributed_events).handle(Enroll("Ada"))
        assert mediator.published == [StudentEnrolled("Ada")]

    Attributes:
        sent: The requests and stream requests, in order.
        published: The notifications, in order.
        after_commit: Those that were to be published after the commit.
        staged: The distributed events that were added to `distributed_events`.
        distributed_events: A broker for the handler under test.
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
        """Say what to answer a request: `expect(FindCourse).returns(course)`, or `.raises(error)`.

        Args:
            request: The request that it must equal, or the class that it must be of. The last word counts.
        """
        expectation: Expectation[Any] = Expectation(request)
        self._expectations.insert(0, expectation)
        return expectation

    @property
    def unmet(self) -> Sequence[str]:
        """The expectations that nothing was sent for."""
        return [each.name for each in reversed(self._expectations) if not each.met]

    async def send(
        self,
        request: Request[R],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> R:
        """Record the request and give its answer.

        Raises:
            MessageKindError: It is not a request.
            SettingError: `mode` is no `TransactionMode`.
            UnexpectedMessageError: No answer was expected of it.
        """
        if not isinstance(request, Request):
            raise MessageKindError(request, "send")
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
        """Record the stream request and give its items; raises as `send` does."""
        if not isinstance(request, StreamRequest):
            raise MessageKindError(request, "stream")
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
            MessageKindError: It is not a notification.
            SettingError: `mode` or `strategy` is none.
        """
        if not isinstance(notification, Notification):
            raise MessageKindError(notification, "publish")
        check_mode(mode)
        if strategy is not None:
            check_strategy(strategy)
        self.published.append(notification)

    def publish_after_commit(self, notification: Notification, /, *, strategy: PublishStrategy | None = None) -> None:
        """Record the notification; raises as `publish` does."""
        if not isinstance(notification, Notification):
            raise MessageKindError(notification, "publish_after_commit")
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
    """Takes distributed events without a unit of work.

    Args:
        staged: The list that they are appended to.
    """

    def __init__(self, staged: list[DistributedEvent]) -> None:
        super().__init__(InMemoryUnitOfWork(InMemoryDatabase()))
        self._recorded = staged

    @property
    def pending(self) -> Sequence[DistributedEvent]:
        """The events, in the order in which they were added."""
        return tuple(self._recorded)

    def add(self, event: DistributedEvent, /, *, deliver_at: datetime | None = None) -> str:
        """Record the event and return an id; see `DistributedEventBroker.add`.

        Raises:
            EventKindError: It is not a distributed event.
            EventDeclarationError: Its class declares no valid type.
            DeliveryTimeError: The time is not a timezone-aware datetime.
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
