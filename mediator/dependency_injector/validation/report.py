"""Validation: finds all faults in the wiring of a container, before any object is made."""

from collections.abc import Iterable, Iterator
from typing import Any

from dependency_injector import providers

from mediator.dependency_injector.catalog import Catalog, read_catalog
from mediator.dependency_injector.declared import check_instance
from mediator.dependency_injector.graph import Graph, find_captives, find_cycles, find_unscoped
from mediator.dependency_injector.handler_rules import find_handler_faults, find_unhandled, find_unprovided
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.dependency_injector.validation.behaviors import (
    find_behavior_faults,
    find_collaborator_faults,
    find_without_unit_of_work,
)
from mediator.dependency_injector.validation.construction import find_unbuildable
from mediator.dependency_injector.validation.events import (
    event_classes,
    find_event_faults,
    find_undelivered,
    find_upcaster_faults,
    handled_events,
)
from mediator.dependency_injector.validation.names import (
    find_application_faults,
    find_contract_faults,
    find_name_faults,
)
from mediator.dependency_injector.validation.shadows import find_shadowed
from mediator.dependency_injector.workers import worker_providers
from mediator.errors import ContainerValidationError, Problem


def validate(
    container: Any, *, requests: Iterable[type] = (), packages: Iterable[str] = (), relay_elsewhere: bool = False
) -> None:
    """Check a whole container, without calling anything in it.

    The function checks that:

    - each request has exactly one handler, and each handler has a provider;
    - handlers and behaviors are async and say which messages they are for;
    - the order of behaviors works;
    - each command runs in a unit of work, if the container has one;
    - objects that the library needs can be made from their arguments, and there is no circular dependency;
    - no provider keeps using a provider that a derived container has redeclared;
    - no long-lived object holds a scoped object, and each scope has one unit of work;
    - each event has a unique type, and is delivered;
    - the name of the application is given where it is needed, and is the same everywhere;
    - upcasters convert each older version of an event to the version of its class;
    - each request that is exposed to other applications has a name and a handler.

    Args:
        container: The container, an instance.
        requests: Requests that must have a handler.
        packages: Names of imported packages; all requests declared in them must have a handler.
        relay_elsewhere: True when another process runs the relay of this application's outbox.

    Raises:
        ContainerValidationError: The container has faults; the error lists all of them.
        ContainerError: `container` is a class.
    """
    check_instance(container)
    found = _problems(container, requests, packages, relay_elsewhere=relay_elsewhere)
    problems = tuple(dict.fromkeys(found))
    if problems:
        raise ContainerValidationError(container, problems)


def _problems(
    container: Any, requests: Iterable[type], packages: Iterable[str], *, relay_elsewhere: bool
) -> Iterator[Problem]:
    mediators = mediators_of(container)
    where = mediators[0][0] if mediators else "container"
    catalogs = [read_catalog(each.container, each.behaviors, label.rpartition(".")[0]) for label, each in mediators]
    catalogs = catalogs or [read_catalog(container, providers.List())]  # a container without a mediator is one catalog
    for catalog in catalogs:
        yield from catalog.problems
        yield from find_handler_faults(catalog)
        yield from find_behavior_faults(catalog)
        yield from find_collaborator_faults(catalog)
        yield from find_name_faults(catalog)
    yield from find_unhandled(catalogs, requests, packages, where)
    yield from find_unprovided(container, catalogs)
    yield from find_shadowed(container)
    graph = Graph(container)
    for catalog in catalogs:
        yield from find_without_unit_of_work(container, graph, catalog)
    yield from find_unbuildable(graph, _used(container, graph, catalogs))
    yield from find_cycles(graph)
    yield from find_captives(graph)
    yield from find_unscoped(graph)
    events = event_classes(catalogs, where)
    yield from find_event_faults(events)
    yield from find_upcaster_faults(container, events, handled_events(catalogs))
    yield from find_undelivered(container, catalogs, relay_elsewhere=relay_elsewhere)
    yield from find_application_faults(container, catalogs)
    yield from find_contract_faults(container, catalogs)


def _used(container: Any, graph: Graph, catalogs: Iterable[Catalog]) -> set[Any]:
    """Return the providers of handlers, behaviors, collaborators, workers and resources, and all providers called by them.

    The library calls these providers without arguments.
    """
    known = {problem.label for catalog in catalogs for problem in catalog.problems}  # reported already
    roots = [each.source for catalog in catalogs for each in catalog.bindings if each.label not in known]
    roots += graph.resources()
    roots += [provider for _, provider in worker_providers(container)]
    return graph.reachable(root for root in roots if root in graph.calls)
