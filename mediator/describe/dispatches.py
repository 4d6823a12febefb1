"""Dispatches: finds the messages that a handler or a behavior sends, publishes or raises, as far as possible.

The type annotations of a class do not show these messages. A class may declare them: `dispatches: ClassVar =
(StudentEnrolled,)`. If a class declares no messages, the source code of its methods is analyzed, but not executed. If a
method calls a message class, as in `StudentEnrolled(...)`, the message counts as dispatched. Messages that are created
in other functions are not found. The result is therefore only a hint for the reader of a description.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from mediator.messages import Notification, Request, is_stream_request


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A message that a class dispatches.

    Attributes:
        message: The message class.
        declared: True if the class declares the message; False if the message was found in the source code.
    """

    message: type
    declared: bool


def kind_of(message_type: type[Any]) -> str:
    """Return the kind of a message class: `command`, `query`, `notification`, `event`, ...; empty for other classes."""
    if issubclass(message_type, Request):
        named = (base.__name__ for base in message_type.__mro__ if base.__module__ == Request.__module__)
        return {"Command": "command", "Query": "query"}.get(next(named), "request")
    if is_stream_request(message_type):
        return "stream"
    if issubclass(message_type, Notification):
        return "notification"
    return "event" if wire_name(message_type) else ""


def wire_name(message_type: type[Any]) -> str:
    """Return the type name of a distributed event on the wire; empty for every other class."""
    event_type = getattr(message_type, "event_type", None)
    version = getattr(message_type, "event_version", None)
    return f"{event_type}.v{version}" if isinstance(event_type, str) and isinstance(version, int) else ""


@lru_cache(maxsize=1024)
def dispatches_of(cls: type) -> tuple[Dispatch, ...]:
    """Return the messages that a handler or a behavior dispatches, in the order of `dispatches` or of the code."""
    declared: Any = getattr(cls, "dispatches", None)
    if isinstance(declared, tuple | list | frozenset | set):
        messages: list[Any] = list(declared)  # pyright: ignore[reportUnknownArgumentType]  # of any type
        return tuple(Dispatch(message, declared=True) for message in messages if isinstance(message, type))
    found = dict.fromkeys(message for function in _functions(cls) for message in _made_in(function))
    return tuple(Dispatch(message, declared=False) for message in found)


def _functions(cls: type) -> Iterator[Callable[..., Any]]:
    """Yield the methods of a class and its base classes, except overridden methods and methods of this library."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.split(".")[0] in {"mediator", "builtins", "abc", "typing"}:
            continue
        for name, member in vars(base).items():
            function = inspect.unwrap(getattr(member, "__func__", member)) if callable(member) else None
            if name not in seen and inspect.isfunction(function):
                yield function
            seen.add(name)


def _made_in(function: Any) -> Iterator[type]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError):  # no source file, generated code, or an incomplete statement
        return
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    names = function.__globals__ | {name: content for name, cell in cells if (content := _content(cell)) is not None}
    for call in sorted((node for node in ast.walk(tree) if isinstance(node, ast.Call)), key=_place):
        made = _look_up(call.func, names)
        if isinstance(made, type) and kind_of(made):
            yield made


def _place(node: ast.Call) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return None


def _look_up(node: ast.expr, names: dict[str, Any]) -> Any:
    """Return the object to which a dotted name refers, or `None`. Only attributes of modules and classes are looked up."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _look_up(node.value, names)
        return vars(owner).get(node.attr) if isinstance(owner, ModuleType | type) else None
    return None
