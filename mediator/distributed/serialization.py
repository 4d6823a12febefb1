"""EventCodec: how the payload of an event becomes bytes and bytes become an event again."""

from typing import Any, Protocol, TypeVar, runtime_checkable

from mediator.distributed.events import DistributedEvent

E = TypeVar("E", bound=DistributedEvent)

LONGEST_MEDIA_TYPE = 127
"""In characters: what outboxes have room for."""


class EventCodec(Protocol):
    """Encodes and decodes payloads. The class to decode into is chosen by the consumer, never by the data."""

    content_type: str
    """The media type of what `encode` returns, in up to 127 printable characters."""

    def encode(self, event: DistributedEvent, /) -> bytes:
        """The payload of an event.

        Raises:
            EventNotSerializableError: It has a value that cannot be encoded.
        """
        ...

    def decode(self, data: bytes, event_class: type[E], /) -> E:
        """The event that a payload stands for; unknown fields are ignored, so that a producer may add some.

        Raises:
            EventNotDecodableError: The payload is not of that class.
        """
        ...


@runtime_checkable
class PlainDataCodec(EventCodec, Protocol):
    """A codec that reads payloads in two steps, between which upcasters change them."""

    def decode_data(self, data: bytes, /) -> dict[str, Any]:
        """The payload as plain data: dictionaries, lists, texts, numbers, truth values and `None`. A new object each time.

        Raises:
            EventNotDecodableError: The payload is no object of fields.
        """
        ...

    def convert(self, data: dict[str, Any], event_class: type[E], /) -> E:
        """The event that plain data stands for: `convert(decode_data(data), cls)` is `decode(data, cls)`.

        Raises:
            EventNotDecodableError: The data is not of that class.
        """
        ...


@runtime_checkable
class SchemaCodec(PlainDataCodec, Protocol):
    """A codec that can say what the payloads of an event class look like."""

    def schema(self, event_class: type[DistributedEvent], /) -> dict[str, Any]:
        """A JSON schema (https://json-schema.org) of what `decode` takes.

        Raises:
            EventSchemaError: The class has a field that the codec cannot describe.
        """
        ...
