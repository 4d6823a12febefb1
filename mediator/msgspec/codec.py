"""MsgspecCodec: event payloads as JSON, through msgspec. Dataclasses, attrs classes and Structs need nothing more."""

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import msgspec
import msgspec.inspect

from mediator.distributed.events import DistributedEvent
from mediator.errors import EventNotDecodableError, EventNotSerializableError, EventSchemaError
from mediator.msgspec.schema import schema_of

E = TypeVar("E", bound=DistributedEvent)


class MsgspecCodec:
    """Encodes events as JSON objects of their fields (https://jcristharif.com/msgspec/supported-types.html)."""

    content_type = "application/json"

    def encode(self, event: DistributedEvent, /) -> bytes:
        """The event's fields as a JSON object, UTF-8.

        Raises:
            EventNotSerializableError: A field has a value that JSON has no form for, or the class has no fields.
        """
        try:
            data = msgspec.json.encode(event)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise EventNotSerializableError(event, str(error)) from error
        if not data.startswith(b"{"):
            raise EventNotSerializableError(event, "its class has no fields that msgspec knows; make it a dataclass")
        return data

    def decode(self, data: bytes, event_class: type[E], /) -> E:
        """Read an event, checking the type of every field and ignoring unknown ones.

        Raises:
            EventNotDecodableError: The data is not JSON, or not of that class.
        """
        try:
            return msgspec.json.decode(data, type=event_class)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise EventNotDecodableError(event_class.__name__, _without_values(error)) from error

    def decode_data(self, data: bytes, /) -> dict[str, Any]:
        """See `PlainDataCodec.decode_data`.

        Raises:
            EventNotDecodableError: The data is not JSON, or no object.
        """
        try:
            decoded: object = msgspec.json.decode(data)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise EventNotDecodableError("unknown", _without_values(error)) from error
        if not isinstance(decoded, dict):
            raise EventNotDecodableError("unknown", "its payload is no JSON object")
        return decoded  # pyright: ignore[reportUnknownVariableType]  # the keys of JSON objects are texts

    def convert(self, data: dict[str, Any], event_class: type[E], /) -> E:
        """See `PlainDataCodec.convert`: strict as `decode` is, and fields that are left over are ignored as there.

        Raises:
            EventNotDecodableError: The data is not of that class.
        """
        try:
            return msgspec.convert(data, type=event_class, str_keys=True)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise EventNotDecodableError(event_class.__name__, _without_values(error)) from error

    def schema(self, event_class: type[DistributedEvent], /) -> dict[str, Any]:
        """See `SchemaCodec.schema`.

        Raises:
            EventSchemaError: A field is of a type that JSON has no form for.
        """
        try:
            return schema_of(event_class)
        except (TypeError, NameError, msgspec.MsgspecError) as error:  # a name: of a type that is not there
            raise EventSchemaError(event_class, str(error)) from error


class MsgspecRequestCodec:
    """Writes the requests and responses of other applications as JSON, as `MsgspecCodec` does with events."""

    def encode(self, value: object, /) -> bytes:
        """The value as JSON, UTF-8. Equal values give equal bytes: mappings and sets are sorted.

        Raises:
            ValueError: It has a part that JSON has no form for.
        """
        try:
            return msgspec.json.encode(value, order="deterministic")
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise ValueError(str(error)) from error

    def decode(self, data: bytes, annotation: Any, /) -> Any:
        """Read a value, checking the type of every part and ignoring unknown fields.

        Raises:
            ValueError: The data is not JSON, or not of that type.
        """
        try:
            return msgspec.json.decode(data, type=annotation)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise ValueError(_without_values(error)) from error

    def problem(self, annotation: Any, /) -> str:
        """Why a type can never be decoded; empty when it can."""
        try:
            unreadable = _custom_types(msgspec.inspect.type_info(annotation), set())
        except (TypeError, ValueError, NameError) as error:
            return str(error)
        return f"JSON has no form for {', '.join(sorted(unreadable))}" if unreadable else ""


def _custom_types(part: Any, seen: set[int]) -> set[str]:
    """The classes inside a description of a type that msgspec cannot read by itself."""
    if id(part) in seen:
        return set()
    seen.add(id(part))
    if isinstance(part, msgspec.inspect.CustomType):
        return {part.cls.__qualname__}
    if isinstance(part, tuple | list):
        members = list(cast("Iterable[Any]", part))
    elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field):
        members = [getattr(part, name) for name in part.__struct_fields__]
    else:
        members = []
    return {name for member in members for name in _custom_types(member, seen)}


def _without_values(error: Exception) -> str:
    """What is wrong and where, fit for a log: no value, and no text of the application's own checks."""
    text = str(error)
    place = text[text.rindex(" - at `") :] if " - at `" in text else ""
    if error.__cause__ is not None:
        return f"{type(error.__cause__).__name__}{place}"
    return f"Invalid enum value{place}" if text.startswith("Invalid enum value") else text
