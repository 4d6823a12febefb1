"""Mediator: sends requests to their handler and publishes notifications to their handlers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import CoroutineType
from typing import Any, TypeVar

from mediator.ambient import enter_ambient
from mediator.blocks import asynccontextmanager
from mediator.context import NO_HEADERS, IdFactory, MessageContext, new_id
from mediator.describe import Application, Format, described
from mediator.errors import MisuseError, misuse
from mediator.messages import Notification, Request, StreamRequest
from mediator.owner import Owner
from mediator.pipeline import Call, call_inside
from mediator.registry import Registry
from mediator.scope import Frame, Scope, current_frame, current_scope, enter
from mediator.settings import check_counts
from mediator.strategies import PublishStrategy, check_strategy
from mediator.streams import Stream
from mediator.transactions import TransactionMode
from mediator.watching import check_awaited

R = TypeVar("R")
T = TypeVar("T")


class Mediator:
    """Dispatches messages through the pipelines of a registry.

    Args:
        registry: The handlers and behaviors.
        ids: Creates the ids of messages.
        started: Whether the mediator accepts messages at once. Give False if `lifespan` starts the mediator later.
        max_depth: The largest number of dispatches that may be nested.

    Attributes:
        owner: The event loop in which the mediator's container was started; `None` before the start.
    """

    def __init__(
        self, registry: Registry, *, ids: IdFactory = new_id, started: bool = True, max_depth: int = 50
    ) -> None:
        check_counts(max_depth=max_depth)
        self._registry = registry
        self._sends: dict[type, Call] = {}
        self._publishes: dict[type, Call] = {}
        self.max_depth: int = max_depth
        self.ids: IdFactory = ids
        self._started = started
        self.owner: Owner | None = None

    @property
    def started(self) -> bool:
        """Whether the mediator accepts messages."""
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
        """Use the given registry from the next dispatch on, for example when a container's behaviors were overridden."""
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

        Inside a running dispatch the request joins the scope and the transaction of that dispatch, unless `mode` says
        otherwise. Errors of the handler or a behavior reach the caller unchanged. With `context` the request inherits
        from the given context, and the message of that context becomes the cause of the request. Without `context` the
        request inherits from the running dispatch.

        Raises:
            MisuseError: The message is not a request, or the container is not started.
            HandlerNotFoundError: No handler is found; or several handlers differ in their type arguments, and the type
                arguments of the request are unknown.
            ScopeError: Another dispatch is using the scope that this dispatch would join.
            DispatchDepthError: More than `max_depth` dispatches are nested, as when two handlers send to each other.
            DeclarationError: The class of the request is of several kinds, for example a command and a query.
            SettingError: `mode` is no `TransactionMode`.
        """
        call = self._sends.get(request.__class__) or self._send_of(request)
        frame = enter(mode, request, self, context and context.caused(self.ids()))
        try:
            response: R = await (call(request) if frame.owner else call_inside(frame, mode, request, call))
            if response.__class__ is CoroutineType:
                check_awaited(response, request)
            if frame.ending is not None:
                frame.check_outcome()
        except BaseException as error:
            await frame.leave(error)
            frame.raise_with_outcome(error)
            raise
        if not frame.leave_quietly():
            await frame.leave(response=response)
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

        Leaving the block closes the behaviors and the handler at once, even before the last item. The stream joins the
        running scope, or opens a new scope. The new scope is in use only while an item is produced, not in the body
        of the block. A stream begins no unit of work. `context` is inherited as in `send`.

        Raises:
            MisuseError: The message is not a stream request, or the container is not started.
            HandlerNotFoundError: No handler is found.
            SettingError: `mode` is `NESTED`, or no `TransactionMode`.
        """
        if not isinstance(request, StreamRequest):
            raise _no_message(request, "stream")
        if not self.started:
            raise misuse.not_started(request)
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
        """Publish a notification to its handlers. A notification without handlers is no error.

        Handlers of the base classes of the notification are called too. Each handler is called once, in the order of
        declaration. By default one handler runs after the other, and the first error ends the publish. The strategy is
        `strategy`, else the strategy of the notification's class, else the registry's strategy. `context` is inherited
        as in `send`.

        Raises:
            MisuseError: The message is not a notification; the container is not started; or the strategy is
                `Concurrent`, and a unit of work is running.
            HandlerNotFoundError: Several handlers differ in their type arguments, and the type arguments of the
                notification are unknown.
            ScopeError: Another dispatch is using the scope that this dispatch would join.
            SettingError: `mode` is no `TransactionMode`, or `strategy` is no strategy.
            DispatchDepthError: More than `max_depth` dispatches are nested, as when two handlers publish to each other.
        """
        known = self._publishes.get(notification.__class__) if strategy is None else None
        call = known or self._publish_of(notification, strategy)
        frame = enter(mode, notification, self, context and context.caused(self.ids()))
        try:  # the same code as in `send`, because a shared function would need one more coroutine per dispatch
            result = await (call(notification) if frame.owner else call_inside(frame, mode, notification, call))
            if result.__class__ is CoroutineType:
                check_awaited(result, notification)
            if frame.ending is not None:
                frame.check_outcome()
        except BaseException as error:
            await frame.leave(error)
            frame.raise_with_outcome(error)
            raise
        if not frame.leave_quietly():
            await frame.leave(response=None)

    def publish_after_commit(self, notification: Notification, /, *, strategy: PublishStrategy | None = None) -> None:
        """Publish a notification after the running unit of work has committed, in a separate unit of work.

        Notifications are published in the order of the calls, even if an earlier notification failed. If the unit of
        work rolls back, no notification is published. If a `NESTED` dispatch rolls back to its savepoint, the
        notifications that were added since that savepoint are not published. Failures reach the sender of the outermost
        command as one `AfterCommitError`. If the process dies after the commit, unpublished notifications are lost; use
        a distributed event for anything that must not be lost.

        Raises:
            MisuseError: The message is not a notification.
            SettingError: `strategy` is no strategy.
            ScopeError: No dispatch is running.
            NoUnitOfWorkError: No unit of work is running.
        """
        if not isinstance(notification, Notification):
            raise _no_message(notification, "publish_after_commit")
        if strategy is not None:
            check_strategy(strategy)
        transaction, frame = current_scope("publish_after_commit").transaction, current_frame()
        if transaction is None:
            raise misuse.no_unit_of_work(notification)
        transaction.after_commit(notification, partial(self._publish_caused_by, frame, notification, strategy))

    async def _publish_caused_by(
        self, frame: Frame | None, notification: Notification, strategy: PublishStrategy | None
    ) -> None:
        """Publish a notification with the context of the dispatch in `frame`, which may have ended already."""
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
        """Set the context of messages that are dispatched in the block. The block opens no scope and no transaction.

        Values that are not given are inherited from the context around the block; given headers are added to the
        inherited headers.

        Args:
            principal: The user or service on whose behalf the messages are handled.
            tenant: The tenant whose data the messages are about.
            headers: Other facts about the messages. A `repr` shows only the names of the headers, not the values.
            correlation_id: The id of the flow to which the messages belong, if the flow began elsewhere.

        Raises:
            ContextError: A value is too long, or has a character that is not allowed.
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
        """Open a scope for a script or a web request. Dispatches in the block join the scope.

        Args:
            mode: How the scope relates to the running dispatch.
            message: The name of the scope in error texts.
            context: The context of the scope. Messages that are dispatched in the block inherit from this context.

        Raises:
            MisuseError: The container is not started.
            SettingError: `mode` is no `TransactionMode`.
            ScopeError: Another dispatch is using the scope that this block would join.
        """
        if not self.started:
            raise misuse.not_started(message)
        frame = enter(mode, message, self, context, is_dispatch=False)
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
        """Return a description of the pipeline of one message class, or of all message classes.

        Args:
            message_type: The message class; when not given, all classes that have a handler.
            format: `"text"`; `"json"`, which adds the messages that each handler dispatches; or `"mermaid"`, a
                flowchart of a message and of the messages that its handlers dispatch in turn. A handler class can
                declare these messages as `dispatches`. Without `dispatches`, the description shows the message classes
                that the handler's source code calls.

        Raises:
            HandlerNotFoundError: The class is a request and has no handler.
            SettingError: `format` is none of these three values.
        """
        chosen = self._registry.message_types() if message_type is None else (message_type,)
        return described([Application("", self._registry, chosen)], format)

    def _send_of(self, request: Request[Any]) -> Call:
        """Check a request and return its compiled pipeline, which is kept for the class of the request."""
        # If `rebind` runs during this call, the old pipeline goes into the old dictionary, which is no longer used.
        known = self._sends
        if not isinstance(request, Request):
            raise _no_message(request, "send")
        if not self._started:
            raise misuse.not_started(request)
        call = known[request.__class__] = self._registry.pipeline(request.__class__).call
        return call

    def _publish_of(self, notification: Notification, strategy: PublishStrategy | None) -> Call:
        """Check a notification and return its compiled pipeline. If no strategy is given, the pipeline is kept."""
        known = self._publishes
        if not isinstance(notification, Notification):
            raise _no_message(notification, "publish")
        if not self._started:
            raise misuse.not_started(notification)
        call = self._registry.pipeline(notification.__class__, strategy).call
        if strategy is None:
            known[notification.__class__] = call
        return call

    def _forget(self) -> None:
        self._sends, self._publishes = {}, {}


def _no_message(given: object, method: str) -> MisuseError:
    """Return the error for an argument that is no message. A coroutine is closed, because nobody will await it."""
    coroutine: Any = given
    if given.__class__ is CoroutineType:
        coroutine.close()
    return misuse.wrong_kind(given, method)
