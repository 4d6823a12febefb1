"""MediatorError: the root of every error, how errors name what they are about, and how they are copied and pickled."""

import pickle  # it only ever reads here what it has just written
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import wraps
from types import FunctionType
from typing import Any

from mediator.printable import LONGEST_REPORT, printable, shown, shown_reason

_TEXT = "_text"
_SEQUENCES: frozenset[type] = frozenset({list, tuple})
_PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, slots=True)
class NotPickled:
    """Stands in an unpickled error for an object that cannot be pickled, such as a lock, a provider or a local class.

    Attributes:
        name: The name of the object's class, or its own name when it is a class or a function.
    """

    name: str


def name_of(message: object) -> str:
    """The short name of a message, a class or a label, for texts."""
    if isinstance(message, str):
        return shown(message)
    if isinstance(message, NotPickled):
        return message.name
    return message.__name__ if isinstance(message, type) else type(message).__name__


def repr_of(error: BaseException) -> str:
    """The representation of an error in one line; the name of its class when that fails too."""
    with suppress(Exception):
        return shown_reason(repr(error))
    return type(error).__name__


class MediatorError(Exception):
    """The base of every error that this library raises. Its text is printable and bounded, whatever is repeated in it.

    It can be copied and pickled, and then has its fields, its text and its notes, as everywhere without cause and traceback.
    A field, or a part of one, that cannot be pickled becomes a `NotPickled`; an exception becomes a `MediatorError` with its
    representation as text. The text of the error stays as it was.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__str__" in cls.__dict__:
            setattr(cls, "__str__", _as_it_was(cls.__str__))  # noqa: B010  (type checkers need not know)

    def __str__(self) -> str:
        return printable(super().__str__(), LONGEST_REPORT)

    def __repr__(self) -> str:
        """The text rather than the objects, whose own representation may hold a payload."""
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, _parts(self, {})

    def __copy__(self) -> Any:
        return _restored(type(self), self.args, _attributes(self), None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = memo[id(self)] = _restored(type(self), _deep(self.args, memo), {}, None)
        _fill(made, {name: _deep(value, memo) for name, value in _attributes(self).items()})
        return made


def _as_it_was(render: Callable[[Any], str]) -> Callable[[Any], str]:
    """Render an error as it was before it was pickled, where its fields would not give the same text any more.

    Whatever is foreign in its fields, the text is printable and bounded.
    """

    @wraps(render)
    def text(self: MediatorError) -> str:
        kept: str | None = self.__dict__.get(_TEXT)
        return printable(render(self), LONGEST_REPORT) if kept is None else kept

    return text


def _restored(cls: Any, args: tuple[Any, ...], state: dict[str, Any], text: str | None) -> Any:
    """An error of a class, made without its constructor, which may want other arguments than those that are known."""
    built_in = cls
    while built_in.__module__ != "builtins":
        built_in = built_in.__base__
    error = built_in.__new__(cls, *args)
    _fill(error, {"args": args, **state})
    if text is not None and _text_of(error) != text:
        object.__setattr__(error, _TEXT, text)
    return error


def _attributes(error: MediatorError) -> dict[str, Any]:
    """The attributes by name; those that a built-in base keeps apart, and slots, too."""
    reduced: Any = super(MediatorError, error).__reduce__()
    kept: Any = object.__getstate__(error)  # a pair, where there are slots
    return {**dict(*reduced[2:3]), **(kept[1] if type(kept) is tuple else {})}


def _fill(error: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        object.__setattr__(error, name, value)  # a subclass may be frozen


def _text_of(error: BaseException) -> str | None:
    with suppress(Exception):  # an object in it may fail to show itself
        return str(error)
    return None


def _deep(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy, in which what cannot be copied is the same object."""
    try:
        return deepcopy(value, memo)
    except Exception:  # a lock, a provider, a frame
        if type(value) in (list, tuple):
            return type(value)(_deep(each, memo) for each in value)
        return value


# What crosses into another process.


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Pickles as a call, all of whose arguments are known to cross."""

    reduced: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def _parts(error: MediatorError, known: dict[int, Any]) -> tuple[Any, ...]:
    known[id(error)] = NotPickled(name_of(error))  # an error inside of itself
    state = {name: _crossing(value, known) for name, value in _attributes(error).items()}
    cls = next(base for base in type(error).__mro__ if _can_cross(base))
    return cls, tuple(_crossing(each, known) for each in error.args), state, _text_of(error)


def _crossing(value: Any, known: dict[int, Any]) -> Any:
    """A value, in which everything that would not arrive is replaced. Each object is looked at once."""
    if type(value) in _PLAIN:
        return value
    if id(value) not in known:
        known[id(value)] = NotPickled(name_of(value))  # a list inside of itself
        known[id(value)] = _prepared(value, known)
    return known[id(value)]


def _prepared(value: Any, known: dict[int, Any]) -> Any:
    kind: type[Any] = value.__class__
    if kind in _SEQUENCES:
        return kind(_crossing(each, known) for each in value)
    if kind is dict and _can_cross(list(value)):
        return {key: _crossing(each, known) for key, each in value.items()}
    if kind in (ExceptionGroup, BaseExceptionGroup):
        return _Prepared((kind, (value.message, [_crossing(each, known) for each in value.exceptions])))
    if issubclass(kind, MediatorError) and kind.__reduce__ is MediatorError.__reduce__:
        return _Prepared((_restored, _parts(value, known)))
    if issubclass(kind, BaseException):
        return value if _can_cross(value) else MediatorError(repr_of(value))
    return value if _can_cross(value) else NotPickled(value.__name__ if kind is FunctionType else name_of(value))


def _can_cross(value: object) -> bool:
    """Whether a value can be pickled, and what comes of that be unpickled, which many exceptions of others cannot be."""
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301  (nobody else wrote it)
    except Exception:  # whatever the classes of others raise
        return False
    return True


def circle_in(path: Sequence[object]) -> Sequence[str]:
    """The names of the messages that cause each other, once each; empty when there is no circle."""
    names = [name_of(message) for message in path]
    last = names[-1] if names else ""
    before = len(names) - 2 - names[-2::-1].index(last) if last in names[:-1] else None
    return names[before + 1 :] if before is not None else []


def path_text(path: Sequence[object]) -> str:
    """The circle, closed, or else the whole path."""
    circle = circle_in(path)
    return " -> ".join([circle[-1], *circle] if circle else [name_of(message) for message in path])
