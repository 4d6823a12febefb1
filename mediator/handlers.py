"""Handlers: the base classes of handlers, and functions that read type arguments."""

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
    """Handles a class of requests. `RequestHandler[EnrollStudent, StudentId]` handles `EnrollStudent`.

    `RequestHandler[A | B, str]` handles both classes. If a request class has no handler, the handler of its
    nearest base class is used.
    """

    @abstractmethod
    async def handle(self, request: Request_contra, /) -> Response_co:
        """Handle the request and return its response. Errors reach the sender unchanged."""


class NotificationHandler(ABC, Generic[Notification_contra]):
    """Handles a class of notifications and its subclasses. `NotificationHandler[A | B]` handles both classes."""

    @abstractmethod
    async def handle(self, notification: Notification_contra, /) -> None:
        """Handle the notification, in the scope and the transaction in which it was published."""


class StreamRequestHandler(ABC, Generic[StreamRequest_contra, Item_co]):
    """Handles a class of stream requests. Its `handle` is an async generator: `async def` with `yield` in it."""

    @abstractmethod
    def handle(self, request: StreamRequest_contra, /) -> AsyncIterator[Item_co]:
        """Yield the items.

        Close resources with `finally` or `async with`: the consumer may stop before the last item.
        """


def type_arguments(cls: type, generic: type) -> tuple[Any, ...] | None:
    """Return the type arguments that `cls` gives to its base class `generic`, directly or through other base classes.

    Return `None` when `cls` does not derive from `generic`, and an empty tuple when `cls` derives from `generic`
    without type arguments.
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
    """Return the message classes of a type argument, one for each member of a union.

    For `Any` the result is `object`, the base class of every message. A type variable is replaced by its bound, and an
    alias (PEP 695) by its value. The tuple is empty for anything that is no class, such as the forward reference in
    `RequestHandler["EnrollStudent", int]`.
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
    """Return the class of an annotation, without type arguments; `None` when the annotation is no class."""
    while hasattr(annotation, "__supertype__"):  # NewType
        annotation = annotation.__supertype__
    origin = typing.get_origin(annotation) or annotation
    return origin if isinstance(origin, type) and origin not in (Any, types.UnionType) else None


def fits(given: Any, wanted: Any) -> bool:
    """Return whether a value of type `given` may be used where `wanted` is expected; True when this is unknown."""
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
    """Return whether `given` is a NewType derived from `wanted`; True also when `given` is no class."""
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
    except TypeError:  # `wanted` is a TypedDict, for example
        return True


def arguments_fit(given: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    """Return whether the given type arguments fit the wanted type arguments; True when this is unknown."""
    return len(given) != len(wanted) or all(fits(one, other) for one, other in zip(given, wanted, strict=True))


def is_known(given: Any, wanted: Any) -> bool:
    """Return whether the type argument `given` certainly fits `wanted`. Use this only after `fits` returned True.

    The fit of `list[Any]` for `list[int]` is uncertain, for example. A type variable in `given` counts as `Any`.
    """
    if _is_anything(wanted) or _is_anything(given):
        return _is_anything(wanted)
    if typing.get_origin(wanted) in UNIONS:
        return any(fits(given, member) and is_known(given, member) for member in typing.get_args(wanted))
    if typing.get_origin(given) in UNIONS:
        return all(is_known(member, wanted) for member in typing.get_args(given))
    inside, asked = typing.get_args(given), typing.get_args(wanted)
    if not asked or class_of(given) is not class_of(wanted):
        return True
    return len(inside) == len(asked) and all(map(is_known, inside, asked))


def _is_anything(argument: Any) -> bool:
    return argument is Any or isinstance(argument, TypeVar)


def spelled(annotation: Any) -> str:
    """Return a type argument as source code: `list[Student] | None`."""
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
