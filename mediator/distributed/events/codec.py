"""EventCodec: encodes the payloads of events as bytes, and decodes them again."""

import contextlib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol, TypeVar, cast, runtime_checkable
from uuid import UUID

from mediator.distributed.events.event import DistributedEvent

E = TypeVar("E", bound=DistributedEvent)


class EventCodec(Protocol):
    """Encodes and decodes payloads. The consumer chooses the class to decode into; the data never does."""

    content_type: str
    """The media type of the bytes that `encode` returns, in up to 127 printable characters."""

    def encode(self, event: DistributedEvent, /) -> bytes:
        """Return the payload of an event.

        Raises:
            EventNotSerializableError: The event has a value that cannot be encoded.
        """
        ...

    def decode(self, data: bytes, event_class: type[E], /) -> E:
        """Return the event that a payload encodes. Unknown fields are ignored, so that a producer may add fields.

        Raises:
            EventNotDecodableError: The payload is not of that class.
        """
        ...


@runtime_checkable
class PlainDataCodec(EventCodec, Protocol):
    """A codec that decodes in two steps, from bytes to plain data and on to an event. Upcasters work in between."""

    def decode_data(self, data: bytes, /) -> dict[str, Any]:
        """Decode a payload to dictionaries, lists, strings, numbers, booleans and `None`, in a new object each time.

        Raises:
            EventNotDecodableError: The payload is not an object with fields.
        """
        ...

    def convert(self, data: dict[str, Any], event_class: type[E], /) -> E:
        """Build an event from plain data. `convert(decode_data(data), cls)` equals `decode(data, cls)`.

        Raises:
            EventNotDecodableError: The data is not of that class.
        """
        ...


@runtime_checkable
class SchemaCodec(PlainDataCodec, Protocol):
    """A codec that can describe the payloads of an event class."""

    def schema(self, event_class: type[DistributedEvent], /) -> dict[str, Any]:
        """Return a JSON schema (https://json-schema.org) of the payloads that `decode` accepts.

        Raises:
            DeclarationError: The class has a field that the codec cannot describe.
        """
        ...


HARMLESS_BYTES = 4096
"""Payloads up to this size, in bytes, have too few numbers for colliding hashes to do harm."""
_LONGEST = 1000
"""Longest number, in characters, that is checked. A payload has too few longer ones for their hashes to do harm."""
_MOST = 100
"""Most different numbers that may share one hash.

A megabyte of numbers, a hundred for each hash, takes milliseconds. In honest data not even two share a hash.
"""


def check_collisions(plain: object) -> None:
    """Refuse plain data in which too many different numbers share one hash.

    Numbers count wherever they stand, also in keys and as strings.

    Raises:
        ValueError: More than 100 numbers share one hash.
    """
    alike: dict[str, set[str]] = {}  # keyed by the hash as a string, because Python randomizes the hashes of strings
    waiting: list[Any] = [plain]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            mapping: Mapping[Any, Any] = part  # pyright: ignore[reportUnknownVariableType]  # plain data of any type
            waiting += [*mapping.keys(), *mapping.values()]
        elif isinstance(part, list | tuple):
            waiting.extend(cast("list[Any]", part))
        elif isinstance(part, int | float | str):
            for number in _hashes(str(part)):
                found = alike.setdefault(str(number), set())
                found.add(str(part))
                if len(found) > _MOST:
                    raise ValueError(f"more than {_MOST} of its numbers were chosen to have the same hash")


def _hashes(text: str) -> list[int]:
    """Return the hashes of a text as a decimal number and as a UUID, as far as it can be read as one."""
    found = list[int]()
    if len(text) > _LONGEST:
        return found
    with contextlib.suppress(InvalidOperation, ValueError, TypeError):  # a signaling NaN has no hash
        found.append(hash(Decimal(text)))
    with contextlib.suppress(ValueError):
        found.append(hash(UUID(text)))
    return found
