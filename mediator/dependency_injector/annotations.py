"""Annotation: what class it stands for, and whether what is given fits what it asks for. Unknown always fits."""

import collections.abc
import contextlib
import inspect
import types
import typing
from typing import Any

_WRAPPERS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.Iterable,
    contextlib.AbstractContextManager,
    contextlib.AbstractAsyncContextManager,
)
_TAKING_CLASSES = (None, type, object, typing.get_origin(collections.abc.Callable[..., Any]))
_UNIONS = (typing.Union, types.UnionType)


def hints_of(function: Any) -> dict[str, Any]:
    """The annotations of a function or of a class's constructor; empty when they cannot be read."""
    if isinstance(function, type):
        function = inspect.getattr_static(function, "__init__")
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except Exception:  # names that exist for type checkers only; what is not known is not checked
        return {}


def returned_class(function: Any, *, unwrap: bool) -> type | None:
    """The class that a function says it returns; of a generator or context manager what it gives, with `unwrap`."""
    annotation = hints_of(function).get("return")
    if unwrap and typing.get_origin(annotation) in _WRAPPERS:
        annotation = typing.get_args(annotation)[0]
    return class_of(annotation)


def class_of(annotation: Any) -> type | None:
    """The class that an annotation stands for, `None` when it is no class."""
    while hasattr(annotation, "__supertype__"):  # NewType
        annotation = annotation.__supertype__
    origin = typing.get_origin(annotation) or annotation
    return origin if isinstance(origin, type) and origin not in (Any, types.UnionType) else None


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value annotated `given` may be used where `wanted` is asked for; true when that cannot be told."""
    if typing.get_origin(given) in _UNIONS:
        return all(fits(member, wanted) for member in typing.get_args(given))
    if typing.get_origin(wanted) in _UNIONS:
        return any(fits(given, member) for member in typing.get_args(wanted))
    if hasattr(wanted, "__supertype__"):
        return given == wanted or _is_new_type_of(given, wanted)
    given_class, wanted_class = class_of(given), class_of(wanted)
    if given_class is None or wanted_class is None or getattr(wanted_class, "_is_protocol", False):
        return True
    if given_class is wanted_class:
        return arguments_fit(typing.get_args(given), typing.get_args(wanted))
    return _derives(given_class, wanted_class)


def class_fits(given: type, wanted: Any) -> bool:
    """Whether an instance of a class may be passed where `wanted` is asked for; true when that cannot be told."""
    if typing.get_origin(wanted) in _UNIONS:
        return any(class_fits(given, member) for member in typing.get_args(wanted))
    wanted_class = class_of(wanted)
    return wanted_class is None or fits(given, wanted_class)


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


def takes_class(wanted: Any) -> bool:
    """Whether a class itself, not an instance, may be meant; true when that cannot be told."""
    if typing.get_origin(wanted) in _UNIONS:
        return any(takes_class(member) for member in typing.get_args(wanted))
    cls = class_of(wanted)
    return cls in _TAKING_CLASSES or getattr(cls, "_is_protocol", False)
