"""Upcaster: lifts the payload of an older version of an event to the next one, before the class of the event reads it.

Upcasters are declared on the event class, so that the class alone says which versions it reads: nothing has to be imported
for them to be registered, and a type checker sees each of them.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from mediator.distributed.events import DistributedEvent, split_wire_type, wire_type
from mediator.distributed.serialization import EventCodec, PlainDataCodec
from mediator.errors import EventNotDecodableError, EventNotUpcastableError, UpcasterDeclarationError

E = TypeVar("E", bound=DistributedEvent)


def readable_types(event_classes: Iterable[type[DistributedEvent]]) -> dict[str, type[DistributedEvent]]:
    """The class that reads each type on the wire: the one of that version, else the one that lifts it to its own.

    Raises:
        EventDeclarationError: A class has no valid type.
        UpcasterDeclarationError: A class has upcasters that cannot work.
    """
    classes = list(event_classes)
    lifted = {wire: cls for cls in classes for wire in lifted_types(cls)}
    return lifted | {wire_type(cls): cls for cls in classes}


def lifted_types(event_class: type[DistributedEvent]) -> list[str]:
    """The types on the wire that a class reads beside its own, oldest version first.

    Raises:
        UpcasterDeclarationError: Its upcasters cannot work.
    """
    problem = upcaster_problem(event_class)
    if problem:
        raise UpcasterDeclarationError(event_class, problem)
    return [f"{event_class.event_type}.v{version}" for version in sorted(event_class.upcasters)]


def upcaster_problem(event_class: type[DistributedEvent]) -> str:
    """Why the upcasters of a class cannot lift older versions to its own; empty when they can."""
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
    return f"reads older versions, and has no upcaster from version {', '.join(missing)}" if missing else ""


def _function_problem(upcaster: object) -> str:
    if not callable(upcaster):
        return "is not callable"
    called: Callable[..., object] = inspect.unwrap(upcaster)
    call = getattr(type(called), "__call__", called)  # noqa: B004  # the function behind it, which may be async
    for function in (called, call):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return "is async, and upcasters are plain functions"
    try:
        inspect.signature(upcaster).bind({})
    except TypeError:
        return "does not take one argument, the payload"
    except ValueError:  # something built in that does not tell
        return ""
    return ""


def upcast(data: Mapping[str, Any], event_class: type[DistributedEvent], version: int) -> dict[str, Any]:
    """The payload of an older version, lifted to the version of the class, one step after the other.

    Args:
        data: The payload as plain data. It is not changed.
        event_class: The class whose upcasters are used.
        version: The version of the payload.

    Raises:
        EventNotUpcastableError: An upcaster is missing, raised, or returned no dictionary.
    """
    return _lifted(copy.deepcopy(dict(data)), event_class, version)


def decode_event(codec: EventCodec, wire: str, data: bytes, event_class: type[E]) -> E:
    """The event that a payload stands for, lifted to the version of the class when it is of an older one.

    Args:
        codec: Reads payloads.
        wire: The type on the wire: `<event_type>.v<version>`.
        data: The payload.
        event_class: The class that reads it.

    Raises:
        EventNotDecodableError: The payload is not of that class or version, or the codec knows no plain data.
        EventNotUpcastableError: An upcaster failed.
    """
    version = split_wire_type(wire)[1]
    if version == event_class.event_version:
        return codec.decode(data, event_class)
    if not isinstance(codec, PlainDataCodec):
        reason = f"{type(codec).__name__} has no `decode_data` and `convert`, which upcasters need"
        raise EventNotDecodableError(wire, reason)
    try:
        return codec.convert(_lifted(codec.decode_data(data), event_class, version), event_class)
    except EventNotUpcastableError:
        raise
    except EventNotDecodableError as error:
        reason = f"lifted from version {version} to {event_class.event_version}: {error.reason}"
        raise EventNotDecodableError(wire, reason) from error


def _lifted(data: dict[str, Any], event_class: type[DistributedEvent], version: int) -> dict[str, Any]:
    wire = f"{event_class.event_type}.v{version}"
    for step in range(version, event_class.event_version):
        upcaster = event_class.upcasters.get(step)
        if upcaster is None:
            raise EventNotUpcastableError(wire, "is missing", event_class, step)
        data = _step(upcaster, data, EventNotUpcastableError(wire, "", event_class, step))
    return data


def _step(upcaster: Callable[..., Any], data: dict[str, Any], failure: EventNotUpcastableError) -> dict[str, Any]:
    try:
        lifted = upcaster(data)
    except Exception as error:  # an application's function may raise anything; its text may hold payload
        failure.reason = f"raised {type(error).__name__}"
        raise failure from error
    if inspect.iscoroutine(lifted):
        lifted.close()
    if not isinstance(lifted, dict):
        failure.reason = f"returned no dictionary but something of type {type(lifted).__name__}"
        raise failure
    return lifted  # pyright: ignore[reportUnknownVariableType]  # keys and values are checked against the class
