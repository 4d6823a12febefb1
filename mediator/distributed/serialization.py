"""EventCodec: how the payload of an event becomes bytes and bytes become an event again."""

from typing import Protocol, TypeVar

from mediator.distributed.events import DistributedEvent

E = TypeVar("E", bound=DistributedEvent)


class EventCodec(Protocol):
    """Encodes and decodes payloads. The class to decode into is chosen by the consumer, never by the data."""

    content_type: str
    """The media type of what `encode` returns."""

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
