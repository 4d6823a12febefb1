"""Pipeline: the behaviors around a message and what handles it, compiled once into a chain of calls.

Every link resolves its object when the chain reaches it, so what lies inside a behavior that returns early is never
built, and calling on again builds it afresh. A link is a plain function that returns the coroutine of the next `handle`:
a traceback shows behaviors and handlers only.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import CoroutineType
from typing import Any, ClassVar, Generic, NoReturn, Protocol, TypeVar

from mediator.errors import CallNextError, ConcurrentPublishError, NoScopeError, ReplacementError
from mediator.handlers import Notification_contra
from mediator.messages import Command, Notification
from mediator.scope import Frame, current_frame, current_scope, enter
from mediator.strategies import PublishStrategy, Sequential
from mediator.transactions import Transaction, TransactionMode
from mediator.watching import awaits_inner, check_awaited, watched

Message_contra = TypeVar("Message_contra", contravariant=True)
Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)

Source = Callable[[], Any]
"""Anything that gives an object (or an awaitable of it) when called: a provider of a container, for one."""

Call = Callable[..., Coroutine[Any, Any, Any]]


class CallNext(Protocol[Response_co]):
    """Goes on with the rest of the pipeline, for the same message or for the one given in its place."""

    def __call__(self, message: Any = ..., /) -> Coroutine[Any, Any, Response_co]:
        """Resolve and run everything inside this behavior. May be called again, or not at all."""
        ...


class PipelineBehavior(ABC, Generic[Message_contra, Response]):
    """Something that happens around the handling of a message.

    The type argument says where it applies: `PipelineBehavior[Command[Any], Any]` wraps every command,
    `PipelineBehavior[A | B, None]` these two, `PipelineBehavior[Any, Any]` everything.
    """

    one_of: ClassVar[str | None] = None
    """Of the behaviors that share this name only the one with the most specific type argument applies to a message."""

    role: ClassVar[str | None] = None
    """What it does, as far as others care on which side of it they stand; `one_of` where it is not given."""

    belongs_inside: ClassVar[Mapping[str, str]] = {}
    """The roles that must stand before it in the list, if they are there, each with the reason. `validate` checks it."""

    belongs_outside: ClassVar[Mapping[str, str]] = {}
    """The roles that must stand after it in the list, if they are there, each with the reason. `validate` checks it."""

    needs: ClassVar[Mapping[str, str]] = {}
    """The roles without which it cannot do anything, each with the reason. `validate` checks it."""

    made_once: ClassVar[bool] = False
    """It keeps something from one message to the next, so its provider must make it once. `validate` checks it."""

    per_scope: ClassVar[bool] = False
    """When the handlers of a notification have scopes of their own, it runs in each of these, not around the publish."""

    @abstractmethod
    async def handle(self, message: Message_contra, call_next: CallNext[Response], /) -> Response:
        """Return the response: that of `await call_next()`, or another one."""


class NotificationPipelineBehavior(ABC, Generic[Notification_contra]):
    """Something that happens around each single handler of a notification; it stands in the same list.

    `NotificationPipelineBehavior[Notification]` wraps every handler of every notification, and
    `NotificationPipelineBehavior[StudentEnrolled]` those of this one. A `PipelineBehavior` wraps the publish as a whole.
    """

    @abstractmethod
    async def handle(self, notification: Notification_contra, handler: type, call_next: CallNext[None], /) -> None:
        """Act around `await call_next()`. `handler` is the class of the handler inside."""


def handler_link(source: Source) -> Call:
    """The innermost link of a request: its handler."""
    plain: Any = None  # the class that was found to be no awaitable: asking it again costs more than comparing

    def call(message: Any, /) -> Coroutine[Any, Any, Any]:
        nonlocal plain
        handler = source()
        if handler.__class__ is not plain:
            if hasattr(handler, "__await__"):
                return _handle_when_resolved(handler, message)
            plain = handler.__class__
        result: Coroutine[Any, Any, Any] = handler.handle(message)
        return result

    return call


def handlers_link(calls: Sequence[Call]) -> Call:
    """The innermost link of a notification or an event: all its handlers, in order; the first error stops."""

    async def call(message: Any, /) -> None:
        for handle in calls:
            response = await handle(message)
            if response.__class__ is CoroutineType:
                check_awaited(response, message)

    return call


def behavior_link(source: Source, inner: Call) -> Call:
    """A link that lets a behavior decide about the links inside it.

    Its `call_next` refuses when the behavior has ended. A coroutine that neither runs nor waits has, so nothing need be
    noted on the way. One whose code does not show that it awaits what is inside is watched, which takes longer.
    """
    plain: Any = None

    def call(message: Any, /) -> Coroutine[Any, Any, Any]:
        nonlocal plain
        run: Any = None
        behavior = source()
        if behavior.__class__ is not plain:
            if hasattr(behavior, "__await__"):
                behavior = _Resolving(behavior)
            elif awaits_inner(behavior):
                plain = behavior.__class__
            else:
                behavior = watched(behavior)
        run = behavior.handle(
            message,
            # A lambda, for the annotations of a function would be made each time.
            lambda replacement=..., /: (
                inner(message if replacement is ... else checked_replacement(message, replacement))
                if run is None or run.cr_running or run.cr_suspended
                else _refuse(message, run)
            ),
        )
        handling: Coroutine[Any, Any, Any] = run
        if run.__class__ is not CoroutineType:
            run = None
        return handling

    return call


def _refuse(message: object, run: Any) -> NoReturn:
    raise CallNextError(message, run.__qualname__)


def checked_replacement(message: object, replacement: Any) -> Any:
    """What a behavior passes on in place of its message, if that is of the same class or of one derived from it.

    Raises:
        ReplacementError: It is not, and what lies inside was chosen for another class.
    """
    if not isinstance(replacement, message.__class__):
        raise ReplacementError(message, replacement)
    return replacement


class _Resolving:
    """A behavior that is still being made."""

    __slots__ = ("_resolving",)

    def __init__(self, resolving: Any) -> None:
        self._resolving = resolving

    def handle(self, *arguments: Any) -> Coroutine[Any, Any, Any]:
        return _behave_when_resolved(self._resolving, *arguments)


def notification_behavior_link(source: Source, handler: type, inner: Call) -> Call:
    """A link that lets a behavior decide about one handler of a notification."""

    def resolve() -> Any:
        behavior = source()
        return _around(behavior, handler) if hasattr(behavior, "__await__") else _Around(behavior, handler)

    return behavior_link(resolve, inner)


def awaited_link(inner: Call) -> Call:
    """A link that refuses a coroutine which nobody awaited as the response of what is inside."""

    async def call(message: Any, /) -> Any:
        response = await inner(message)
        check_awaited(response, message)
        return response

    return call


class _Around:
    """A behavior that has been told which handler it wraps."""

    __slots__ = ("_behavior", "_handler")

    def __init__(self, behavior: Any, handler: type) -> None:
        self._behavior = behavior
        self._handler = handler

    @property
    def wrapped_handle(self) -> Any:
        return self._behavior.handle

    def handle(self, message: Any, call_next: CallNext[None], /) -> Coroutine[Any, Any, None]:
        result: Coroutine[Any, Any, None] = self._behavior.handle(message, self._handler, call_next)
        return result


async def _around(resolving: Awaitable[Any], handler: type) -> _Around:
    return _Around(await resolving, handler)


async def _behave_when_resolved(resolving: Awaitable[Any], *arguments: Any) -> Any:
    behavior = await resolving
    return await (behavior if awaits_inner(behavior) else watched(behavior)).handle(*arguments)


async def _handle_when_resolved(resolving: Awaitable[Any], *arguments: Any) -> Any:
    return await (await resolving).handle(*arguments)


def compile_chain(behaviors: Sequence[Source], innermost: Call) -> Call:
    """Fold behaviors, outermost first, around the innermost link."""
    chain = innermost
    for source in reversed(behaviors):
        chain = behavior_link(source, chain)
    return chain


def strategy_link(strategy: PublishStrategy, calls: Sequence[Call]) -> Call:
    """The innermost link of a notification."""
    if strategy == Sequential():
        return handlers_link(calls)
    own, checked = strategy.scope_per_handler, [awaited_link(each) for each in calls]

    async def call(message: Any, /) -> None:
        if own and current_scope().transaction is not None:
            raise ConcurrentPublishError(message)
        await strategy.run([partial(each, message) for each in checked], message)

    return call


def own_scope_link(inner: Call) -> Call:
    """A link that opens a scope for what is inside: one without a transaction if that around it may have none."""

    async def call(message: Any, /) -> Any:
        outer = current_frame()
        if outer is None:
            raise NoScopeError("a handler's own scope")
        mode = TransactionMode.NEW if outer.scope.transactional else TransactionMode.SUPPRESS
        frame = enter(mode, message, outer.origin)
        try:
            response = await inner(message)
            check_awaited(response, message)
        except BaseException as error:
            await frame.leave(error)
            raise
        await frame.leave()
        return response

    return call


def call_inside(frame: Frame, mode: TransactionMode, message: Any, call: Call) -> Awaitable[Any]:
    """Call in the scope of another dispatch, and in its transaction if one runs."""
    joined = frame.scope.transaction
    if joined is None:
        return call(message)
    if mode is TransactionMode.NESTED:
        return _call_in_savepoint(joined, message, call)
    return _call_joined(joined, message, call)


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
