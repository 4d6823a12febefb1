"""PydanticCodec (`mediator-uow[pydantic]`): encodes events as JSON with pydantic, for models and dataclasses."""

from typing import Any, TypeVar, cast

from mediator.distributed.events import HARMLESS_BYTES, DistributedEvent, SchemaCodec, check_collisions
from mediator.errors import EventNotDecodableError, EventNotSerializableError, misuse
from mediator.extras import Extra

with Extra("pydantic"):
    import pydantic
    import pydantic_core

E = TypeVar("E", bound=DistributedEvent)

_UNFIT = (pydantic.PydanticUserError, pydantic_core.SchemaError)
"""The errors that pydantic raises for a class that it does not support."""


class PydanticCodec(SchemaCodec):
    """Encodes events as JSON objects of their fields: `codec=PydanticCodec()` in the unit of work.

    Events are validated as strictly as their class is configured. Events of a class that pydantic does not support can
    be neither encoded nor decoded.

    The configuration of a model decides what happens to unknown fields. With `extra="forbid"`, an event with an
    unknown field cannot be decoded.
    """

    content_type = "application/json"

    def __init__(self) -> None:
        self._adapters: dict[type, pydantic.TypeAdapter[Any]] = {}
        self._hashing: dict[type, bool] = {}

    def encode(self, event: DistributedEvent, /) -> bytes:
        try:
            data = self._adapter(type(event)).dump_json(event, by_alias=True, warnings="error")
        except _UNFIT as error:
            raise EventNotSerializableError(event, "pydantic does not support its class") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise EventNotSerializableError(event, f"a field has a wrong value ({type(error).__name__})") from error
        if not data.startswith(b"{"):
            raise EventNotSerializableError(event, "its class has no fields that pydantic knows; make it a model")
        return data

    def decode(self, data: bytes, event_class: type[E], /) -> E:
        try:
            adapter = self._adapter(event_class)
            if len(data) > HARMLESS_BYTES and self._hashes_numbers(event_class, adapter):
                check_collisions(pydantic_core.from_json(data, cache_strings=False))
            event: E = adapter.validate_json(data)
        except _UNFIT as error:
            raise EventNotDecodableError(event_class.__name__, "pydantic does not support its class") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise EventNotDecodableError(event_class.__name__, _without_values(error)) from error
        return event

    def decode_data(self, data: bytes, /) -> dict[str, Any]:
        try:
            decoded: object = pydantic_core.from_json(data, cache_strings=False)
        except ValueError as error:
            raise EventNotDecodableError("unknown", "its payload is no JSON") from error
        if not isinstance(decoded, dict):
            raise EventNotDecodableError("unknown", "its payload is no JSON object")
        return decoded  # pyright: ignore[reportUnknownVariableType]  # the keys of JSON objects are texts

    def convert(self, data: dict[str, Any], event_class: type[E], /) -> E:
        try:  # as JSON, because strict models accept other types in JSON than in Python objects
            text = pydantic_core.to_json(data)
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"upcasters left a value that JSON has no form for ({type(error).__name__})"
            raise EventNotDecodableError(event_class.__name__, reason) from error
        return self.decode(text, event_class)

    def schema(self, event_class: type[DistributedEvent], /) -> dict[str, Any]:
        try:
            return self._adapter(event_class).json_schema(mode="validation")
        except (*_UNFIT, RecursionError) as error:
            raise misuse.event_schema(event_class, str(error).partition("\n")[0]) from error

    def _hashes_numbers(self, event_class: type, adapter: pydantic.TypeAdapter[Any]) -> bool:
        if event_class not in self._hashing:
            self._hashing[event_class] = _has_hashed_numbers(adapter.core_schema)
        return self._hashing[event_class]

    def _adapter(self, event_class: type) -> pydantic.TypeAdapter[Any]:
        adapter = self._adapters.get(event_class)
        if adapter is None:
            adapter = self._adapters[event_class] = pydantic.TypeAdapter(event_class)
        return adapter


def _has_hashed_numbers(schema: Any) -> bool:
    """Return whether a schema contains a type that hashes values other than texts: `dict[int, str]`, `set[int]`.

    Hashed numbers are a risk: a sender could choose numbers whose hashes collide.
    """
    if isinstance(schema, list | tuple):
        return any(map(_has_hashed_numbers, cast("list[Any]", schema)))
    if not isinstance(schema, dict):
        return False
    part = cast("dict[str, Any]", schema)
    hashed = {"dict": "keys_schema", "set": "items_schema", "frozenset": "items_schema"}.get(str(part.get("type")))
    if hashed is not None and part.get(hashed, {}).get("type") != "str":
        return True
    return any(map(_has_hashed_numbers, part.values()))


def _without_values(error: Exception) -> str:
    """Return the kind and the place of an error for a log, without values, dictionary keys or texts of the application."""
    if not isinstance(error, pydantic.ValidationError):
        return type(error).__name__
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{fault['type']}{_place(fault['loc'])}" for fault in faults[:5])


def _place(location: tuple[int | str, ...]) -> str:
    if not location:
        return ""
    return f" - at `{location[0]}{'...' if len(location) > 1 else ''}`"
