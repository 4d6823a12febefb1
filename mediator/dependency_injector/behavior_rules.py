"""Rules for behaviors: they stand in an order that works, and await what they go on with."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from mediator.behaviors.caching import CachingBehavior
from mediator.binding import Binding
from mediator.dependency_injector.catalog import Catalog
from mediator.dependency_injector.provider_kinds import MAKING_ANEW, effective
from mediator.errors import HandlerNotFoundError, MessageDeclarationError, Problem, SettingError
from mediator.handlers import message_types, type_arguments
from mediator.messages import Notification, is_request
from mediator.pipeline import PipelineBehavior
from mediator.registry import Registry
from mediator.streams import StreamPipelineBehavior


def find_behavior_faults(catalog: Catalog) -> Iterator[Problem]:
    """What is wrong with the behaviors of one mediator."""
    yield from find_order_faults(Registry(catalog.handlers, catalog.behaviors, catalog.companions))
    for behavior in catalog.behaviors:
        yield from _made_anew(behavior)
    for binding in (*catalog.behaviors, *catalog.companions):
        yield from _outside_bounds(binding)
    for behavior in catalog.behaviors:
        yield from _not_awaited(behavior)


def find_order_faults(registry: Registry) -> Iterator[Problem]:
    """Behaviors on the wrong side of each other, and several where one applies, in the pipeline of any message.

    Each fault is reported once, at the behavior, with one message as the example.
    """
    seen: set[tuple[str, str]] = set()
    for message in _messages(registry):
        for behavior, other, text in _order_faults(registry, message):
            if (behavior.label, other.label) not in seen:
                seen.add((behavior.label, other.label))
                yield Problem(behavior.label, behavior.cls.__name__, text)


def _messages(registry: Registry) -> Iterator[type]:
    """The messages that handlers, behaviors and companions name: one of a family may have a pipeline of its own."""
    named = (cls for binding in (*registry.behaviors, *registry.companions) for cls in binding.messages)
    yield from dict.fromkeys([*registry.message_types(), *filter(_is_of_the_application, named)])


def _is_of_the_application(cls: type) -> bool:
    return (is_request(cls) or issubclass(cls, Notification)) and cls.__module__ != Notification.__module__


def _order_faults(registry: Registry, message: type) -> Iterator[tuple[Binding, Binding, str]]:
    try:
        behaviors = registry.pipeline(message).behaviors
    except (HandlerNotFoundError, MessageDeclarationError, SettingError):  # reported as what it is
        return
    for index, outer in enumerate(behaviors):
        for inner in behaviors[index + 1 :]:
            where = f"in the pipeline of {message.__name__}"
            reason = _asks(inner, "belongs_outside").get(_role(outer))
            if reason is not None:
                remedy = f"Put it before {outer.label} in the list"
                yield inner, outer, f"stands inside the {_role(outer)} {where}: {reason}. {remedy}."
            reason = _asks(outer, "belongs_inside").get(_role(inner))
            if reason is not None:
                remedy = f"Put it after {inner.label} in the list"
                yield outer, inner, f"stands outside the {_role(inner)} {where}: {reason}. {remedy}."
    yield from _missing(behaviors, message)
    yield from _rivals(registry, behaviors, message)
    for behavior in behaviors:
        if issubclass(behavior.cls, CachingBehavior) and not _is_value(message):
            text = (
                f"cannot keep responses of {message.__name__}, which is not hashable by value. Make it frozen "
                "(`@dataclass(frozen=True)`), or narrow the behavior to other queries."
            )
            yield behavior, behavior, text


def _missing(behaviors: Sequence[Binding], message: type) -> Iterator[tuple[Binding, Binding, str]]:
    """Behaviors that need another one, in whose absence they would fail each time."""
    roles = {_role(behavior) for behavior in behaviors}
    for behavior in behaviors:
        for role, reason in _asks(behavior, "needs").items():
            if role not in roles:
                where = f"in the pipeline of {message.__name__}"
                text = f"has no {role} around it {where}: {reason}. Put one before it in the list."
                yield behavior, behavior, text


def _role(behavior: Binding) -> str | None:
    role: str | None = getattr(behavior.cls, "role", None) or getattr(behavior.cls, "one_of", None)
    return role


def _asks(behavior: Binding, side: str) -> dict[str | None, str]:
    return dict(getattr(behavior.cls, side, {}))


def _rivals(registry: Registry, behaviors: Any, message: type) -> Iterator[tuple[Binding, Binding, str]]:
    """Behaviors of which only one applies to a message, and another that is no less specific."""
    for chosen in behaviors:
        name = getattr(chosen.cls, "one_of", None)
        for other in registry.behaviors if name else ():
            if other.kind is not PipelineBehavior or getattr(other.cls, "one_of", None) != name:
                continue
            same = other.source is chosen.source or other.label == chosen.label
            if same or not other.takes(message) or other.distance(message) != chosen.distance(message):
                continue
            text = (
                f"is one {name} too many for {message.__name__}: {chosen.label} is as specific, and only one applies. Take "
                f"one of them out of the list, or say by its type argument what it is for: "
                f"`class Other({other.cls.__name__}[...])`."
            )
            yield other, chosen, text


def _is_value(message: type) -> bool:
    compares: Any = inspect.getattr_static(message, "__eq__")
    return inspect.getattr_static(message, "__hash__") is not None and compares is not object.__eq__


def _made_anew(behavior: Binding) -> Iterator[Problem]:
    """A behavior that is to remember something, and is made for each message."""
    if getattr(behavior.cls, "made_once", False) and isinstance(effective(behavior.source), MAKING_ANEW):
        text = (
            "is made anew for each message, and could not tell what came before it. Write "
            f"`providers.Singleton({behavior.cls.__name__}, ...)`."
        )
        yield Problem(behavior.label, behavior.cls.__name__, text)


def _outside_bounds(binding: Binding) -> Iterator[Problem]:
    """Type arguments that a generic class does not allow: a type checker would say it too."""
    for base in binding.cls.__mro__[1:]:
        parameters: tuple[Any, ...] = getattr(base, "__parameters__", ())
        arguments = type_arguments(binding.cls, base) or ()
        for parameter, argument in zip(parameters, arguments, strict=False):
            allowed = message_types(parameter)
            given = () if argument is Any else message_types(argument)
            wrong = [each for each in given if not issubclass(each, allowed)]
            if allowed and wrong:
                names = " | ".join(each.__name__ for each in allowed)
                text = f"is a {base.__name__} of {wrong[0].__name__}, which does not derive from {names}."
                yield Problem(binding.label, binding.cls.__name__, text)


def _not_awaited(behavior: Binding) -> Iterator[Problem]:
    """A `call_next()` without `await`, as far as the code of the behavior can be read: what lies inside never runs."""
    cls: Any = behavior.cls
    handle = inspect.unwrap(cls.handle)
    if behavior.kind is StreamPipelineBehavior or not inspect.iscoroutinefunction(handle):
        return
    name = list(inspect.signature(handle).parameters)[-1]
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(handle))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # typed in, generated, or only a part of a statement
        return
    for node in _own_nodes(function):
        called: Any = getattr(node.value, "func", None) if isinstance(node, ast.Expr | ast.Return) else None
        if isinstance(called, ast.Name) and called.id == name:
            text = f"calls `{name}()` without `await`, so what lies inside would never run. Write `await {name}()`."
            yield Problem(behavior.label, behavior.cls.__name__, text)
            return


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What belongs to a function and not to those that are defined in it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield node
            yield from _own_nodes(node)
