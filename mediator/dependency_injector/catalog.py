"""Catalog: the handlers, companions and behaviors of a container, found by the classes of its named providers.

Only named providers count, in the order of their declaration, those of nested containers and of scans included; what is
nested inside another provider is a part of that one: `Factory(Caching, Factory(Inner))` is one handler.
`container.traverse()` is no substitute: it walks a set, and it shows overriding providers beside the ones they override.
The class is that of the provider as it was declared, and the provider itself is called at dispatch, so overriding needs
no new catalog.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from dependency_injector import providers

from mediator.binding import Binding
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.declared import (
    Named,
    declared_providers,
    distinct,
    provided_class,
    provided_classes,
)
from mediator.dependency_injector.roles import HANDLERS, roles_of
from mediator.dependency_injector.scan import HandlerScan
from mediator.errors import Problem
from mediator.handlers import message_types, type_arguments
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior
from mediator.streams import StreamPipelineBehavior

_SEQUENCES: kinds.Kinds = (list, tuple)
BEHAVIORS: kinds.Kinds = (PipelineBehavior, NotificationPipelineBehavior, StreamPipelineBehavior)


def named_providers(container: Any, path: str = "container") -> Iterator[Named]:
    """The named providers of a container and those nested in it, with their labels, in the order of declaration.

    In the place of a scan are the providers that it makes.
    """
    for name, provider in declared_providers(container):
        label = f"{path}.{name}"
        if isinstance(provider, HandlerScan):
            yield from provider.named(label)
        else:
            yield label, provider


def instances_of(container: Any, cls: type, path: str = "container") -> Iterator[tuple[str, Any, type]]:
    """The named providers of a class or of classes derived from it: label, provider, class.

    Each comes once, whatever other names it has; a `Selector` once for each of its candidates.
    """
    for label, provider in distinct(named_providers(container, path)):
        for found in provided_classes(provider):
            if found is not None and issubclass(found, cls):
                yield label, provider, found


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
    problems: list[Problem] = list(_scan_faults(container, path))
    handlers: list[Binding] = []
    companions: list[Binding] = []
    for binding in _by_type(container, path, problems):
        (handlers if binding.kind in HANDLERS else companions).append(binding)
    in_order = tuple(_behaviors(container, behaviors, path, problems))
    return Catalog(tuple(handlers), in_order, tuple(companions), tuple(problems))


def _scan_faults(container: Any, path: str) -> Iterator[Problem]:
    for name, provider in declared_providers(container):
        if isinstance(provider, HandlerScan):
            yield from provider.problems(f"{path}.{name}")


def _by_type(container: Any, path: str, problems: list[Problem]) -> Iterator[Binding]:
    taken: set[tuple[Any, type, type]] = set()
    for label, provider, cls in instances_of(container, object, path):
        for kind in roles_of(cls):
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
