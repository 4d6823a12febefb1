"""Rules for distributed events: each class has a valid and unique type, and all events are received and sent."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mediator.binding import Binding
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import Catalog, instances_of
from mediator.dependency_injector.declared import given_argument, path_of, provided_class
from mediator.dependency_injector.handler_rules import declared_classes
from mediator.distributed.behaviors import DistributedUnitOfWorkBehavior
from mediator.distributed.events import DistributedEvent, PlainDataCodec, upcast_types, upcaster_problem, wire_type
from mediator.distributed.inbox import DistributedEventHandler, EventConsumer
from mediator.distributed.outbox import OutboxRelay
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import DeclarationError, Problem, misuse


def event_classes(catalogs: Iterable[Catalog], where: str) -> dict[type, str]:
    """Return the event classes of an application, each with the label for problems of the class.

    The event classes are the handled classes, and the classes declared in packages with handlers. Other packages do not
    count, since another application in the same repository may have a different class for the same event. An event
    without a handler gets the label `where`.
    """
    catalogs = list(catalogs)
    events = handled_events(catalogs)
    classes = {binding.cls for catalog in catalogs for binding in catalog.handlers}
    packages = {cls.__module__.rpartition(".")[0] or cls.__module__ for cls in classes}
    for event in declared_classes(DistributedEvent, packages):
        events.setdefault(event, where)
    return events


def handled_events(catalogs: Iterable[Catalog]) -> dict[type, str]:
    """Return the events that are handled, each with the label of its first handler."""
    events: dict[type, str] = {}
    for binding in (each for catalog in catalogs for each in catalog.handlers):
        for event in binding.messages if binding.kind is DistributedEventHandler else ():
            events.setdefault(event, binding.label)
    return events


def find_event_faults(events: Mapping[type, str]) -> Iterator[Problem]:
    """Yield a problem for each event without a valid type, and for each class with the type and version of another class.

    `events` maps each event class to its label.
    """
    owners: dict[str, type] = {}
    for event, label in events.items():
        if not issubclass(event, DistributedEvent):
            continue  # `find_handler_faults` reports the error
        try:
            wire = wire_type(event)
        except DeclarationError as error:
            yield Problem(label, path_of(event), str(error))
            continue
        owner = owners.setdefault(wire, event)
        if path_of(owner) != path_of(event):
            text = f"has the type {wire}, and so has {path_of(owner)}. A type and version belong to one class."
            yield Problem(label, path_of(event), text)


def find_undelivered(container: Any, catalogs: Iterable[Catalog], *, relay_elsewhere: bool) -> Iterator[Problem]:
    """Yield the faults of event handlers without a consumer, and of behaviors whose events would never be sent."""
    consumers = list(instances_of(container, EventConsumer))
    relays = list(instances_of(container, OutboxRelay))
    for catalog in catalogs:
        for binding in catalog.handlers if not consumers else ():
            if binding.kind is DistributedEventHandler:
                text = "handles an event that no consumer receives: add a provider of an EventConsumer."
                yield Problem(binding.label, binding.cls.__name__, text)
        for binding in catalog.behaviors:
            if issubclass(binding.cls, DistributedUnitOfWorkBehavior):
                yield from _delivery_faults(binding, relayed=bool(relays) or relay_elsewhere)


def _delivery_faults(binding: Binding, *, relayed: bool) -> Iterator[Problem]:
    delivery, outbox, publisher = (given_argument(binding.source, each) for each in ("delivery", "outbox", "publisher"))
    name = binding.cls.__name__
    if delivery == "outbox":
        if outbox is None:
            yield Problem(binding.label, name, 'has no outbox: pass `outbox`, or choose `delivery="direct"`.')
        if not relayed:
            text = (
                "stores events in an outbox that no relay empties: add a provider of an OutboxRelay to the container, "
                "or say with `relay_elsewhere=True` that another process runs the relay."
            )
            yield Problem(binding.label, name, text)
    elif delivery == "direct" and publisher is None:
        yield Problem(binding.label, name, 'has `delivery="direct"` and no publisher: pass `publisher`.')


_STEPS = ("decode_data", "convert")


def find_upcaster_faults(container: Any, events: Mapping[type, str], handled: Iterable[type]) -> Iterator[Problem]:
    """Yield the faults of upcasters, of classes that read the same version, and of codecs that cannot upcast.

    `events` maps each event class to its label. Two classes may read the same version unless both are in `handled`.
    """
    sound: dict[type[DistributedEvent], str] = {}
    for event, label in events.items():
        if _is_declared(event):
            if problem := upcaster_problem(event):
                yield Problem(label, path_of(event), str(misuse.upcaster_declaration(event, problem)))
            else:
                sound[event] = label
    taken = set(handled)
    lifting = {event: label for event, label in sound.items() if event in taken}
    yield from _rivals(lifting)
    if any(event.upcasters for event in lifting):
        yield from _codec_faults(container)


def _is_declared(event: type) -> bool:
    try:
        return issubclass(event, DistributedEvent) and bool(wire_type(event))
    except DeclarationError:  # `find_event_faults` reports the error
        return False


def _rivals(events: Mapping[type[DistributedEvent], str]) -> Iterator[Problem]:
    owners: dict[str, type] = {wire_type(event): event for event in events}
    for event, label in sorted(events.items(), key=lambda item: item[0].event_version):
        for wire in upcast_types(event):
            owner = owners.setdefault(wire, event)
            if path_of(owner) != path_of(event):
                text = (
                    f"upcasts {wire} to its own version, but {path_of(owner)} also reads {wire}. Handle only one of the two "
                    "classes, or remove the upcaster."
                )
                yield Problem(label, path_of(event), text)


def _codec_faults(container: Any) -> Iterator[Problem]:
    for label, provider, _ in instances_of(container, UnitOfWork):
        codec = codec_argument(provider)
        cls = provided_class(kinds.effective(codec)) if kinds.is_provider(codec) else type(codec)
        if codec is not None and cls is not None and not all(hasattr(cls, name) for name in _STEPS):
            text = f"lacks `decode_data` or `convert` (see {PlainDataCodec.__name__}); upcasters need both."
            yield Problem(label, cls.__name__, text)


def codec_argument(unit_of_work: Any) -> Any:
    """Return the `codec` that a provider of a unit of work passes: a provider, a codec, or `None`."""
    provider = kinds.effective(unit_of_work)
    return provider.kwargs.get("codec") if isinstance(provider, kinds.CALLING) else None
