"""Rules for upcasters: they lift each older version to that of their class, and no other class is there for it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import instances_of
from mediator.dependency_injector.declared import provided_class
from mediator.distributed.events import DistributedEvent, wire_type
from mediator.distributed.serialization import PlainDataCodec
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.distributed.upcasting import lifted_types, upcaster_problem
from mediator.errors import EventDeclarationError, Problem, UpcasterDeclarationError

_STEPS = ("decode_data", "convert")


def find_upcaster_faults(container: Any, events: Mapping[type, str], handled: Iterable[type]) -> Iterator[Problem]:
    """Upcasters that cannot work, versions that two classes would take, and codecs that know no plain data.

    Args:
        container: Where units of work are found, and with them codecs.
        events: The event classes, each with the label it is reported at.
        handled: Those that are handled here. What is only raised takes no version from another class.
    """
    sound: dict[type[DistributedEvent], str] = {}
    for event, label in events.items():
        if _is_declared(event):
            if problem := upcaster_problem(event):
                yield Problem(label, _path(event), str(UpcasterDeclarationError(event, problem)))
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
    except EventDeclarationError:  # a fault of its own kind
        return False


def _rivals(events: Mapping[type[DistributedEvent], str]) -> Iterator[Problem]:
    owners: dict[str, type] = {wire_type(event): event for event in events}
    for event, label in sorted(events.items(), key=lambda item: item[0].event_version):
        for wire in lifted_types(event):
            owner = owners.setdefault(wire, event)
            if _path(owner) != _path(event):
                text = (
                    f"lifts {wire} to its own version, and {_path(owner)} takes it too. Handle one of the two classes, or "
                    "remove the upcaster."
                )
                yield Problem(label, _path(event), text)


def _codec_faults(container: Any) -> Iterator[Problem]:
    for label, provider, _ in instances_of(container, UnitOfWork):
        codec = codec_class(provider)
        if codec is not None and not all(hasattr(codec, name) for name in _STEPS):
            text = f"has no `decode_data` and `convert` (see {PlainDataCodec.__name__}), which upcasters need."
            yield Problem(label, codec.__name__, text)


def codec_class(unit_of_work: Any) -> type | None:
    """The class of the codec that a provider of a unit of work passes; `None` when that is decided elsewhere."""
    codec = codec_argument(unit_of_work)
    if codec is None:
        return None
    return provided_class(kinds.effective(codec)) if kinds.is_provider(codec) else type(codec)


def codec_argument(unit_of_work: Any) -> Any:
    """What a provider of a unit of work passes as its codec: a provider, a codec, or `None`."""
    provider = kinds.effective(unit_of_work)
    return provider.kwargs.get("codec") if isinstance(provider, kinds.CALLING) else None


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
