"""Mediator: sends requests to their handler and publishes notifications to theirs."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import CoroutineType
from typing import Any, Protocol, TypeVar

from mediator.context import IdFactory, MessageContext, new_id
from mediator.errors import MediatorNotStartedError, MessageKindError, NoUnitOfWorkError
from mediator.messages import Command, Notification, Request, StreamRequest
from mediator.pipeline import Call, check_awaited
from mediator.registry import Registry
from mediator.scope import Scope, Transaction, TransactionMode, current_scope, enter
from mediator.strategies import PublishStrategy
from mediator.streams import Stream

R = TypeVar("R")
T = TypeVar("T")


class Sender(Protocol):
    """The half of the mediator that sends requests."""

    async def send(self, request: Request[R], /, *, mode: TransactionMode = TransactionMode.DEFAULT) -> R:
        """See `Mediator.send`."""
        ...

    def stream(
        self, request: StreamRequest[T], /, *, mode: TransactionMode = TransactionMode.DEFAULT
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        """See `Mediator.stream`."""
        ...


class Publisher(Protocol):
    """The half of the mediator that publishes notifications."""

    async def publish(
        self,
        notification: Notification,
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        strategy: PublishStrategy | None = None,
    ) -> None:
        """See `Mediator.publish`."""
        ...


class Mediator:
    """Dispatches messages through the pipelines of a registry.

    Args:
        registry: Handlers and behaviors.
        ids: Makes the ids of messages.
        started: False when something else, such as `lifespan`, starts it.
        max_depth: How many dispatches may be nested in each other.
    """

    def __init__(
        self, registry: Registry, *, ids: IdFactory = new_id, started: bool = True, max_depth: int = 50
    ) -> None:
        self._registry = registry
        self._max_depth = max_depth
        self._ids = ids
        self.started = started

    @property
    def registry(self) -> Registry:
        """The handlers and behaviors in use."""
        return self._registry

    def rebind(self, registry: Registry) -> None:
        """Use another registry from the next dispatch on: for containers whose list of behaviors was overridden."""
        self._registry = registry

    async def send(self, request: Request[R], /, *, mode: TransactionMode = TransactionMode.DEFAULT) -> R:
        """Send a request to its handler and return the response.

        Inside a running dispatch the request joins its scope and transaction, unless `mode` says otherwise. What the
        handler or a behavior raises reaches the caller as it is.

        Raises:
            MessageKindError: It is not a request.
            HandlerNotFoundError: Nothing handles it.
            MediatorNotStartedError: The container is not started.
            ConcurrentDispatchError: Another dispatch is using the scope that this one would join.
            DispatchDepthError: Dispatches cause each other in a circle.
        """
        if not isinstance(request, Request):
            raise MessageKindError(request, "send")
        response: R = await self._dispatch(request, mode)
        return response

    def stream(
        self, request: StreamRequest[T], /, *, mode: TransactionMode = TransactionMode.DEFAULT
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        """Open a stream of items: `async with mediator.stream(request) as items: async for item in items: ...`.

        Leaving the block, early or not, closes the behaviors and the handler at once. The scope of the stream, its own
        or the one it joins, is there while a step is made, not between the items. A stream begins no unit of work.

        Raises:
            MessageKindError: It is not a stream request.
            HandlerNotFoundError: Nothing handles it.
            MediatorNotStartedError: The container is not started.
            SettingError: `mode` is `NESTED`.
        """
        if not isinstance(request, StreamRequest):
            raise MessageKindError(request, "stream")
        if not self.started:
            raise MediatorNotStartedError(request)
        call = self._registry.pipeline(request.__class__).call
        stream: Stream[T] = Stream(request, call, mode, self._ids, self._max_depth)
        return stream

    async def publish(
        self,
        notification: Notification,
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        strategy: PublishStrategy | None = None,
    ) -> None:
        """Publish a notification to its handlers; having none is fine.

        Handlers of its base classes are called too, each once, in the order of declaration. Unless another strategy is
        given here, by the notification's class or by the mediator, they run one after the other, and the first error
        stops them and reaches the caller as it is.

        Raises:
            MessageKindError: It is not a notification.
            MediatorNotStartedError: The container is not started.
            ConcurrentDispatchError: Another dispatch is using the scope that this one would join.
            ConcurrentPublishError: The strategy is `Concurrent`, and a unit of work runs.
            DispatchDepthError: Dispatches cause each other in a circle.
        """
        if not isinstance(notification, Notification):
            raise MessageKindError(notification, "publish")
        await self._dispatch(notification, mode, strategy)

    def publish_after_commit(self, notification: Notification, /, *, strategy: PublishStrategy | None = None) -> None:
        """Publish a notification once the running unit of work has committed, in a unit of work of its own.

        First in, first out; each is published although one before it failed. None is when the unit of work rolls back,
        or, in a `NESTED` dispatch, what follows its savepoint. What fails reaches the sender of the outermost command as
        one `AfterCommitError`. A process that dies after the commit publishes no more of them: what must not be lost is
        a distributed event.

        Raises:
            MessageKindError: It is not a notification.
            NoScopeError: Nothing is being dispatched.
            NoUnitOfWorkError: No unit of work runs.
        """
        if not isinstance(notification, Notification):
            raise MessageKindError(notification, "publish_after_commit")
        transaction = current_scope("publish_after_commit").transaction
        if transaction is None:
            raise NoUnitOfWorkError(notification)
        transaction.after_commit(notification, partial(self._dispatch, notification, TransactionMode.NEW, strategy))

    @asynccontextmanager
    async def scope(
        self,
        mode: TransactionMode = TransactionMode.DEFAULT,
        *,
        message: object = "mediator.scope()",
        context: MessageContext | None = None,
    ) -> AsyncIterator[Scope]:
        """Open a scope by hand, for a script or a web request; dispatches inside join it.

        Args:
            mode: How it stands to a running dispatch.
            message: What it is for, in error texts.
            context: Where what happens inside comes from.
        """
        if not self.started:
            raise MediatorNotStartedError(message)
        frame = enter(mode, message, self._ids, context)
        try:
            transaction = frame.scope.transaction if mode is TransactionMode.NESTED else None
            if transaction is None:
                yield frame.scope
            else:
                async with transaction.savepoint(message):
                    yield frame.scope
        except BaseException as error:
            await frame.leave(error)
            raise
        await frame.leave()

    def describe(self, message_type: type[Any] | None = None, /) -> str:
        """The exact chain of a message class, or of all of them, as text.

        Raises:
            HandlerNotFoundError: It is a request, and nothing handles it.
        """
        return self._registry.describe(message_type)

    async def _dispatch(self, message: Any, mode: TransactionMode, strategy: PublishStrategy | None = None) -> Any:
        if not self.started:
            raise MediatorNotStartedError(message)
        call = self._registry.pipeline(message.__class__, strategy).call
        frame = enter(mode, message, self._ids)
        joined = frame.scope.transaction
        try:
            if frame.depth > self._max_depth:
                frame.refuse(self._max_depth)
            if joined is None:
                response = await call(message)
            elif mode is TransactionMode.NESTED:
                response = await _call_in_savepoint(joined, message, call)
            else:
                response = await _call_joined(joined, message, call)
            if response.__class__ is CoroutineType:
                check_awaited(response, message)
        except BaseException as error:
            await frame.leave(error)
            raise
        if not frame.leave_quietly():
            await frame.leave()
        return response


async def _call_in_savepoint(transaction: Transaction, message: Any, call: Call) -> Any:
    async with transaction.savepoint(message):
        return await call(message)


async def _call_joined(transaction: Transaction, message: object, call: Call) -> Any:
    """Call in somebody else's transaction: a command or publish that fails leaves that nothing but a rollback."""
    try:
        return await call(message)
    except BaseException as error:
        if issubclass(type(message), (Command, Notification)):
            transaction.doom(message, error)
        raise
