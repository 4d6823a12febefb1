"""PydanticCodec (the `pydantic` extra): event payloads as JSON, through pydantic. For models, and dataclasses too."""

from typing import Any, TypeVar

from mediator.distributed.events import DistributedEvent
from mediator.errors import EventNotDecodableError, EventNotSerializableError, EventSchemaError
from mediator.extras import Extra

with Extra("pydantic"):
    import pydantic
    import pydantic_core

E = TypeVar("E", bound=DistributedEvent)

_UNFIT = (pydantic.PydanticUserError, pydantic_core.SchemaError)
"""What pydantic raises for a class that it cannot read."""


class PydanticCodec:
    """Encodes events as JSON objects of their fields: `codec=PydanticCodec()` in the unit of work.

    Models decide themselves how strict they are, and what becomes of unknown fields: with `extra="forbid"` the application
    cannot read the events of a producer that added a field.
    """

    content_type = "application/json"

    def __init__(self) -> None:
        self._adapters: dict[type, pydantic.TypeAdapter[Any]] = {}

    def encode(self, event: DistributedEvent, /) -> bytes:
        """The event's fields as a JSON object, UTF-8.

        Raises:
            EventNotSerializableError: A field has a value of another type, or the class is none that pydantic reads.
        """
        try:
            data = self._adapter(type(event)).dump_json(event, by_alias=True, warnings="error")
        except _UNFIT as error:
            raise EventNotSerializableError(event, "its class is none that pydantic reads") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise EventNotSerializableError(event, f"a field has a wrong value ({type(error).__name__})") from error
        if not data.startswith(b"{"):
            raise EventNotSerializableError(event, "its class has no fields that pydantic knows; make it a model")
        return data

    def decode(self, data: bytes, event_class: type[E], /) -> E:
        """Read an event, as strictly as its class says.

        Raises:
            EventNotDecodableError: The data is not JSON, or not of that class.
        """
        try:
            event: E = self._adapter(event_class).validate_json(data)
        except _UNFIT as error:
            raise EventNotDecodableError(event_class.__name__, "its class is none that pydantic reads") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise EventNotDecodableError(event_class.__name__, _without_values(error)) from error
        return event

    def decode_data(self, data: bytes, /) -> dict[str, Any]:
        """See `PlainDataCodec.decode_data`.

        Raises:
            EventNotDecodableError: The data is not JSON, or no object.
        """
        try:
            decoded: object = pydantic_core.from_json(data, cache_strings=False)
        except ValueError as error:
            raise EventNotDecodableError("unknown", "its payload is no JSON") from error
        if not isinstance(decoded, dict):
            raise EventNotDecodableError("unknown", "its payload is no JSON object")
        return decoded  # pyright: ignore[reportUnknownVariableType]  # the keys of JSON objects are texts

    def convert(self, data: dict[str, Any], event_class: type[E], /) -> E:
        """See `PlainDataCodec.convert`. It is read as JSON, so that strict models take it as they take a payload.

        Raises:
            EventNotDecodableError: The data is not of that class, or has a value that JSON has no form for.
        """
        try:
            text = pydantic_core.to_json(data)
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"upcasters left a value that JSON has no form for ({type(error).__name__})"
            raise EventNotDecodableError(event_class.__name__, reason) from error
        return self.decode(text, event_class)

    def schema(self, event_class: type[DistributedEvent], /) -> dict[str, Any]:
        """See `SchemaCodec.schema`.

        Raises:
            EventSchemaError: The class, or one of its fields, is none that pydantic can describe.
        """
        try:
            return self._adapter(event_class).json_schema(mode="validation")
        except (*_UNFIT, RecursionError) as error:
            raise EventSchemaError(event_class, str(error).partition("\n")[0]) from error

    def _adapter(self, event_class: type) -> pydantic.TypeAdapter[Any]:
        adapter = self._adapters.get(event_class)
        if adapter is None:
            adapter = self._adapters[event_class] = pydantic.TypeAdapter(event_class)
        return adapter


def _without_values(error: Exception) -> str:
    """What is wrong and where, fit for a log: no value, no key of a dictionary, no text of the application's checks."""
    if not isinstance(error, pydantic.ValidationError):
        return type(error).__name__
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{fault['type']}{_place(fault['loc'])}" for fault in faults[:5])


def _place(location: tuple[int | str, ...]) -> str:
    if not location:
        return ""
    return f" - at `{location[0]}{'...' if len(location) > 1 else ''}`"
