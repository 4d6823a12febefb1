"""Annotation: what a function says it gives or takes, and whether a class fits it. Unknown always fits."""

import collections.abc
import contextlib
import inspect
import typing
from typing import Any

from mediator.handlers import UNIONS, class_of, fits

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


def class_fits(given: type, wanted: Any) -> bool:
    """Whether an instance of a class may be passed where `wanted` is asked for; true when that cannot be told."""
    if typing.get_origin(wanted) in UNIONS:
        return any(class_fits(given, member) for member in typing.get_args(wanted))
    wanted_class = class_of(wanted)
    return wanted_class is None or fits(given, wanted_class)


def takes_class(wanted: Any) -> bool:
    """Whether a class itself, not an instance, may be meant; true when that cannot be told."""
    if typing.get_origin(wanted) in UNIONS:
        return any(takes_class(member) for member in typing.get_args(wanted))
    cls = class_of(wanted)
    return cls in _TAKING_CLASSES or getattr(cls, "_is_protocol", False)
