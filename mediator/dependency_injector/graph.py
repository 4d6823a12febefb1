"""Graph: which provider calls which, walked without calling any."""

from collections.abc import Iterable, Iterator
from typing import Any

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import named_providers
from mediator.dependency_injector.declared import provided_class
from mediator.dependency_injector.mediator_provider import MediatorProvider, mediators_of
from mediator.dependency_injector.scoped import Scoped
from mediator.errors import Problem

_SCOPED: kinds.Kinds = (Scoped,)


class Graph:
    """Every provider of a container, nested, inline and overriding ones too, and what each calls.

    A mediator calls nothing: it keeps providers. What is injected as `x.provider` is not called either.

    Attributes:
        labels: `container.<name>` of every provider; an inline provider has the label of the one it is part of.
        calls: The providers that each one calls.
    """

    def __init__(self, container: Any) -> None:
        self.labels: dict[Any, str] = {}
        self.calls: dict[Any, tuple[Any, ...]] = {}
        for label, provider in named_providers(container):
            self.labels.setdefault(provider, label)
        waiting = list(self.labels)
        waiting += [self._labelled(mediator.behaviors, label) for label, mediator in mediators_of(container)]
        for provider in waiting:  # grows while it is walked
            if provider not in self.calls:
                self.calls[provider] = tuple(_calls(provider))
                waiting += [self._labelled(each, self.labels[provider]) for each in _mentions(provider)]

    def _labelled(self, provider: Any, holder: str) -> Any:
        self.labels.setdefault(provider, holder)
        return provider

    def reachable(self, roots: Iterable[Any]) -> set[Any]:
        """The providers that are called when these are, these included."""
        found: set[Any] = set()
        waiting = list(roots)
        while waiting:
            provider = waiting.pop()
            if provider not in found:
                found.add(provider)
                waiting += self.calls[provider]
        return found

    def dependents(self, targets: Iterable[Any]) -> set[Any]:
        """The providers that call one of these, themselves or through others, these included."""
        callers: dict[Any, list[Any]] = {}
        for provider, called in self.calls.items():
            for each in called:
                callers.setdefault(each, []).append(provider)
        found: set[Any] = set()
        waiting = list(targets)
        while waiting:
            provider = waiting.pop()
            if provider not in found:
                found.add(provider)
                waiting += callers.get(provider, ())
        return found

    def resources(self) -> list[Any]:
        """The resources in use, each after those it needs: through other providers and `x.provider` too."""
        done: set[Any] = set()
        ordered = [each for provider in self.calls for each in _needs_first(provider, done)]
        return [each for each in ordered if isinstance(each, kinds.RESOURCES) and each.last_overriding is None]


def _calls(provider: Any) -> Iterable[Any]:
    return (
        ()
        if isinstance(provider, MediatorProvider) and kinds.overriding(provider) is None
        else kinds.dependencies(provider)
    )


def _mentions(provider: Any) -> Iterator[Any]:
    """What belongs into the graph because of a provider: what it calls, and what it could call later."""
    yield from _calls(provider)
    if isinstance(provider, kinds.DELEGATES):
        yield provider.provides


def _needs_first(provider: Any, done: set[Any]) -> Iterator[Any]:
    """A provider after all that it mentions. A cycle, legal through `x.provider`, is cut where it closes."""
    if provider in done:
        return
    done.add(provider)
    for each in _mentions(provider):
        yield from _needs_first(each, done)
    yield provider


def find_cycles(graph: Graph) -> Iterator[Problem]:
    """Circular dependencies. Resolving one ends in a RecursionError or, on CPython 3.13.0, in a crash."""
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
        f"is part of a circular dependency: {' -> '.join([*names, names[0]])}. Break it by injecting "
        "`x.provider`, which is called later, in one place."
    )
    return Problem(names[0], class_name(start), text)


def find_captives(graph: Graph) -> Iterator[Problem]:
    """What lives as long as the application and holds what lives as long as one dispatch."""
    for provider in graph.calls:
        if not isinstance(provider, kinds.KEEPING) or provider.last_overriding is not None:
            continue
        path = _path_to_scoped(graph, provider)
        if path:
            chain = " -> ".join(dict.fromkeys(graph.labels[each] for each in path))
            text = (
                f"is a {type(provider).__name__}, which lives as long as the application, and holds {chain}, which lives "
                "for one dispatch. Make it a Factory or Scoped, or inject the `.provider` of what is scoped."
            )
            yield Problem(graph.labels[provider], class_name(provider), text)


def _path_to_scoped(graph: Graph, keeper: Any) -> list[Any]:
    """From what the keeper calls to the first Scoped; other keepers on the way report themselves."""
    before: dict[Any, Any] = dict.fromkeys(graph.calls[keeper], keeper)
    waiting = list(before)
    for provider in waiting:  # grows while it is walked: the shortest way is found first
        if isinstance(provider, _SCOPED):
            path = [provider]
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
    """The name of what a provider gives, or of its own kind."""
    cls = provided_class(provider)
    return cls.__name__ if cls is not None else type(provider).__name__
