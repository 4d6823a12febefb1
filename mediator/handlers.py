"""Handlers: what does the work for a message, and how a class says which messages it handles."""

import types
import typing
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from mediator.messages import Notification, Request, StreamRequest

Request_contra = TypeVar("Request_contra", bound=Request[Any], contravariant=True)
Notification_contra = TypeVar("Notification_contra", bound=Notification, contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)
StreamRequest_contra = TypeVar("StreamRequest_contra", bound=StreamRequest[Any], contravariant=True)
Item_co = TypeVar("Item_co", covariant=True)

UNIONS = (typing.Union, types.UnionType)


class RequestHandler(ABC, Generic[Request_contra, Response_co]):
    """Handles one kind of request. `RequestHandler[EnrollStudent, StudentId]` handles `EnrollStudent`.

    `RequestHandler[A | B, str]` handles both. A request without a handler of its own goes to that of its nearest base.
    """

    @abstractmethod
    async def handle(self, request: Request_contra, /) -> Response_co:
        """Do what the request asks for and return its response. Errors reach the sender as they are."""


class NotificationHandler(ABC, Generic[Notification_contra]):
    """Handles one kind of notification, and those derived from it. `NotificationHandler[A | B]` handles both."""

    @abstractmethod
    async def handle(self, notification: Notification_contra, /) -> None:
        """Act on the notification, in the scope and the transaction of whoever published it."""


class StreamRequestHandler(ABC, Generic[StreamRequest_contra, Item_co]):
    """Handles one kind of stream request; its `handle` is an async generator: `async def` with `yield` in it."""

    @abstractmethod
    def handle(self, request: StreamRequest_contra, /) -> AsyncIterator[Item_co]:
        """Yield the items. What is opened here is closed in `finally` or `async with`, also when nobody wants the rest."""


def type_arguments(cls: type, generic: type) -> tuple[Any, ...] | None:
    """The type arguments that `cls` gives to its generic base, seen through classes between them.

    Returns `None` when `cls` does not derive from `generic`, and an empty tuple when it does without arguments.
    """
    if generic not in getattr(cls, "__mro__", ()):
        return None
    declared: tuple[Any, ...] = cls.__dict__.get("__orig_bases__", cls.__bases__)
    for parent in declared:
        origin: Any = typing.get_origin(parent) or parent
        arguments = typing.get_args(parent)
        if origin is generic:
            return arguments
        inherited = type_arguments(origin, generic) if isinstance(origin, type) else None
        if inherited is not None:
            known = dict(zip(getattr(origin, "__parameters__", ()), arguments, strict=False))
            return tuple(_substitute(argument, known) for argument in inherited)
    return ()


def _substitute(argument: Any, known: dict[Any, Any]) -> Any:
    if isinstance(argument, TypeVar):
        return known.get(argument, argument)
    parameters = getattr(argument, "__parameters__", ())
    if parameters and any(parameter in known for parameter in parameters):
        return argument[tuple(known.get(parameter, parameter) for parameter in parameters)]
    return argument


def message_types(argument: Any) -> tuple[type, ...]:
    """The message classes that a type argument stands for; unions expand.

    `Any` stands for every message (`object`), a type variable for its bound, an alias (PEP 695) for its value. Returns
    an empty tuple for what is no class, such as the forward reference of `RequestHandler["EnrollStudent", int]`.
    """
    if argument is Any:
        return (object,)
    if isinstance(argument, TypeVar):
        return message_types(argument.__bound__ if argument.__bound__ is not None else Any)
    alias = None if isinstance(argument, type) else getattr(argument, "__value__", None)
    if alias is not None:
        return message_types(alias)
    origin = typing.get_origin(argument)
    if origin in UNIONS:
        expanded = [message_types(member) for member in typing.get_args(argument)]
        return tuple(cls for members in expanded for cls in members) if all(expanded) else ()
    origin = origin or argument
    return (origin,) if isinstance(origin, type) else ()


def class_of(annotation: Any) -> type | None:
    """The class that an annotation stands for, `None` when it is no class."""
    while hasattr(annotation, "__supertype__"):  # NewType
        annotation = annotation.__supertype__
    origin = typing.get_origin(annotation) or annotation
    return origin if isinstance(origin, type) and origin not in (Any, types.UnionType) else None


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value annotated `given` may be used where `wanted` is asked for; true when that cannot be told."""
    if typing.get_origin(given) in UNIONS:
        return all(fits(member, wanted) for member in typing.get_args(given))
    if typing.get_origin(wanted) in UNIONS:
        return any(fits(given, member) for member in typing.get_args(wanted))
    if hasattr(wanted, "__supertype__"):
        return given == wanted or _is_new_type_of(given, wanted)
    given_class, wanted_class = class_of(given), class_of(wanted)
    if given_class is None or wanted_class is None or getattr(wanted_class, "_is_protocol", False):
        return True
    if given_class is wanted_class:
        return arguments_fit(typing.get_args(given), typing.get_args(wanted))
    return _derives(given_class, wanted_class)


def _is_new_type_of(given: Any, wanted: Any) -> bool:
    """Whether `given` is a NewType made from `wanted`, or nothing is known of it."""
    while hasattr(given, "__supertype__"):
        given = given.__supertype__
        if given == wanted:
            return True
    return class_of(given) is None


def _derives(given: type, wanted: type) -> bool:
    if wanted is float and given is int:
        return True
    try:
        return issubclass(given, wanted)
    except TypeError:  # a TypedDict, for one
        return True


def arguments_fit(given: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    """Whether the type arguments of what is given are those that are asked for; true when that cannot be told."""
    return len(given) != len(wanted) or all(fits(one, other) for one, other in zip(given, wanted, strict=True))


def spelled(annotation: Any) -> str:
    """A type argument as one would write it: `list[Student] | None`."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in UNIONS:
        return " | ".join(spelled(member) for member in arguments)
    if annotation is types.NoneType or annotation is None:
        return "None"
    if arguments and isinstance(typing.get_origin(annotation), type):
        inner = ", ".join("..." if member is ... else spelled(member) for member in arguments)
        return f"{typing.get_origin(annotation).__name__}[{inner}]"
    named = hasattr(annotation, "__name__") and not arguments
    return str(annotation.__name__) if named else str(annotation).removeprefix("typing.")
