"""EventEntry: a distributed event of an application, and what the application does with it."""

import inspect
from dataclasses import dataclass
from typing import Any

from dependency_injector import providers

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import instances_of, read_catalog
from mediator.dependency_injector.declared import check_instance
from mediator.dependency_injector.event_rules import event_classes, handled_events
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.dependency_injector.upcaster_rules import codec_argument
from mediator.dispatches import dispatches_of
from mediator.distributed.events import DistributedEvent, wire_type
from mediator.distributed.serialization import EventCodec
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ContainerError


@dataclass(frozen=True, slots=True)
class EventEntry:
    """One event class.

    Attributes:
        event_class: The class.
        wire: Its type on the wire.
        handled: Whether a handler of the container takes it in.
        published: Whether a handler or a behavior is seen to raise it, as far as that can be told from code.
        keyed: Whether it has a partition key.
    """

    event_class: type[DistributedEvent]
    wire: str
    handled: bool
    published: bool
    keyed: bool


def read_events(container: Any) -> list[EventEntry]:
    """The events that a container handles, and those declared or raised beside its handlers, by their types.

    Raises:
        ContainerError: `container` is a class.
        EventDeclarationError: An event has no valid type.
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
    """Whether a class says what its partition key is, by a property or a field."""
    own = event_class.__mro__[: event_class.__mro__.index(DistributedEvent)]
    return any("partition_key" in vars(cls) or "partition_key" in inspect.get_annotations(cls) for cls in own)


def codec_in(container: Any) -> EventCodec | None:
    """The codec that a unit of work of the container is given; `None` when none is given one.

    Raises:
        ContainerError: The codec is made asynchronously.
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
