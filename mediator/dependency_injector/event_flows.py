"""EventFlow: a worker of a container with the types of event that go through it, told without calling anything."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import Catalog, instances_of, read_catalog
from mediator.dependency_injector.declared import provided_class
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.handler_rules import declared_classes
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.dispatches import dispatches_of
from mediator.distributed.consumer import EventConsumer
from mediator.distributed.events import DistributedEvent
from mediator.distributed.handler import DistributedEventHandler
from mediator.distributed.publisher import EventPublisher
from mediator.distributed.relay import OutboxRelay
from mediator.distributed.subscription import EventSubscription


@dataclass(frozen=True, slots=True)
class EventFlow:
    """Events on their way to the broker, or from it.

    Attributes:
        label: `container.<name>` of the publisher or subscription, or of the worker that it is a part of.
        port: The provider of the publisher or subscription.
        event_types: `<context>.<name>` of every event that may go through it, sorted.
        ordering: How its consumer wants them; also a provider of that, such as an option of a configuration.
    """

    label: str
    port: Any
    event_types: tuple[str, ...]
    ordering: Any = "none"


def event_flows(container: Any, packages: Iterable[str] = ()) -> list[EventFlow]:
    """Where the events of a container go, and where they come from.

    A publisher may publish what the handlers and behaviors are seen to raise, and every event class of their packages,
    but for those of contexts of which events are handled here: these are other applications'. A subscription delivers
    what is handled by the mediator of its consumer.

    Args:
        container: The container, an instance. Nothing in it is called.
        packages: Names of imported packages with further event classes.
    """
    graph = Graph(container)
    catalogs = {
        mediator: read_catalog(mediator.container, mediator.behaviors) for _, mediator in mediators_of(container)
    }
    raised = _names(_raised(catalogs.values(), tuple(packages)))
    flows: dict[Any, set[str]] = {}
    orderings: dict[Any, Any] = {}
    for _, provider, _ in instances_of(container, EventPublisher):
        flows.setdefault(provider, set()).update(raised)
    for port in _ports(container, graph, OutboxRelay, EventPublisher):
        flows.setdefault(port, set()).update(raised)
    for _, consumer, _ in instances_of(container, EventConsumer):
        reached = graph.reachable([consumer])
        handled = _names(_handled(catalog for mediator, catalog in catalogs.items() if mediator in reached))
        for port in _of_class(graph, reached, EventSubscription):
            flows.setdefault(port, set()).update(handled)
            orderings[port] = _ordering(consumer)
    return [
        EventFlow(graph.labels[port], port, tuple(sorted(types)), orderings.get(port, "none"))
        for port, types in flows.items()
    ]


def _ordering(consumer: Any) -> Any:
    provider = kinds.effective(consumer)
    return provider.kwargs.get("ordering", "none") if isinstance(provider, kinds.CALLING) else "none"


def _ports(container: Any, graph: Graph, worker: type, port: type) -> Iterator[Any]:
    for _, provider, _ in instances_of(container, worker):
        yield from _of_class(graph, graph.reachable([provider]), port)


def _of_class(graph: Graph, reached: set[Any], cls: type) -> Iterator[Any]:
    for provider in graph.calls:  # in the order of declaration
        if provider in reached and provider.last_overriding is None:
            found = provided_class(provider)
            if found is not None and issubclass(found, cls):
                yield provider


def _handled(catalogs: Iterable[Catalog]) -> Iterator[type]:
    for catalog in catalogs:
        for binding in catalog.handlers:
            if binding.kind is DistributedEventHandler:
                yield from binding.messages


def _raised(catalogs: Iterable[Catalog], packages: tuple[str, ...]) -> Iterator[type]:
    known = list(catalogs)
    classes = {binding.cls for catalog in known for binding in catalog.bindings}
    for cls in classes:
        yield from (dispatch.message for dispatch in dispatches_of(cls))
    theirs = {_context(name) for name in _names(_handled(known))}
    inside = {cls.__module__.rpartition(".")[0] or cls.__module__ for cls in classes}
    declared = declared_classes(DistributedEvent, inside)
    yield from (event for event in declared if theirs.isdisjoint(map(_context, _names([event]))))
    yield from declared_classes(DistributedEvent, packages) if packages else ()


def _context(event_type: str) -> str:
    return event_type.partition(".")[0]


def _names(events: Iterable[type]) -> set[str]:
    return {event.event_type for event in events if issubclass(event, DistributedEvent) and event.event_type}
