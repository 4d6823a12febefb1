"""Pipeline: the behaviors and the handlers of a message, compiled once into a chain of calls.

A link is a function. Each call of a link creates one behavior or handler, and calls `handle` of the created object. If
a behavior returns without calling `call_next`, the objects of the inner links are not created. Two calls of
`call_next` create these objects twice. A link returns the coroutine of `handle` without awaiting the coroutine. So a
traceback shows only behaviors and handlers.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any, ClassVar, Generic, NoReturn, Protocol, TypeVar

from mediator.errors import misuse
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
"""A callable that returns an object, or an awaitable of an object; for example a provider of a container."""

Call = Callable[..., Coroutine[Any, Any, Any]]


class CallNext(Protocol[Response_co]):
    """Calls the rest of the pipeline with the same message, or with a replacement."""

    def __call__(self, message: Any = ..., /) -> Coroutine[Any, Any, Response_co]:
        """Create and run the inner behaviors and the handlers. `call_next` may be called several times, or never."""
        ...


class PipelineBehavior(ABC, Generic[Message_contra, Response]):
    """Wraps the handling of a message.

    The type argument says which messages the behavior wraps: `PipelineBehavior[Command[Any], Any]` wraps every command,
    `PipelineBehavior[A | B, None]` wraps `A` and `B`, `PipelineBehavior[Any, Any]` wraps every message.
    """

    one_of: ClassVar[str | None] = None
    """A name. Among all behaviors with this name, only the one with the most specific type argument wraps a message."""

    role: ClassVar[str | None] = None
    """The name by which `belongs_inside`, `belongs_outside` and `needs` refer to the behavior; `one_of` if not given."""

    belongs_inside: ClassVar[Mapping[str, str]] = {}
    """For each role, why behaviors with that role must come before this behavior. `validate` checks the order."""

    belongs_outside: ClassVar[Mapping[str, str]] = {}
    """For each role, why behaviors with that role must come after this behavior. `validate` checks the order."""

    needs: ClassVar[Mapping[str, str]] = {}
    """For each role, why this behavior needs a behavior with that role. `validate` reports a missing behavior."""

    made_once: ClassVar[bool] = False
    """True if the behavior keeps state between messages. `validate` checks that its provider creates it only once."""

    per_scope: ClassVar[bool] = False
    """If True, and if the strategy gives each handler a scope, the behavior wraps each handler, not the publish."""

    commits: ClassVar[bool] = False
    """True if the behavior commits a transaction. If an error follows the commit, outer behaviors get a `CommittedError`."""

    @abstractmethod
    async def handle(self, message: Message_contra, call_next: CallNext[Response], /) -> Response:
        """Return the response of `await call_next()`, or another response."""


class NotificationPipelineBehavior(ABC, Generic[Notification_contra]):
    """Wraps each handler of a notification separately. Declare this behavior in the list of all behaviors.

    `NotificationPipelineBehavior[Notification]` wraps every handler of every notification, and
    `NotificationPipelineBehavior[StudentEnrolled]` every handler of `StudentEnrolled`. A `PipelineBehavior` wraps the
    publish as a whole.
    """

    @abstractmethod
    async def handle(self, notification: Notification_contra, handler: type, call_next: CallNext[None], /) -> None:
        """Wrap one handler: do something before or after `await call_next()`. `handler` is the class of the handler."""


def handler_link(source: Source) -> Call:
    """Return the innermost link of a request, which calls its handler."""
    plain: Any = None  # the last class whose object was no awaitable; comparing classes is faster than `hasattr`

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
    """Return the innermost link of a notification or an event, which calls the handlers in order until one fails."""

    async def call(message: Any, /) -> None:
        for handle in calls:
            response = await handle(message)
            if response.__class__ is CoroutineType:
                check_awaited(response, message)

    return call


class LastCalled:
    """A key of a scope. Under this key, the scope keeps the class of the event handler that was called last."""


def noting_link(handler: type, inner: Call) -> Call:
    """Return a link that notes the class of the handler in the running scope, just before the handler is called."""

    def call(message: Any, /) -> Coroutine[Any, Any, Any]:
        current_scope("a handler of an event").instances[LastCalled] = handler
        return inner(message)

    return call


def behavior_link(source: Source, inner: Call) -> Call:
    """Return a link that calls a behavior. The `call_next` of the behavior calls the inner link.

    After the behavior has returned, `call_next` raises an error. The state of the behavior's coroutine shows whether
    the behavior has returned. A behavior is wrapped by `watched`, unless its bytecode shows that it awaits each
    `call_next()`.
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
            # a lambda, because a nested function would evaluate its annotations at each call
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
    raise misuse.called_late(message, run.__qualname__)


def checked_replacement(message: object, replacement: Any) -> Any:
    """Return the replacement that a behavior gave to `call_next` for a message.

    Raises:
        MisuseError: The replacement is not an instance of the message's class.
    """
    if not isinstance(replacement, message.__class__):
        raise misuse.replaced(message, replacement)
    return replacement


@dataclass(slots=True)
class _Resolving:
    """A behavior whose provider returned an awaitable. `handle` awaits the behavior before calling it."""

    resolving: Any

    def handle(self, *arguments: Any) -> Coroutine[Any, Any, Any]:
        return _behave_when_resolved(self.resolving, *arguments)


def notification_behavior_link(source: Source, handler: type, inner: Call) -> Call:
    """Return a link that calls a behavior around one handler of a notification."""

    def resolve() -> Any:
        behavior = source()
        return _around(behavior, handler) if hasattr(behavior, "__await__") else _Around(behavior, handler)

    return behavior_link(resolve, inner)


def awaited_link(inner: Call) -> Call:
    """Return a link that raises an error if the response is a coroutine that nobody has awaited."""

    async def call(message: Any, /) -> Any:
        response = await inner(message)
        check_awaited(response, message)
        return response

    return call


@dataclass(slots=True)
class _Around:
    """A `NotificationPipelineBehavior` and the class of the handler that it wraps."""

    behavior: Any
    handler: type

    @property
    def wrapped_handle(self) -> Any:
        return self.behavior.handle

    def handle(self, message: Any, call_next: CallNext[None], /) -> Coroutine[Any, Any, None]:
        result: Coroutine[Any, Any, None] = self.behavior.handle(message, self.handler, call_next)
        return result


async def _around(resolving: Awaitable[Any], handler: type) -> _Around:
    return _Around(await resolving, handler)


async def _behave_when_resolved(resolving: Awaitable[Any], *arguments: Any) -> Any:
    behavior = await resolving
    return await (behavior if awaits_inner(behavior) else watched(behavior)).handle(*arguments)


async def _handle_when_resolved(resolving: Awaitable[Any], *arguments: Any) -> Any:
    return await (await resolving).handle(*arguments)


def compile_chain(behaviors: Sequence[Source], innermost: Call, committing: int = 0) -> Call:
    """Compile behaviors, outermost first, and the innermost link into one chain.

    `committing` is the number of behaviors outside the behavior that commits a transaction.
    """
    chain = innermost
    for place, source in reversed(tuple(enumerate(behaviors))):
        chain = behavior_link(source, chain)
        if 0 < place < committing:  # the dispatch itself replaces errors of the outermost behavior
            chain = outcome_link(chain)
    return chain


def strategy_link(strategy: PublishStrategy, calls: Sequence[Call]) -> Call:
    """Return the innermost link of a notification, which runs its handlers by a strategy."""
    if strategy == Sequential():
        return handlers_link(calls)
    own, checked = strategy.scope_per_handler, [awaited_link(each) for each in calls]

    async def call(message: Any, /) -> None:
        if own and current_scope().transaction is not None:
            raise misuse.concurrent_publish(message)
        await strategy.run([partial(each, message) for each in checked], message)

    return call


def own_scope_link(inner: Call) -> Call:
    """Return a link that runs one handler in a new scope.

    If no transaction may begin in the surrounding scope, none may begin in the new scope either.
    """

    async def call(message: Any, /) -> Any:
        outer = current_frame()
        if outer is None:
            raise misuse.no_scope("a handler's own scope")
        mode = TransactionMode.NEW if outer.scope.transactional else TransactionMode.SUPPRESS
        frame = enter(mode, (outer.dispatch or outer).message, outer.origin, is_dispatch=False)
        try:
            response = await inner(message)
            check_awaited(response, message)
            frame.check_outcome()
        except BaseException as error:
            frame.pass_on_commit(outer)
            await frame.leave(error)
            frame.raise_with_outcome(error)
            raise
        frame.pass_on_commit(outer)
        await frame.leave(response=response)
        return response

    return call


def outcome_link(inner: Call) -> Call:
    """Return a link that replaces errors, so that each error says the outcome of the transaction inside the link.

    Behaviors outside the link need the outcome, for example to decide whether to try again.
    """

    async def call(message: Any, /) -> Any:
        try:
            response = await inner(message)
        except Exception as error:
            dispatch = _running_dispatch()
            raised = error if dispatch is None else dispatch.with_outcome(error)
            if dispatch is not None:
                dispatch.failed(raised)
            if raised is not error:
                raise raised from error
            raise
        dispatch = _running_dispatch()
        if dispatch is not None and dispatch.ending is not None:
            dispatch.check_outcome()
            dispatch.ending.response = response
        return response

    return call


def _running_dispatch() -> Frame | None:
    frame = current_frame()
    return None if frame is None else frame.dispatch


def call_inside(frame: Frame, mode: TransactionMode, message: Any, call: Call) -> Awaitable[Any]:
    """Call the pipeline in the scope of an outer dispatch, and in the running transaction if there is one."""
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
    """Call the pipeline in an outer transaction. If a command or publish fails, the transaction must roll back."""
    try:
        return await call(message)
    except BaseException as error:
        if issubclass(type(message), (Command, Notification)):
            transaction.doom(message, error)
        raise
