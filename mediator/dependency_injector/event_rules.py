"""Rules for distributed events: each class has a valid type of its own, and what is handled or raised is delivered."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from mediator.binding import Binding
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import Catalog, instances_of
from mediator.dependency_injector.handler_rules import declared_classes
from mediator.distributed.behavior import DistributedUnitOfWorkBehavior
from mediator.distributed.consumer import EventConsumer
from mediator.distributed.events import DistributedEvent, wire_type
from mediator.distributed.handler import DistributedEventHandler
from mediator.distributed.relay import OutboxRelay
from mediator.errors import EventDeclarationError, Problem

_UNKNOWN: Any = object()


def find_event_faults(catalogs: Iterable[Catalog], where: str) -> Iterator[Problem]:
    """Events without a valid type, and two classes of one type and version."""
    yield from _type_faults(event_classes(catalogs, where))


def event_classes(catalogs: Iterable[Catalog], where: str) -> dict[type, str]:
    """The event classes of an application, each with the label it is reported at.

    They are the events that are handled, and those declared in the packages of the handlers' classes: two applications of
    one repository have packages of their own, and each its own class for the same event. What is only declared is
    reported at `where`.
    """
    catalogs = list(catalogs)
    events = handled_events(catalogs)
    packages = {_package(binding.cls) for catalog in catalogs for binding in catalog.handlers}
    for event in declared_classes(DistributedEvent, packages):
        events.setdefault(event, where)
    return events


def handled_events(catalogs: Iterable[Catalog]) -> dict[type, str]:
    """The events that are handled, each with the label of its first handler."""
    handlers = [binding for catalog in catalogs for binding in catalog.handlers]
    events: dict[type, str] = {}
    for binding in handlers:
        if binding.kind is DistributedEventHandler:
            for event in binding.messages:
                events.setdefault(event, binding.label)
    return events


def _package(cls: type) -> str:
    """The package of a class's module; the module itself when it is in none."""
    return cls.__module__.rpartition(".")[0] or cls.__module__


def _type_faults(events: dict[type, str]) -> Iterator[Problem]:
    owners: dict[str, type] = {}
    for event, label in events.items():
        if not issubclass(event, DistributedEvent):
            continue  # a fault of its own kind
        try:
            wire = wire_type(event)
        except EventDeclarationError as error:
            yield Problem(label, _path(event), str(error))
            continue
        owner = owners.setdefault(wire, event)
        if _path(owner) != _path(event):
            text = f"has the type {wire}, and so has {_path(owner)}. A type and version belong to one class."
            yield Problem(label, _path(event), text)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def find_undelivered(container: Any, catalogs: Iterable[Catalog], *, relay_elsewhere: bool) -> Iterator[Problem]:
    """Handlers of events without a consumer, and units of work whose events nothing sends."""
    consumers = list(instances_of(container, EventConsumer))
    relays = list(instances_of(container, OutboxRelay))
    for catalog in catalogs:
        for binding in catalog.handlers if not consumers else ():
            if binding.kind is DistributedEventHandler:
                text = "handles an event that nothing receives: add a provider of an EventConsumer to the container."
                yield Problem(binding.label, binding.cls.__name__, text)
        for binding in catalog.behaviors:
            if issubclass(binding.cls, DistributedUnitOfWorkBehavior):
                yield from _delivery_faults(binding, relayed=bool(relays) or relay_elsewhere)


def _delivery_faults(binding: Binding, *, relayed: bool) -> Iterator[Problem]:
    provider = kinds.effective(binding.source)
    if not isinstance(provider, kinds.CALLING):
        return
    delivery, outbox, publisher = (given_argument(provider, name) for name in ("delivery", "outbox", "publisher"))
    name = binding.cls.__name__
    if delivery == "outbox":
        if outbox is None:
            yield Problem(binding.label, name, 'has no outbox: pass `outbox`, or choose `delivery="direct"`.')
        if not relayed:
            text = (
                "stores events in an outbox that nothing empties: add a provider of an OutboxRelay to the container, or "
                "say that another process runs it with `relay_elsewhere=True`."
            )
            yield Problem(binding.label, name, text)
    elif delivery == "direct" and publisher is None:
        yield Problem(binding.label, name, 'has `delivery="direct"` and no publisher: pass `publisher`.')


def given_argument(provider: Any, name: str) -> Any:
    """What a provider passes under a name, or the default; unknown when that is decided elsewhere."""
    try:
        signature = inspect.signature(provider.provides)
        bound = signature.bind_partial(*provider.args, **provider.kwargs)
    except (TypeError, ValueError):  # reported as what cannot be called
        return _UNKNOWN
    if name not in signature.parameters:
        return _UNKNOWN
    bound.apply_defaults()
    return bound.arguments[name]
