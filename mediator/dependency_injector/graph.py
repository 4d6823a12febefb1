"""Graph: finds out which providers each provider calls, without calling any, and checks cycles and lifetimes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import named_providers
from mediator.dependency_injector.declared import provided_class
from mediator.dependency_injector.mediator_provider import MediatorProvider, mediators_of
from mediator.dependency_injector.scoped import Scoped
from mediator.distributed.unit_of_work import DistributedEventBroker, UnitOfWork
from mediator.errors import Problem
from mediator.handlers import class_of


class Graph:
    """All providers of a container, with the providers that each provider calls.

    Nested, inline and overriding providers are included. A mediator's provider calls no provider, since handlers and
    behaviors are made later, at dispatch. A provider that is injected as `x.provider` does not count as called.

    Attributes:
        labels: `container.<name>` of every provider; an inline provider has the label of the provider that contains it.
    """

    def __init__(self, container: Any) -> None:
        self.labels: dict[Any, str] = {}
        self.calls: dict[Any, tuple[Any, ...]] = {}
        for label, provider in named_providers(container):
            self.labels.setdefault(provider, label)
        waiting = list(self.labels)
        waiting += [self._labelled(mediator.behaviors, label) for label, mediator in mediators_of(container)]
        for provider in waiting:  # the list grows during the loop
            if provider not in self.calls:
                self.calls[provider] = tuple(_calls(provider))
                waiting += [self._labelled(each, self.labels[provider]) for each in _mentions(provider)]

    def _labelled(self, provider: Any, holder: str) -> Any:
        self.labels.setdefault(provider, holder)
        return provider

    def reachable(self, roots: Iterable[Any]) -> set[Any]:
        """Return the roots, and all providers that are called when a root is called."""
        return _closure(roots, self.calls)

    def dependents(self, targets: Iterable[Any]) -> set[Any]:
        """Return the targets, and all providers that call a target, directly or through other providers."""
        callers: dict[Any, list[Any]] = {provider: [] for provider in self.calls}
        for provider, called in self.calls.items():
            for each in called:
                callers[each].append(provider)
        return _closure(targets, callers)

    def resources(self) -> list[Any]:
        """Return the resources that are not overridden, each after the resources that it needs.

        A resource may need another resource directly, through providers between the two, or through `x.provider`.
        """
        done: set[Any] = set()
        ordered = [each for provider in self.calls for each in _needs_first(provider, done)]
        return [each for each in ordered if isinstance(each, kinds.RESOURCES) and each.last_overriding is None]


def _closure(roots: Iterable[Any], following: Mapping[Any, Iterable[Any]]) -> set[Any]:
    """Return the roots, and all providers that can be reached from the roots by `following`."""
    found: set[Any] = set()
    waiting = list(roots)
    while waiting:
        provider = waiting.pop()
        if provider not in found:
            found.add(provider)
            waiting += following[provider]
    return found


def _calls(provider: Any) -> Iterable[Any]:
    mediator = isinstance(provider, MediatorProvider) and kinds.overriding(provider) is None
    return () if mediator else kinds.dependencies(provider)


def _mentions(provider: Any) -> Iterator[Any]:
    """Yield the providers that a provider calls. For a delegate `x.provider`, yield `x` as well."""
    yield from _calls(provider)
    if isinstance(provider, kinds.DELEGATES):
        yield provider.provides


def _needs_first(provider: Any, done: set[Any]) -> Iterator[Any]:
    """Yield the providers that a provider mentions, at any depth, then the provider itself.

    If `a` mentions `b`, and `b` mentions `c`, the order is `c`, `b`, `a`. Providers in `done` are left out.
    """
    if provider in done:
        return
    done.add(provider)
    for each in _mentions(provider):
        yield from _needs_first(each, done)
    yield provider


def find_cycles(graph: Graph) -> Iterator[Problem]:
    """Yield a problem for each circular dependency.

    Calling a provider in a circular dependency would end in a `RecursionError` or, on CPython 3.13.0, in a crash.
    """
    done: set[Any] = set()
    reported: set[frozenset[Any]] = set()
    for root in graph.calls:
        path: list[Any] = []
        following = [iter((root,))]
        while following:
            provider = next(following[-1], None)
            if provider is None:
                following.pop()
                done.update(path[-1:])
                del path[-1:]
            elif provider in path:
                cycle = path[path.index(provider) :]
                if frozenset(cycle) not in reported:
                    reported.add(frozenset(cycle))
                    yield _circular(graph, cycle)
            elif provider not in done:
                path.append(provider)
                following.append(iter(graph.calls[provider]))


def _circular(graph: Graph, cycle: list[Any]) -> Problem:
    start = next((each for each in cycle if provided_class(each) is not None), cycle[0])
    at = cycle.index(start)
    names = list(dict.fromkeys(graph.labels[each] for each in cycle[at:] + cycle[:at]))
    text = (
        f"is part of a circular dependency: {' -> '.join([*names, names[0]])}. Break the cycle: in one "
        "place, inject `x.provider`, which is called later."
    )
    return Problem(names[0], class_name(start), text)


def find_captives(graph: Graph) -> Iterator[Problem]:
    """Yield a problem for each object that outlives an object it holds, as in `Singleton(Service, Scoped(Session))`."""
    for provider in graph.calls:
        if not isinstance(provider, kinds.KEEPING) or provider.last_overriding is not None:
            continue
        path = _path_to_scoped(graph, provider)
        if path:
            chain = " -> ".join(dict.fromkeys(graph.labels[each] for each in path))
            text = (
                f"is a {type(provider).__name__}, which lives as long as the application, and holds {chain}, which lives "
                "for one dispatch. Make it a Factory or Scoped, or inject the `.provider` of the scoped provider."
            )
            yield Problem(graph.labels[provider], class_name(provider), text)


def _path_to_scoped(graph: Graph, keeper: Any) -> list[Any]:
    """Return the shortest chain of calls from `keeper` to a `Scoped`, without `keeper`; empty when there is no chain.

    A chain through another provider that keeps its object is left out: `find_captives` checks that provider separately.
    """
    before: dict[Any, Any] = dict.fromkeys(graph.calls[keeper], keeper)
    waiting = list(before)
    for provider in waiting:  # the list grows at its end, so shorter paths are tried before longer paths
        if isinstance(provider, Scoped):
            path: list[Any] = [provider]
            while before[path[-1]] is not keeper:
                path.append(before[path[-1]])
            return path[::-1]
        if isinstance(provider, kinds.KEEPING) and provider.last_overriding is None:
            continue
        for each in graph.calls[provider]:
            if each not in before and each is not keeper:
                before[each] = provider
                waiting.append(each)
    return []


def class_name(provider: Any) -> str:
    """Return the class name of a provider's object, or of the provider itself when the object's class is unknown."""
    cls = provided_class(provider)
    return cls.__name__ if cls is not None else type(provider).__name__


_PER_SCOPE = (UnitOfWork, DistributedEventBroker)


def find_unscoped(graph: Graph) -> Iterator[Problem]:
    """Yield a problem for each unit of work or event broker whose provider does not make one object per scope."""
    # A provider that overrides a `Scoped` is called once per scope.
    replacing = {kinds.overriding(each) for each in graph.calls if isinstance(each, Scoped)}
    for provider in graph.calls:
        resource = isinstance(provider, kinds.RESOURCES)  # `Resource(UnitOfWork, ...)` enters the unit of work
        cls = class_of(provider.provides) if resource else provided_class(provider)
        if cls is None or not issubclass(cls, _PER_SCOPE) or provider.last_overriding is not None:
            continue
        if provider not in replacing and (reason := _reason(provider)) is not None:
            text = (
                f"{reason}, but each scope needs one {cls.__name__} of its own, which all its users share. Write "
                f"`Scoped({cls.__name__}, ...)`."
            )
            yield Problem(graph.labels[provider], cls.__name__, text)


def _reason(provider: Any) -> str | None:
    """Return why a provider does not give one object per scope; `None` if no reason is known."""
    if isinstance(provider, (*kinds.KEEPING, *kinds.OBJECTS)):
        return f"is given by a {type(provider).__name__}, which has one object for all dispatches"
    if (
        isinstance(provider, kinds.FACTORIES)
        and not isinstance(provider, Scoped)
        and isinstance(provider.provides, type)
    ):
        return f"is given by a {type(provider).__name__}, which makes a new object for each of its users"
    return None
