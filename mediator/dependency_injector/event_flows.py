"""EventFlow: finds the event types that go through each publisher and subscription, without calling any provider."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dependency_injector import providers

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import Catalog, instances_of, read_catalog
from mediator.dependency_injector.declared import check_instance, gives
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.handler_rules import declared_classes
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.dependency_injector.validation import codec_argument, event_classes, handled_events
from mediator.describe import dispatches_of
from mediator.distributed.events import DistributedEvent, EventCodec, wire_type
from mediator.distributed.inbox import EventConsumer, EventSubscription
from mediator.distributed.outbox import EventPublisher, OutboxRelay
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ContainerError


@dataclass(frozen=True, slots=True)
class EventFlow:
    """The events that go through one publisher to the broker, or through one subscription from the broker.

    Attributes:
        label: `container.<name>` of the publisher or subscription, or of the worker that contains it.
        port: The provider of the publisher or subscription.
        event_types: `<domain>.<name>` of every event that may go through `port`, sorted.
        ordering: The `ordering` of the subscription's consumer, or a provider of the ordering.
    """

    label: str
    port: Any
    event_types: tuple[str, ...]
    ordering: Any = "none"


def event_flows(container: Any, packages: Iterable[str] = ()) -> list[EventFlow]:
    """Return the event flows of a container, without calling any provider.

    A publisher may publish three kinds of events:

    - the events that handlers and behaviors raise;
    - the events that the imported `packages` declare;
    - the events that the packages of handlers and behaviors declare.

    The packages of handlers and behaviors may also declare events of other applications, which the container handles.
    Therefore the third kind leaves out an event if the container handles an event of the same domain.

    A subscription belongs to a consumer, and delivers the events that the consumer's mediator handles.
    """
    graph = Graph(container)
    catalogs = {each: read_catalog(each.container, each.behaviors) for _, each in mediators_of(container)}
    raised = _names(_raised(catalogs.values(), tuple(packages)))
    flows: dict[Any, set[str]] = {}
    orderings: dict[Any, Any] = {}
    for _, provider, _ in instances_of(container, EventPublisher):
        flows.setdefault(provider, set()).update(raised)
    for _, relay, _ in instances_of(container, OutboxRelay):
        for port in _of_class(graph, graph.reachable([relay]), EventPublisher):
            flows.setdefault(port, set()).update(raised)
    for _, consumer, _ in instances_of(container, EventConsumer):
        reached = graph.reachable([consumer])
        provider = kinds.effective(consumer)
        ordering = provider.kwargs.get("ordering", "none") if isinstance(provider, kinds.CALLING) else "none"
        handled = _names(handled_events(catalog for mediator, catalog in catalogs.items() if mediator in reached))
        for port in _of_class(graph, reached, EventSubscription):
            flows.setdefault(port, set()).update(handled)
            orderings[port] = ordering
    return [
        EventFlow(graph.labels[port], port, tuple(sorted(types)), orderings.get(port, "none"))
        for port, types in flows.items()
    ]


def _of_class(graph: Graph, reached: set[Any], cls: type) -> Iterator[Any]:
    for provider in graph.calls:  # in the order of declaration
        if provider in reached and provider.last_overriding is None and gives(provider, cls):
            yield provider


def _raised(catalogs: Iterable[Catalog], packages: tuple[str, ...]) -> Iterator[type]:
    known = list(catalogs)
    classes = {binding.cls for catalog in known for binding in catalog.bindings}
    for cls in classes:
        yield from (dispatch.message for dispatch in dispatches_of(cls))
    foreign = {_domain(name) for name in _names(handled_events(known))}
    own_packages = {cls.__module__.rpartition(".")[0] or cls.__module__ for cls in classes}
    declared = declared_classes(DistributedEvent, own_packages)
    yield from (event for event in declared if foreign.isdisjoint(map(_domain, _names([event]))))
    yield from declared_classes(DistributedEvent, packages) if packages else ()


def _domain(event_type: str) -> str:
    return event_type.partition(".")[0]


def _names(events: Iterable[type]) -> set[str]:
    return {event.event_type for event in events if issubclass(event, DistributedEvent) and event.event_type}


@dataclass(frozen=True, slots=True)
class EventEntry:
    """An event class and its type on the wire (`wire`). `keyed` says whether the class has a `partition_key`."""

    event_class: type[DistributedEvent]
    wire: str
    handled: bool
    published: bool
    keyed: bool


def read_events(container: Any) -> list[EventEntry]:
    """Return the events that a container handles or raises, and the events declared in the packages of its handlers.

    The events are sorted by type and version. If `container` is a class, a `ContainerError` is raised. If an event
    has no valid type, a `DeclarationError` is raised.
    """
    check_instance(container)
    catalogs = [read_catalog(each.container, each.behaviors) for _, each in mediators_of(container)]
    catalogs = catalogs or [read_catalog(container, providers.List())]
    handled = handled_events(catalogs)
    bindings = [binding for catalog in catalogs for binding in catalog.bindings]
    raised = {each.message for binding in bindings for each in dispatches_of(binding.cls)}
    found = [*event_classes(catalogs, "container"), *raised]
    classes = {wire_type(event): event for event in reversed(found) if issubclass(event, DistributedEvent)}
    entries = [
        EventEntry(event, wire, event in handled, event in raised, has_partition_key(event))
        for wire, event in classes.items()
    ]
    return sorted(entries, key=lambda entry: (entry.event_class.event_type, entry.event_class.event_version))


def has_partition_key(event_class: type[DistributedEvent]) -> bool:
    """Return whether an event class declares a `partition_key`, as a property or a field."""
    own = event_class.__mro__[: event_class.__mro__.index(DistributedEvent)]
    return any("partition_key" in vars(cls) or "partition_key" in inspect.get_annotations(cls) for cls in own)


def codec_in(container: Any) -> EventCodec | None:
    """Return the first codec that the container gives to a unit of work; `None` when no unit of work gets a codec.

    If the provider of the codec is asynchronous, a `ContainerError` is raised.
    """
    for label, provider, _ in instances_of(container, UnitOfWork):
        codec = codec_argument(provider)
        if kinds.is_provider(codec):
            codec = codec()
        if inspect.isawaitable(codec):
            raise ContainerError(container, f"The codec of {label} is made asynchronously: pass it as `codec=`.")
        if codec is not None:
            found: EventCodec = codec
            return found
    return None
