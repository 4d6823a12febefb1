"""Catalog: the handlers, collaborators and behaviors of a container, found by the classes of its named providers.

Only named providers count. The providers in nested containers and the providers made by a scan have names, too. A
provider inside another provider is a part of the outer provider: `Factory(Caching, Factory(Inner))` is one handler.
`container.traverse()` is not used, because it has no fixed order and also yields overriding providers.

Overriding a provider needs no new catalog. The catalog keeps the overridden provider and its class. A dispatch calls the
overridden provider, which then calls the overriding provider.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from dependency_injector import providers

from mediator.binding import Binding
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.declared import (
    HANDLERS,
    Named,
    declared_providers,
    distinct,
    provided_classes,
    roles_of,
)
from mediator.dependency_injector.scan import HandlerScan
from mediator.errors import Problem
from mediator.handlers import message_types, type_arguments
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior
from mediator.streams import StreamPipelineBehavior

_SEQUENCES: kinds.Kinds = (list, tuple)
BEHAVIORS: kinds.Kinds = (PipelineBehavior, NotificationPipelineBehavior, StreamPipelineBehavior)


def named_providers(container: Any, path: str = "container") -> Iterator[Named]:
    """Yield the named providers of a container and of nested containers, with labels, in the order of declaration.

    Instead of a scan, the providers that the scan makes are yielded.
    """
    for name, provider in declared_providers(container):
        label = f"{path}.{name}"
        if isinstance(provider, HandlerScan):
            yield from provider.named(label)
        else:
            yield label, provider


def instances_of(container: Any, cls: type, path: str = "container") -> Iterator[tuple[str, Any, type]]:
    """Yield the named providers whose objects are of the given class or of a class derived from it.

    Each item is a label, a provider and the class of the provider's object. A provider with several names is yielded
    once, and a `Selector` is yielded once for each matching candidate.
    """
    for label, provider in distinct(named_providers(container, path)):
        for found in provided_classes(provider):
            if found is not None and issubclass(found, cls):
                yield label, provider, found


@dataclass(frozen=True, slots=True)
class Catalog:
    """The handlers, behaviors and collaborators of a container, and the faults that keep providers out of the catalog.

    Behaviors are in the order of the list of behaviors, outermost first. Handlers and collaborators are in the order of
    declaration.
    """

    handlers: tuple[Binding, ...]
    behaviors: tuple[Binding, ...]
    collaborators: tuple[Binding, ...]
    problems: tuple[Problem, ...]

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All handlers, behaviors and collaborators."""
        return (*self.handlers, *self.behaviors, *self.collaborators)


def read_catalog(container: Any, behaviors: Any, path: str = "container") -> Catalog:
    """Return the catalog of a container instance, without calling any provider."""
    scans = ((name, each) for name, each in declared_providers(container) if isinstance(each, HandlerScan))
    problems: list[Problem] = [fault for name, scan in scans for fault in scan.problems(f"{path}.{name}")]
    handlers: list[Binding] = []
    collaborators: list[Binding] = []
    for binding in _by_type(container, path, problems):
        (handlers if binding.kind in HANDLERS else collaborators).append(binding)
    in_order = tuple(_behaviors(container, behaviors, path, problems))
    return Catalog(tuple(handlers), in_order, tuple(collaborators), tuple(problems))


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
            if news:  # empty if an earlier candidate of a `Selector` handles the same messages
                taken |= news
                yield binding


def _undeclared(label: str, cls: type, kind: type) -> Problem | None:
    arguments = type_arguments(cls, kind)
    given: Any = arguments[0] if arguments else None
    anything = kind not in HANDLERS  # a collaborator may be declared for `Any`, a handler may not
    if given is Any and anything:
        return None
    if given is not None and given is not Any and not isinstance(given, TypeVar) and message_types(given):
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
        nameless = f"{path}: behavior {index}"
        label = labels.get(provider, nameless) if kinds.is_provider(item) else nameless
        if isinstance(item, BEHAVIORS):
            provider = providers.Object(item)
        # The class decides to which messages a behavior applies, so a `Selector` needs candidates of one class.
        classes = set(provided_classes(provider)) if kinds.is_provider(provider) else set[type | None]()
        cls = classes.pop() if len(classes) == 1 else None
        several = [kind.__name__ for kind in BEHAVIORS if cls is not None and issubclass(cls, kind)]
        if cls is not None and len(several) > 1:
            text = (
                f"is a {' and a '.join(several)}, but `handle` is called in a different way for each kind. Write a class "
                "for each kind, and put all of them in the list."
            )
            problems.append(Problem(label, cls.__name__, text))
        elif cls is not None and issubclass(cls, BEHAVIORS):
            binding = Binding(provider, cls, label, next(kind for kind in BEHAVIORS if issubclass(cls, kind)))
            if binding.messages:
                yield binding
            else:
                text = "does not say which messages it applies to: the type argument has to be a class, not a string."
                problems.append(Problem(label, cls.__name__, text))
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
        "is in the list of behaviors, but provides no PipelineBehavior. Derive its class from PipelineBehavior. If a "
        "function makes the behavior, annotate the return type of the function."
    )
    return Problem(label, name, text)
