"""Validation: every fault in the wiring of a container, found before anything is made."""

from collections.abc import Iterable, Iterator
from typing import Any

from dependency_injector import providers

from mediator.dependency_injector.behavior_rules import find_behavior_faults
from mediator.dependency_injector.catalog import Catalog, read_catalog
from mediator.dependency_injector.companion_rules import find_companion_faults
from mediator.dependency_injector.construction import find_unbuildable
from mediator.dependency_injector.declared import check_instance
from mediator.dependency_injector.event_rules import event_classes, find_event_faults, find_undelivered, handled_events
from mediator.dependency_injector.graph import Graph, find_captives, find_cycles
from mediator.dependency_injector.handler_rules import find_handler_faults, find_unhandled
from mediator.dependency_injector.mediator_provider import MediatorProvider, mediators_of
from mediator.dependency_injector.remote_rules import find_exposure_faults
from mediator.dependency_injector.upcaster_rules import find_upcaster_faults
from mediator.dependency_injector.workers import worker_providers
from mediator.errors import ContainerValidationError, Problem


def validate(
    container: Any, *, requests: Iterable[type] = (), packages: Iterable[str] = (), relay_elsewhere: bool = False
) -> None:
    """Check a whole container and call nothing in it.

    Checked are: that each request has exactly one handler, that handlers and behaviors are async and say what they are
    for, that behaviors stand in an order that works, that what the library calls can be made from what it is given, that
    there is no circular dependency, that nothing long-lived holds something scoped, that events have types of their own and
    somebody to deliver them, that upcasters lift each older version of an event to that of its class, and that what is
    exposed to other applications has a name and a handler.

    Args:
        container: The container, an instance.
        requests: Requests that must have a handler.
        packages: Names of imported packages, all of whose requests must have a handler.
        relay_elsewhere: True when another process runs the relay of this application's outbox.

    Raises:
        ContainerValidationError: There are faults; it has all of them.
        ContainerError: `container` is a class.
    """
    check_instance(container)
    found = _problems(container, requests, packages, relay_elsewhere=relay_elsewhere)
    problems = tuple(dict.fromkeys(found))
    if problems:
        raise ContainerValidationError(problems)


def _problems(
    container: Any, requests: Iterable[type], packages: Iterable[str], *, relay_elsewhere: bool
) -> Iterator[Problem]:
    mediators = mediators_of(container)
    where = mediators[0][0] if mediators else "container"
    catalogs = _catalogs(container, mediators)
    for catalog in catalogs:
        yield from catalog.problems
        yield from find_handler_faults(catalog)
        yield from find_behavior_faults(catalog)
        yield from find_companion_faults(catalog)
    yield from find_unhandled(catalogs, requests, packages, where)
    graph = Graph(container)
    yield from find_unbuildable(graph, _used(container, graph, catalogs))
    yield from find_cycles(graph)
    yield from find_captives(graph)
    yield from find_event_faults(catalogs, where)
    yield from find_upcaster_faults(container, event_classes(catalogs, where), handled_events(catalogs))
    yield from find_undelivered(container, catalogs, relay_elsewhere=relay_elsewhere)
    yield from find_exposure_faults(container, catalogs)


def _catalogs(container: Any, mediators: Iterable[tuple[str, MediatorProvider]]) -> list[Catalog]:
    """What each mediator dispatches to; without a mediator, the handlers there are."""
    found = [
        read_catalog(mediator.container, mediator.behaviors, label.rpartition(".")[0]) for label, mediator in mediators
    ]
    return found or [read_catalog(container, providers.List())]


def _used(container: Any, graph: Graph, catalogs: Iterable[Catalog]) -> set[Any]:
    """What the library calls: handlers, behaviors, their companions, workers, resources, and all that these call."""
    known = {problem.label for catalog in catalogs for problem in catalog.problems}  # reported without this
    roots = [each.source for catalog in catalogs for each in catalog.bindings if each.label not in known]
    roots += graph.resources()
    roots += [provider for _, provider in worker_providers(container)]
    return graph.reachable(root for root in roots if root in graph.calls)
