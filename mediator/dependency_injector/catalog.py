"""Catalog: the handlers, companions and behaviors of a container, found by the classes of its named providers.

Only named providers count, in the order of their declaration, nested containers included; what is nested inside another
provider is a part of that one: `Factory(Caching, Factory(Inner))` is one handler. `container.traverse()` is no
substitute: it walks a set, and it shows overriding providers beside the ones they override. The class is that of the
provider as it was declared, and the provider itself is called at dispatch, so overriding needs no new catalog.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from dependency_injector import providers

from mediator.companions import kinds_of
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.annotations import returned_class
from mediator.distributed.consumer import DistributedEventHandler
from mediator.errors import Problem
from mediator.handlers import (
    NotificationHandler,
    RequestHandler,
    StreamRequestHandler,
    class_of,
    message_types,
    type_arguments,
)
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior
from mediator.registry import Binding
from mediator.streams import StreamPipelineBehavior

_SEQUENCES: kinds.Kinds = (list, tuple)
BEHAVIORS: kinds.Kinds = (PipelineBehavior, NotificationPipelineBehavior, StreamPipelineBehavior)
HANDLERS: kinds.Kinds = (RequestHandler, NotificationHandler, StreamRequestHandler, DistributedEventHandler)


def named_providers(container: Any, path: str = "container") -> Iterator[tuple[str, Any]]:
    """The named providers of a container and those nested in it, with their labels, in the order of declaration."""
    for name, provider in container.providers.items():
        label = f"{path}.{name}"
        if isinstance(provider, kinds.CONTAINERS):
            yield from named_providers(provider.container, label)
        elif not isinstance(provider, kinds.PLACEHOLDERS):
            yield label, provider


def provided_class(provider: Any) -> type | None:
    """The class of what a provider gives, without calling it; `None` when nothing says it."""
    if isinstance(provider, kinds.DEPENDENCIES):
        cls: type = provider.instance_of
        return cls if cls is not object else _class_of_target(provider)
    if isinstance(provider, (*kinds.DELEGATES, *kinds.SETTINGS, *kinds.PLACEHOLDERS)):
        return None
    if isinstance(provider, kinds.OBJECTS):
        held: type = provider.provides.__class__
        return held if held is not type else None
    if isinstance(provider, kinds.CALLING):
        return _class_of_called(provider)
    return None


def _class_of_target(dependency: Any) -> type | None:
    target = kinds.effective(dependency)
    return None if isinstance(target, kinds.DEPENDENCIES) else provided_class(target)


def _class_of_called(provider: Any) -> type | None:
    provides = provider.provides
    if provides is None or kinds.is_provider(provides):
        return None
    resource = isinstance(provider, kinds.RESOURCES)
    cls = class_of(provides)
    if cls is None:
        return returned_class(provides, unwrap=resource)
    # A resource enters what can be entered, and gives what that returns.
    entered = resource and any(hasattr(cls, name) for name in ("__enter__", "__aenter__"))
    return None if entered else cls


def instances_of(container: Any, cls: type, path: str = "container") -> Iterator[tuple[str, Any, type]]:
    """The named providers of a class or of classes derived from it: label, provider, class.

    Each comes once, whatever other names it has; a `Selector` once for each of its candidates.
    """
    named = list(named_providers(container, path))
    known = {provider for _, provider in named}
    seen: set[Any] = set()
    for label, provider in named:
        target = _target(provider)
        if target in seen or (target is not provider and target in known):
            continue  # another name of what was found, or will be found, under its own
        seen.add(target)
        for candidate in _candidates(provider):
            found = provided_class(candidate)
            if found is not None and issubclass(found, cls):
                yield label, provider, found


def _target(provider: Any) -> Any:
    """What fills a `Dependency`; any other provider itself, also when it is overridden."""
    return kinds.effective(provider) if isinstance(provider, kinds.DEPENDENCIES) else provider


def _candidates(provider: Any) -> tuple[Any, ...]:
    return tuple(provider.providers.values()) if isinstance(provider, kinds.SELECTORS) else (provider,)


@dataclass(frozen=True, slots=True)
class Catalog:
    """What was found in a container.

    Attributes:
        handlers: In the order of declaration.
        behaviors: Outermost first.
        companions: What behaviors work with, in the order of declaration.
        problems: What looks like a handler or a behavior but cannot be one.
    """

    handlers: tuple[Binding, ...]
    behaviors: tuple[Binding, ...]
    companions: tuple[Binding, ...]
    problems: tuple[Problem, ...]

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All that is called by type."""
        return (*self.handlers, *self.behaviors, *self.companions)


def read_catalog(container: Any, behaviors: Any, path: str = "container") -> Catalog:
    """Read a container instance; nothing in it is called.

    Args:
        container: The container.
        behaviors: The provider of the list of behaviors.
        path: What labels begin with.
    """
    problems: list[Problem] = []
    handlers: list[Binding] = []
    companions: list[Binding] = []
    for binding in _by_type(container, path, problems):
        (handlers if binding.kind in HANDLERS else companions).append(binding)
    in_order = tuple(_behaviors(container, behaviors, path, problems))
    return Catalog(tuple(handlers), in_order, tuple(companions), tuple(problems))


def _by_type(container: Any, path: str, problems: list[Problem]) -> Iterator[Binding]:
    taken: set[tuple[Any, type, type]] = set()
    for label, provider, cls in instances_of(container, object, path):
        for kind in (*(kind for kind in HANDLERS if issubclass(cls, kind)), *kinds_of(cls)):
            problem = _undeclared(label, cls, kind)
            if problem is not None:
                problems.append(problem)
                continue
            binding = Binding(provider, cls, label, kind)
            news = {(provider, kind, message) for message in binding.messages} - taken
            if news:  # the candidates of a Selector usually handle the same message
                taken |= news
                yield binding


def _undeclared(label: str, cls: type, kind: type) -> Problem | None:
    arguments = type_arguments(cls, kind)
    said: Any = arguments[0] if arguments else None
    anything = kind not in HANDLERS  # a companion may be for any message, a handler may not
    if said is Any and anything:
        return None
    if said is not None and said is not Any and not isinstance(said, TypeVar) and message_types(said):
        return None
    text = (
        f"does not say what it {'is for' if anything else 'handles'}. Declare `class {cls.__name__}({kind.__name__}[...])` "
        f"with the message class itself as the argument: not a string, not a type variable{', not Any' * (not anything)}."
    )
    return Problem(label, cls.__name__, text)


def _behaviors(container: Any, behaviors: Any, path: str, problems: list[Problem]) -> Iterator[Binding]:
    labels = {provider: label for label, provider in named_providers(container, path)}
    for index, item in enumerate(_items(behaviors), 1):
        provider = item.provides if isinstance(item, kinds.DELEGATES) else item
        label = (
            labels.get(provider, f"{path}: behavior {index}")
            if kinds.is_provider(item)
            else f"{path}: behavior {index}"
        )
        if isinstance(item, BEHAVIORS):
            provider = providers.Object(item)
        cls = provided_class(provider) if kinds.is_provider(provider) else None
        if cls is not None and issubclass(cls, BEHAVIORS):
            binding = Binding(provider, cls, label, next(kind for kind in BEHAVIORS if issubclass(cls, kind)))
            if binding.messages:
                yield binding
            else:
                problems.append(
                    Problem(label, cls.__name__, "does not say which messages it applies to (not a string).")
                )
        else:
            problems.append(_no_behavior(label, item, cls))


def _items(behaviors: Any) -> tuple[Any, ...]:
    given = kinds.effective(behaviors)
    if isinstance(given, kinds.LISTS):
        return tuple(given.args)
    if isinstance(given, kinds.OBJECTS) and isinstance(given.provides, _SEQUENCES):
        return tuple(given.provides)
    return (given,)


def _no_behavior(label: str, item: Any, cls: type | None) -> Problem:
    if isinstance(item, type):
        text = (
            f"is the class itself. Put a provider in the list of behaviors: `providers.Factory({item.__name__}, ...)`."
        )
        return Problem(label, item.__name__, text)
    name = cls.__name__ if cls is not None else type(item).__name__
    text = (
        "is in the list of behaviors and provides no PipelineBehavior. Derive its class from PipelineBehavior, or, if it "
        "is a function that makes one, annotate what it returns."
    )
    return Problem(label, name, text)
