"""EventCodec: encodes the payloads of events as bytes, and decodes them again."""

import contextlib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol, TypeVar, cast, runtime_checkable
from uuid import UUID

from mediator.distributed.events.event import DistributedEvent

E = TypeVar("E", bound=DistributedEvent)


class EventCodec(Protocol):
    """Encodes and decodes payloads. The class to decode into is chosen by the consumer, never by the data."""

    content_type: str
    """The media type of the bytes that `encode` returns; at most 127 printable characters."""

    def encode(self, event: DistributedEvent, /) -> bytes:
        """Return the payload of an event.

        Raises:
            EventNotSerializableError: The event has a value that cannot be encoded.
        """
        ...

    def decode(self, data: bytes, event_class: type[E], /) -> E:
        """Return the event that a payload encodes. Unknown fields are ignored, so that a producer may add fields.

        Raises:
            EventNotDecodableError: The payload does not decode to an event of that class.
        """
        ...


@runtime_checkable
class PlainDataCodec(EventCodec, Protocol):
    """A codec that decodes in two steps: bytes to plain data, and plain data to an event. Upcasters run in between."""

    def decode_data(self, data: bytes, /) -> dict[str, Any]:
        """Decode a payload to new dictionaries, lists, strings, numbers, booleans and `None`.

        Raises:
            EventNotDecodableError: The payload is not an object with fields.
        """
        ...

    def convert(self, data: dict[str, Any], event_class: type[E], /) -> E:
        """Build an event from plain data. `convert(decode_data(data), cls)` equals `decode(data, cls)`.

        Raises:
            EventNotDecodableError: The data does not convert to an event of that class.
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
"""Up to this many bytes, a payload is too small for a hash collision attack (see `check_collisions`)."""
_LONGEST = 1000
"""Numbers with more characters are not checked, because a payload has room for only a few of them."""
_MOST = 100
"""How many different numbers may share one hash.

Even a megabyte of numbers, with a hundred numbers for each hash, is decoded in milliseconds. In normal data not even
two numbers share a hash.
"""


def check_collisions(plain: object) -> None:
    """Refuse plain data in which too many different numbers share one hash.

    Numbers with the same hash slow down dictionaries and sets extremely (a hash collision attack). Numbers in keys and
    in strings are checked too.

    Raises:
        ValueError: More than 100 numbers share one hash.
    """
    alike: dict[str, set[str]] = {}  # the keys are hashes as strings, because strings cannot be made to collide
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
                    text = "different numbers in it have the same hash, as in a hash collision attack"
                    raise ValueError(f"more than {_MOST} {text}")


def _hashes(text: str) -> list[int]:
    """Return the hashes of a text read as a number and as a UUID: one hash for `1.5`, and no hash for `abc`."""
    found = list[int]()
    if len(text) > _LONGEST:
        return found
    with contextlib.suppress(InvalidOperation, ValueError, TypeError):  # a signaling NaN has no hash
        found.append(hash(Decimal(text)))
    with contextlib.suppress(ValueError):
        found.append(hash(UUID(text)))
    return found
