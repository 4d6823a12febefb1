"""Function handlers: make a handler class from a plain function."""

import inspect
import types
import typing
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox import DistributedEventHandler
from mediator.errors import ContainerError
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler, message_types
from mediator.messages import Notification, Request, StreamRequest

P = ParamSpec("P")
R = TypeVar("R")
Sent = TypeVar("Sent", bound=Request[Any])
Streamed = TypeVar("Streamed", bound=StreamRequest[Any])
Published = TypeVar("Published", bound=Notification)
Delivered = TypeVar("Delivered", bound=DistributedEvent)

_KINDS: dict[type, type] = {
    Request: RequestHandler,
    StreamRequest: StreamRequestHandler,
    Notification: NotificationHandler,
    DistributedEvent: DistributedEventHandler,
}


@overload
def as_handler(function: Callable[Concatenate[Sent, P], Awaitable[R]], /) -> Callable[P, RequestHandler[Sent, R]]: ...
@overload
def as_handler(
    function: Callable[Concatenate[Published, P], Awaitable[None]], /
) -> Callable[P, NotificationHandler[Published]]: ...
@overload
def as_handler(
    function: Callable[Concatenate[Delivered, P], Awaitable[None]], /
) -> Callable[P, DistributedEventHandler[Delivered]]: ...
@overload
def as_handler(
    function: Callable[Concatenate[Streamed, P], AsyncIterator[R]], /
) -> Callable[P, StreamRequestHandler[Streamed, R]]: ...
def as_handler(function: Callable[..., Any], /) -> Any:
    """Return a handler class made from an async function: `providers.Factory(as_handler(enroll_student), students)`.

    The annotation of the first parameter is the message class; the provider passes the other arguments. An async
    generator function that takes a stream request becomes a stream handler. The function itself is not changed. Used as
    a decorator, `as_handler` binds the function's name to the handler class, so that a scan of the package finds the
    class.

    Raises:
        ContainerError: The argument is not an async function, an annotation cannot be resolved, or the first parameter is
            not annotated with a message class. Or the function has no `yield` although it takes a stream request, or
            has a `yield` although it takes a message of another kind.
    """
    _check_function(function)
    if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        raise ContainerError(function, f"{_name(function)} is not async; make a handler of it with `as_sync_handler`.")
    kind = _kind(function)
    if (kind is StreamRequestHandler) is not inspect.isasyncgenfunction(function):
        raise ContainerError(
            function, f"{_name(function)} has {'no' if kind is StreamRequestHandler else 'a'} `yield`: a handler of stream "
            "requests must be an async generator function, and no other handler may be one."
        )  # fmt: skip
    return _class_of(function, kind, is_async=True)


@overload
def as_sync_handler(function: Callable[Concatenate[Sent, P], R], /) -> Callable[P, RequestHandler[Sent, R]]: ...
@overload
def as_sync_handler(
    function: Callable[Concatenate[Published, P], None], /
) -> Callable[P, NotificationHandler[Published]]: ...
@overload
def as_sync_handler(
    function: Callable[Concatenate[Delivered, P], None], /
) -> Callable[P, DistributedEventHandler[Delivered]]: ...
def as_sync_handler(function: Callable[..., Any], /) -> Any:
    """Return a handler class made from a function that is not async. The function must not block the event loop.

    Raises:
        ContainerError: The argument is no function or is async, an annotation cannot be resolved, or the first
            parameter is annotated with a stream request or with no message class.
    """
    _check_function(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ContainerError(function, f"{_name(function)} is async; make a handler of it with `as_handler`.")
    kind = _kind(function)
    if kind is StreamRequestHandler:
        raise ContainerError(function, f"{_name(function)} handles a stream request and must be an async generator.")
    return _class_of(function, kind, is_async=False)


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))


def _check_function(function: Any) -> None:
    """Refuse a partial or another object that is no function. Such an object may have no name and no annotations."""
    given: Any = function  # pyright does not know the type arguments of a partial
    if isinstance(function, partial):
        raise ContainerError(
            given, f"A partial of {_name(given.func)} is no function. Make a handler of the function itself, and let "
            "the handler's provider give the arguments: `providers.Factory(as_handler(function), argument)`."
        )  # fmt: skip
    if not inspect.isroutine(function):
        raise ContainerError(
            function, f"{_name(function)} is no function. Write a function, or derive a class from RequestHandler."
        )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:  # raised for an annotation that is a string
        text = (
            f"An annotation of {_name(function)} cannot be resolved: {error}. The names in the annotation must be "
            "defined, or imported at run time, at the top level of the module."
        )
        raise ContainerError(function, text) from error


def _first(function: Callable[..., Any]) -> inspect.Parameter:
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (parameters[0].POSITIONAL_ONLY, parameters[0].POSITIONAL_OR_KEYWORD):
        raise ContainerError(function, f"{_name(function)} takes no message: its first parameter must be the message.")
    return parameters[0]


def _kind(function: Callable[..., Any]) -> type:
    classes = message_types(_hints(function).get(_first(function).name))
    for base, kind in _KINDS.items():
        if classes and all(issubclass(cls, base) for cls in classes):
            return kind
    raise ContainerError(
        function,
        f"The first parameter of {_name(function)} is not annotated with a message class. Annotate it with the command, "
        "query, notification, stream request or distributed event that the function handles.",
    )


def _class_of(function: Callable[..., Any], kind: type, *, is_async: bool) -> type:
    hints = _hints(function)
    message = hints.pop(_first(function).name)
    result = hints.pop("return", Any)
    signature = inspect.signature(function)
    rest = list(signature.parameters.values())[1:]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  # it becomes a method
        self._arguments = signature.replace(parameters=rest).bind(*args, **kwargs)

    async def handle(self: Any, message: Any, /) -> Any:
        done = function(message, *self._arguments.args, **self._arguments.kwargs)
        return await done if is_async else done

    def stream(self: Any, request: Any, /) -> Any:
        return function(request, *self._arguments.args, **self._arguments.kwargs)

    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    __init__.__signature__ = inspect.Signature([this, *rest])  # type: ignore[attr-defined]  # `validate` reads it
    __init__.__annotations__ = hints
    body = {
        "__init__": __init__,
        "handle": stream if kind is StreamRequestHandler else handle,
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": _name(function),
    }
    return types.new_class(
        function.__name__, (_base(kind, message, result),), exec_body=lambda space: space.update(body)
    )


def _base(kind: type, message: Any, result: Any) -> Any:
    arguments: tuple[Any, ...] = (message,)
    if kind is RequestHandler:
        arguments = (message, result)
    elif kind is StreamRequestHandler:
        arguments = (message, (typing.get_args(result) or (Any,))[0])
    generic: Any = kind
    return generic[arguments]
