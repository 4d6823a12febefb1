"""Upcasting: converts the payload of an older event version to the next version, until the event's class can read it.

Upcasters are declared on the event class. So the class shows which versions it reads, no import is needed to register
an upcaster, and a type checker sees each upcaster.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from mediator.distributed.events.codec import EventCodec, PlainDataCodec
from mediator.distributed.events.event import DistributedEvent, split_wire_type, wire_type
from mediator.errors import EventNotDecodableError, misuse

E = TypeVar("E", bound=DistributedEvent)


def readable_types(event_classes: Iterable[type[DistributedEvent]]) -> dict[str, type[DistributedEvent]]:
    """Map each wire type to the class that reads it: the class of exactly this version, otherwise a class that upcasts.

    Raises:
        DeclarationError: A class has no valid type, or upcasters that cannot work.
    """
    classes = list(event_classes)
    upcast_classes = {wire: cls for cls in classes for wire in upcast_types(cls)}
    return upcast_classes | {wire_type(cls): cls for cls in classes}


def upcast_types(event_class: type[DistributedEvent]) -> list[str]:
    """Return the wire types that a class reads besides its own, oldest version first.

    Raises:
        DeclarationError: The upcasters of the class cannot work.
    """
    problem = upcaster_problem(event_class)
    if problem:
        raise misuse.upcaster_declaration(event_class, problem)
    return [f"{event_class.event_type}.v{version}" for version in sorted(event_class.upcasters)]


def upcaster_problem(event_class: type[DistributedEvent]) -> str:
    """Return why the upcasters of a class cannot work; an empty text when they can."""
    upcasters: Any = event_class.upcasters
    if not isinstance(upcasters, Mapping):
        return f"has upcasters that are of type {type(upcasters).__name__}"
    return _mapping_problem(upcasters, event_class.event_version)  # pyright: ignore[reportUnknownArgumentType]


def _mapping_problem(upcasters: Mapping[Any, object], own: int) -> str:
    for version, upcaster in upcasters.items():
        if type(version) is not int or version < 1:
            return f"has an upcaster from version {version!r}, which is no version"
        if version >= own:
            return f"has an upcaster from version {version}, but is itself version {own}"
        if problem := _function_problem(upcaster):
            return f"has an upcaster from version {version} that {problem}"
    missing = [str(version) for version in range(min(upcasters, default=own), own) if version not in upcasters]
    return f"reads older versions, but has no upcaster from version {', '.join(missing)}" if missing else ""


def _function_problem(upcaster: object) -> str:
    if not callable(upcaster):
        return "is not callable"
    called: Callable[..., object] = inspect.unwrap(upcaster)
    call = getattr(type(called), "__call__", called)  # noqa: B004  # a callable object may have an async `__call__`
    for function in (called, call):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return "is async, and upcasters are plain functions"
    try:
        inspect.signature(upcaster).bind({})
    except TypeError:
        return "does not take one argument, the payload"
    except ValueError:  # a built-in without a signature
        return ""
    return ""


def upcast(data: Mapping[str, Any], event_class: type[DistributedEvent], version: int) -> dict[str, Any]:
    """Return the payload of an older version, converted step by step to the version of the class.

    Args:
        data: The payload as plain data. It is not changed.
        event_class: The class whose upcasters are used.
        version: The version of the payload.

    Raises:
        EventNotDecodableError: An upcaster is missing, raised an error, or returned no dictionary.
    """
    return _upcast_events(copy.deepcopy(dict(data)), event_class, version)


def decode_event(codec: EventCodec, wire: str, data: bytes, event_class: type[E]) -> E:
    """Return the event that a payload encodes. A payload of an older version is upcast first.

    Args:
        codec: Decodes payloads.
        wire: The wire type: `<event_type>.v<version>`.
        data: The payload.
        event_class: The class that reads the payload.

    Raises:
        EventNotDecodableError: The payload does not decode to the class; an older payload cannot be decoded to plain
            data; or an upcaster failed.
    """
    version = split_wire_type(wire)[1]
    if version == event_class.event_version:
        return codec.decode(data, event_class)
    if not isinstance(codec, PlainDataCodec):
        reason = f"{type(codec).__name__} lacks `decode_data` or `convert`; upcasters need both"
        raise EventNotDecodableError(wire, reason)
    try:
        return codec.convert(_upcast_events(codec.decode_data(data), event_class, version), event_class)
    except EventNotDecodableError as error:
        reason = f"{error.reason} (upcast from version {version} to {event_class.event_version})"
        raise EventNotDecodableError(wire, reason) from error


def _upcast_events(data: dict[str, Any], event_class: type[DistributedEvent], version: int) -> dict[str, Any]:
    wire = f"{event_class.event_type}.v{version}"
    for step in range(version, event_class.event_version):
        data = _step(data, event_class, wire, step)
    return data


def _step(data: dict[str, Any], event_class: type[DistributedEvent], wire: str, step: int) -> dict[str, Any]:
    def failure(what: str) -> EventNotDecodableError:
        advice = f"Correct `{event_class.__name__}.upcasters[{step}]`, and replay the event"
        return EventNotDecodableError(wire, f"its upcaster from version {step} to {step + 1} {what}. {advice}")

    upcaster = event_class.upcasters.get(step)
    if upcaster is None:
        raise failure("is missing")
    try:
        converted: Any = upcaster(data)
    except Exception as error:  # the text of the error may contain the payload, so only its class is shown
        raise failure(f"raised {type(error).__name__}") from error
    if inspect.iscoroutine(converted):
        converted.close()
    if not isinstance(converted, dict):
        raise failure(f"returned no dictionary but something of type {type(converted).__name__}")
    return converted  # pyright: ignore[reportUnknownVariableType]  # keys and values are checked against the class
