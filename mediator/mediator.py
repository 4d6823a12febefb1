"""Mediator: sends requests to their handler and publishes notifications to theirs."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import CoroutineType
from typing import Any, TypeVar

from mediator.ambient import enter_ambient
from mediator.context import IdFactory, MessageContext, new_id
from mediator.description import Application, Format, described
from mediator.errors import MediatorNotStartedError, MessageKindError, NoUnitOfWorkError
from mediator.headers import NO_HEADERS
from mediator.messages import Notification, Request, StreamRequest
from mediator.pipeline import Call, call_inside
from mediator.registry import Registry
from mediator.scope import Frame, Scope, current_frame, current_scope, enter
from mediator.strategies import PublishStrategy, check_strategy
from mediator.streams import Stream
from mediator.transactions import TransactionMode
from mediator.watching import check_awaited

R = TypeVar("R")
T = TypeVar("T")


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
        self._sends: dict[type, Call] = {}
        self._publishes: dict[type, Call] = {}
        self.max_depth: int = max_depth
        self.ids: IdFactory = ids
        self._started = started

    @property
    def started(self) -> bool:
        """Whether it dispatches."""
        return self._started

    @started.setter
    def started(self, started: bool) -> None:
        self._started = started
        self._forget()

    @property
    def registry(self) -> Registry:
        """The handlers and behaviors in use."""
        return self._registry

    def rebind(self, registry: Registry) -> None:
        """Use another registry from the next dispatch on: for containers whose list of behaviors was overridden."""
        self._registry = registry
        self._forget()

    async def send(
        self,
        request: Request[R],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> R:
        """Send a request to its handler and return the response.

        Inside a running dispatch the request joins its scope and transaction, unless `mode` says otherwise. What the
        handler or a behavior raises reaches the caller as it is. Of `context` it inherits everything, and
        names it as its cause; without one, of the running dispatch.

        Raises:
            MessageKindError: It is not a request.
            HandlerNotFoundError: Nothing handles it.
            MediatorNotStartedError: The container is not started.
            ConcurrentDispatchError: Another dispatch is using the scope that this one would join.
            DispatchDepthError: Dispatches cause each other in a circle.
            MessageDeclarationError: Its class is of several kinds.
            SettingError: `mode` is no `TransactionMode`.
        """
        call = self._sends.get(request.__class__) or self._send_of(request)
        frame = enter(mode, request, self, context and context.caused(self.ids()))
        try:
            if frame.depth > self.max_depth:
                frame.refuse(self.max_depth)
            response: R = await (call(request) if frame.owner else call_inside(frame, mode, request, call))
            if response.__class__ is CoroutineType:
                check_awaited(response, request)
        except BaseException as error:
            await frame.leave(error)
            raise
        if not frame.leave_quietly():
            await frame.leave()
        return response

    def stream(
        self,
        request: StreamRequest[T],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        """Open a stream of items: `async with mediator.stream(request) as items: async for item in items: ...`.

        Leaving the block, early or not, closes the behaviors and the handler at once. The scope of the stream, its own
        or the one it joins, is there while a step is made, not between the items. A stream begins no unit of work.
        `context` is inherited as in `send`.

        Raises:
            MessageKindError: It is not a stream request.
            HandlerNotFoundError: Nothing handles it.
            MediatorNotStartedError: The container is not started.
            SettingError: `mode` is `NESTED`, or none at all.
        """
        if not isinstance(request, StreamRequest):
            raise MessageKindError(request, "stream")
        if not self.started:
            raise MediatorNotStartedError(request)
        call = self._registry.pipeline(request.__class__).call
        stream: Stream[T] = Stream(request, call, mode, self, cause=context)
        return stream

    async def publish(
        self,
        notification: Notification,
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        strategy: PublishStrategy | None = None,
        context: MessageContext | None = None,
    ) -> None:
        """Publish a notification to its handlers; having none is fine.

        Handlers of its base classes are called too, each once, in the order of declaration. Unless another strategy is
        given here, by the notification's class or by the mediator, they run one after the other, and the first error
        stops them and reaches the caller as it is. `context` is inherited as in `send`.

        Raises:
            MessageKindError: It is not a notification.
            MediatorNotStartedError: The container is not started.
            ConcurrentDispatchError: Another dispatch is using the scope that this one would join.
            ConcurrentPublishError: The strategy is `Concurrent`, and a unit of work runs.
            SettingError: `mode` or `strategy` is none.
            DispatchDepthError: Dispatches cause each other in a circle.
        """
        known = self._publishes.get(notification.__class__) if strategy is None else None
        call = known or self._publish_of(notification, strategy)
        frame = enter(mode, notification, self, context and context.caused(self.ids()))
        try:  # as in `send`: what they share would be one more coroutine for each dispatch
            if frame.depth > self.max_depth:
                frame.refuse(self.max_depth)
            result = await (call(notification) if frame.owner else call_inside(frame, mode, notification, call))
            if result.__class__ is CoroutineType:
                check_awaited(result, notification)
        except BaseException as error:
            await frame.leave(error)
            raise
        if not frame.leave_quietly():
            await frame.leave()

    def publish_after_commit(self, notification: Notification, /, *, strategy: PublishStrategy | None = None) -> None:
        """Publish a notification once the running unit of work has committed, in a unit of work of its own.

        First in, first out; each is published although one before it failed. None is when the unit of work rolls back,
        or, in a `NESTED` dispatch, what follows its savepoint. What fails reaches the sender of the outermost command as
        one `AfterCommitError`. A process that dies after the commit publishes no more of them: what must not be lost is
        a distributed event.

        Raises:
            MessageKindError: It is not a notification.
            SettingError: `strategy` is no strategy.
            NoScopeError: Nothing is being dispatched.
            NoUnitOfWorkError: No unit of work runs.
        """
        if not isinstance(notification, Notification):
            raise MessageKindError(notification, "publish_after_commit")
        if strategy is not None:
            check_strategy(strategy)
        transaction, frame = current_scope("publish_after_commit").transaction, current_frame()
        if transaction is None:
            raise NoUnitOfWorkError(notification)
        transaction.after_commit(notification, partial(self._publish_caused_by, frame, notification, strategy))

    async def _publish_caused_by(
        self, frame: Frame | None, notification: Notification, strategy: PublishStrategy | None
    ) -> None:
        """Publish on behalf of a dispatch that may be over by now."""
        cause = frame.context if frame is not None else None
        await self.publish(notification, mode=TransactionMode.NEW, strategy=strategy, context=cause)

    @asynccontextmanager
    async def context(
        self,
        *,
        principal: str | None = None,
        tenant: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        correlation_id: str | None = None,
    ) -> AsyncIterator[MessageContext]:
        """Say for whom, and in which flow, the messages inside are dispatched. It opens no scope and no transaction.

        What is not given is inherited from around it, and headers are added to those there are.

        Args:
            principal: Who it is done for.
            tenant: Whose data it is about.
            headers: Whatever else is known. Only their names are ever shown.
            correlation_id: Of the flow it belongs to, when that began elsewhere.

        Raises:
            ContextError: A value is too long, or has a character that may not be there.
        """
        frame = enter_ambient(self, principal=principal, tenant=tenant, headers=headers, correlation_id=correlation_id)
        try:
            yield frame.context
        finally:
            frame.step_out()

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
        frame = enter(mode, message, self, context)
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

    def describe(self, message_type: type[Any] | None = None, /, *, format: Format = "text") -> str:  # noqa: A002
        """The exact chain of a message class, or of all of them.

        Args:
            message_type: The class; all that have a handler when not given.
            format: `"text"`; `"json"`, which adds what each handler dispatches; or `"mermaid"`, a flowchart of a message and
                all that follows from it. What a handler dispatches is what its class declares as `dispatches`, or else
                what its code is seen to make.

        Raises:
            HandlerNotFoundError: It is a request, and nothing handles it.
            SettingError: The format is none of these.
        """
        chosen = self._registry.message_types() if message_type is None else (message_type,)
        return described([Application("", self._registry, chosen)], format)

    def _send_of(self, request: Request[Any]) -> Call:
        """The call for a request, kept for the next one of its class: what was checked then is not checked again."""
        known = self._sends  # first of all: what is found in a registry must not be kept beside that of another one
        if not isinstance(request, Request):
            raise MessageKindError(request, "send")
        if not self._started:
            raise MediatorNotStartedError(request)
        call = known[request.__class__] = self._registry.pipeline(request.__class__).call
        return call

    def _publish_of(self, notification: Notification, strategy: PublishStrategy | None) -> Call:
        """The call for a notification, kept as that of a request is, unless it is published by a strategy of its own."""
        known = self._publishes
        if not isinstance(notification, Notification):
            raise MessageKindError(notification, "publish")
        if not self._started:
            raise MediatorNotStartedError(notification)
        call = self._registry.pipeline(notification.__class__, strategy).call
        if strategy is None:
            known[notification.__class__] = call
        return call

    def _forget(self) -> None:
        self._sends, self._publishes = {}, {}
