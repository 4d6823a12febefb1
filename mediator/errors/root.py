"""MediatorError: the base class of every error; how errors are shown, copied and pickled."""

import pickle  # used only to load data that this module has just dumped
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
        name: The name of a class or function that was replaced; for other objects, the name of the object's class.
    """

    name: str


def name_of(message: object) -> str:
    """Return a short name for use in texts: `Order` for the class `Order` or an `Order` object. A text is not changed."""
    if isinstance(message, str):
        return shown(message)
    if isinstance(message, NotPickled):
        return message.name
    return message.__name__ if isinstance(message, type) else type(message).__name__


def repr_of(error: BaseException) -> str:
    """Return the `repr` of an error as one line, or the name of its class if its `__repr__` fails."""
    with suppress(Exception):
        return shown_reason(repr(error))
    return type(error).__name__


class MediatorError(Exception):
    """The base class of every error that this library raises. Its text is printable and limited in size.

    An error can be copied and pickled. The copy has the fields, the text and the notes of the error, but not the cause
    and the traceback. If a part of a field cannot be pickled, the pickled error has a `NotPickled` instead. If this part
    is an exception, the pickled error has a `MediatorError` instead, whose text is the `repr` of the exception.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__str__" in cls.__dict__:
            setattr(cls, "__str__", _keeping_text(cls.__str__))  # noqa: B010  (hidden from type checkers)

    def __str__(self) -> str:
        return printable(super().__str__(), LONGEST_REPORT)

    def __repr__(self) -> str:
        """Return the class and the text without the fields, since the `repr` of a field may show a payload."""
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, _parts(self, {})

    def __copy__(self) -> Any:
        return _restored(type(self), self.args, _attributes(self), None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = memo[id(self)] = _restored(type(self), _deep(self.args, memo), {}, None)
        _fill(made, {name: _deep(value, memo) for name, value in _attributes(self).items()})
        return made


def _keeping_text(render: Callable[[Any], str]) -> Callable[[Any], str]:
    """Wrap a `__str__`. If the error was pickled and has kept its text, the kept text is returned.

    The text of any other error is made printable and limited in size, because fields may contain foreign text.
    """

    @wraps(render)
    def text(self: MediatorError) -> str:
        kept: str | None = self.__dict__.get(_TEXT)
        return printable(render(self), LONGEST_REPORT) if kept is None else kept

    return text


def _restored(cls: Any, args: tuple[Any, ...], state: dict[str, Any], text: str | None) -> Any:
    """Make an error of a class. The constructor is not called, since its arguments are unknown here.

    If the restored fields would give a different text, the error keeps `text`.
    """
    built_in = cls
    while built_in.__module__ != "builtins":
        built_in = built_in.__base__
    error = built_in.__new__(cls, *args)
    _fill(error, {"args": args, **state})
    if text is not None and _text_of(error) != text:
        object.__setattr__(error, _TEXT, text)
    return error


def _attributes(error: MediatorError) -> dict[str, Any]:
    """Return the attributes by name, including slots and the attributes that a built-in base class adds for pickling."""
    reduced: Any = super(MediatorError, error).__reduce__()
    kept: Any = object.__getstate__(error)  # a pair if the class has slots
    return {**dict(*reduced[2:3]), **(kept[1] if type(kept) is tuple else {})}


def _fill(error: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        object.__setattr__(error, name, value)  # a subclass may be frozen


def _text_of(error: BaseException) -> str | None:
    with suppress(Exception):  # the `__str__` or `__repr__` of a foreign object may fail
        return str(error)
    return None


def _deep(value: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy of a value. The value and the copy share the objects that cannot be copied."""
    try:
        return deepcopy(value, memo)
    except Exception:  # a lock, a provider, a frame
        if type(value) in (list, tuple):
            return type(value)(_deep(each, memo) for each in value)
        return value


@dataclass(frozen=True, slots=True)
class _Call:
    """Stands for another object in a pickle. To unpickle it, pickle calls a function that makes the other object."""

    reduced: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def _parts(error: MediatorError, known: dict[int, Any]) -> tuple[Any, ...]:
    """Return the arguments of `_restored` for an error, with replacements for everything that cannot be pickled."""
    known[id(error)] = NotPickled(name_of(error))  # used if the error contains itself
    state = {name: _picklable(value, known) for name, value in _attributes(error).items()}
    cls = next(base for base in type(error).__mro__ if _can_be_pickled(base))
    return cls, tuple(_picklable(each, known) for each in error.args), state, _text_of(error)


def _picklable(value: Any, known: dict[int, Any]) -> Any:
    """Return a value, with replacements for the parts that cannot be pickled. Each object is examined once."""
    if type(value) in _PLAIN:
        return value
    if id(value) not in known:
        known[id(value)] = NotPickled(name_of(value))  # used if a list contains itself
        known[id(value)] = _replaced(value, known)
    return known[id(value)]


def _replaced(value: Any, known: dict[int, Any]) -> Any:
    kind: type[Any] = value.__class__
    if kind in _SEQUENCES:
        return kind(_picklable(each, known) for each in value)
    if kind is dict and _can_be_pickled(list(value)):
        return {key: _picklable(each, known) for key, each in value.items()}
    if kind in (ExceptionGroup, BaseExceptionGroup):
        return _Call((kind, (value.message, [_picklable(each, known) for each in value.exceptions])))
    if issubclass(kind, MediatorError) and kind.__reduce__ is MediatorError.__reduce__:
        return _Call((_restored, _parts(value, known)))
    if issubclass(kind, BaseException):
        return value if _can_be_pickled(value) else MediatorError(repr_of(value))
    return value if _can_be_pickled(value) else NotPickled(value.__name__ if kind is FunctionType else name_of(value))


def _can_be_pickled(value: object) -> bool:
    """Return whether a value can be pickled and unpickled. Many foreign exceptions can be pickled but not unpickled."""
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301  (it was dumped here)
    except Exception:  # foreign classes may raise any error
        return False
    return True


def circle_in(path: Sequence[object]) -> Sequence[str]:
    """Return the names of the messages that cause each other in a circle, each once; empty when there is no circle."""
    names = [name_of(message) for message in path]
    last = names[-1] if names else ""
    before = len(names) - 2 - names[-2::-1].index(last) if last in names[:-1] else None
    return names[before + 1 :] if before is not None else []


def path_text(path: Sequence[object]) -> str:
    """Return the circle in a path as text, such as `A -> B -> A`. If there is no circle, return the whole path."""
    circle = circle_in(path)
    return " -> ".join([circle[-1], *circle] if circle else [name_of(message) for message in path])
