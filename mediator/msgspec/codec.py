"""MsgspecCodec: event payloads as JSON through msgspec, for dataclasses, attrs classes and Structs."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec
import msgspec.inspect

from mediator.distributed.events import HARMLESS_BYTES, DistributedEvent, check_collisions
from mediator.errors import EventNotDecodableError, EventNotSerializableError, misuse
from mediator.msgspec.schema import schema_of

E = TypeVar("E", bound=DistributedEvent)

_DECLARED = ("__dataclass_fields__", "__attrs_attrs__", "__struct_fields__")
"""A dataclass, an attrs class or a Struct has one of these attributes. msgspec knows the fields of such a class."""
_NO_FIELDS = "its class has no fields that msgspec knows; make it a dataclass"


class MsgspecCodec:
    """Encodes events as JSON objects of their fields (https://jcristharif.com/msgspec/supported-types.html)."""

    content_type = "application/json"

    def encode(self, event: DistributedEvent, /) -> bytes:
        """Return the event's fields as a JSON object in UTF-8.

        Raises:
            EventNotSerializableError: A field has a value that JSON cannot represent, or the class has no fields.
        """
        try:
            data = msgspec.json.encode(event)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            reason = str(error) if any(hasattr(event, each) for each in _DECLARED) else _NO_FIELDS
            raise EventNotSerializableError(event, reason) from error
        if not data.startswith(b"{"):
            raise EventNotSerializableError(event, _NO_FIELDS)
        return data

    def decode(self, data: bytes, event_class: type[E], /) -> E:
        """Return an event from its JSON. The type of every field is checked; unknown fields are ignored.

        Raises:
            EventNotDecodableError: The data is not JSON, or does not match the class.
        """
        try:
            _check_numbers(data, event_class)
            return msgspec.json.decode(data, type=event_class)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise EventNotDecodableError(event_class.__name__, _without_values(error)) from error

    def decode_data(self, data: bytes, /) -> dict[str, Any]:
        """Return the payload as a plain dictionary, for upcasters.

        Raises:
            EventNotDecodableError: The data is not JSON, or is not a JSON object.
        """
        try:
            decoded: object = msgspec.json.decode(data)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise EventNotDecodableError("unknown", _without_values(error)) from error
        if not isinstance(decoded, dict):
            raise EventNotDecodableError("unknown", "its payload is no JSON object")
        return decoded  # pyright: ignore[reportUnknownVariableType]  # the keys of JSON objects are texts

    def convert(self, data: dict[str, Any], event_class: type[E], /) -> E:
        """Return an event from the plain data that upcasters return.

        Types are checked as strictly as in `decode`, and unknown fields are ignored.

        Raises:
            EventNotDecodableError: The data does not match the class.
        """
        try:
            if _hashes_numbers(event_class):
                check_collisions(data)
            return msgspec.convert(data, type=event_class, str_keys=True)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise EventNotDecodableError(event_class.__name__, _without_values(error)) from error

    def schema(self, event_class: type[DistributedEvent], /) -> dict[str, Any]:
        """Return the JSON schema of the payloads of an event class.

        Raises:
            DeclarationError: A field has a type that JSON cannot represent.
        """
        try:
            return schema_of(event_class)
        except (TypeError, NameError, msgspec.MsgspecError) as error:  # NameError: an undefined type in an annotation
            raise misuse.event_schema(event_class, str(error)) from error


class MsgspecRequestCodec:
    """Encodes requests and responses between applications as JSON, in the same way as `MsgspecCodec`."""

    def encode(self, value: object, /) -> bytes:
        """Return the value as JSON in UTF-8. Equal values give equal bytes, since mappings and sets are sorted.

        Raises:
            ValueError: The value has a part that JSON cannot represent.
        """
        try:
            return _sorted(value)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise ValueError(str(error)) from error

    def decode(self, data: bytes, annotation: Any, /) -> Any:
        """Return a value from its JSON. The type of every part is checked; unknown fields are ignored.

        Raises:
            ValueError: The data is not JSON, or does not match the type.
        """
        try:
            _check_numbers(data, annotation)
            return msgspec.json.decode(data, type=annotation)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise ValueError(_without_values(error)) from error

    def problem(self, annotation: Any, /) -> str:
        """Return why a value of the given type can never be decoded; empty when values of the type can be decoded."""
        try:
            parts = _parts(msgspec.inspect.type_info(annotation))
        except (TypeError, ValueError, NameError) as error:
            return str(error)
        unreadable = {part.cls.__qualname__ for part in parts if isinstance(part, msgspec.inspect.CustomType)}
        return f"JSON has no form for {', '.join(sorted(unreadable))}" if unreadable else ""


def _sorted(value: object) -> bytes:
    try:
        return msgspec.json.encode(value, order="deterministic")
    except TypeError:  # msgspec can sort only keys that are texts
        return msgspec.json.encode(msgspec.to_builtins(value, str_keys=True), order="deterministic")


_AS_TEXTS = msgspec.json.Decoder(float_hook=str)
"""Decodes numbers such as 0.1 or 1e9 as texts, since 0.1 has different hashes as a float and as a `Decimal`."""
_SAFE = (
    msgspec.inspect.StrType,
    msgspec.inspect.BytesType,
    msgspec.inspect.BoolType,
    msgspec.inspect.NoneType,
    msgspec.inspect.EnumType,
    msgspec.inspect.LiteralType,
    msgspec.inspect.DateTimeType,
    msgspec.inspect.DateType,
    msgspec.inspect.TimeType,
)
"""Types for which a sender cannot choose values with colliding hashes."""
_SETS = msgspec.inspect.SetType | msgspec.inspect.FrozenSetType


def _check_numbers(data: bytes, annotation: Any) -> None:
    """Raise a `ValueError` if too many numbers have colliding hashes, which would make decoding very slow.

    Only a type with mappings or sets of numbers is checked.
    """
    if len(data) > HARMLESS_BYTES and _hashes_numbers(annotation):
        check_collisions(_AS_TEXTS.decode(data))


def _hashes_numbers(annotation: Any) -> bool:
    try:
        return _known_to_hash_numbers(annotation)
    except TypeError:  # the annotation is not hashable
        return _known_to_hash_numbers.__wrapped__(annotation)


@lru_cache(maxsize=1024)
def _known_to_hash_numbers(annotation: Any) -> bool:
    """Return whether a type has mapping keys or set items of a type not in `_SAFE`, as in `list[set[int]]`."""
    for part in _parts(msgspec.inspect.type_info(annotation)):
        if isinstance(part, msgspec.inspect.DictType) and not isinstance(part.key_type, _SAFE):
            return True
        if isinstance(part, _SETS) and not isinstance(part.item_type, _SAFE):
            return True
    return False


def _parts(described: msgspec.inspect.Type) -> list[Any]:
    """Return the descriptions of a type and of all types inside this type, each once."""
    found: dict[int, Any] = {}
    pending: list[Any] = [described]
    while pending:
        part = pending.pop()
        if id(part) not in found:
            found[id(part)] = part
            if isinstance(part, tuple | list):
                pending += cast("Iterable[Any]", part)
            elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field):
                pending += (getattr(part, name) for name in part.__struct_fields__)
    return list(found.values())


def _without_values(error: Exception) -> str:
    """Return a description of an error for a log: the kind of the error, and its place in the data.

    Values are left out, and so are the texts of the application's own checks. Both may be confidential.
    """
    text = str(error)
    place = text[text.rindex(" - at `") :] if " - at `" in text else ""
    if error.__cause__ is not None:
        return f"{type(error.__cause__).__name__}{place}"
    return f"Invalid enum value{place}" if text.startswith("Invalid enum value") else text
