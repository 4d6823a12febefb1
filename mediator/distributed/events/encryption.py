"""EncryptingCodec: encrypts the payloads of events, so that outbox, archive, stream and parked rows hold ciphertext."""

from typing import Any, Protocol, TypeVar

from mediator.distributed.events.codec import EventCodec, PlainDataCodec, SchemaCodec
from mediator.distributed.events.event import DistributedEvent
from mediator.errors import EventNotDecodableError, EventNotSerializableError, misuse

E = TypeVar("E", bound=DistributedEvent)

_LENGTH_BYTES = 2
_NO_KEY = (1 << 8 * _LENGTH_BYTES) - 1


class PayloadCipher(Protocol):
    """Encrypts and decrypts payloads. A cipher runs on the event loop, so its secrets must already be in memory.

    A cipher may have a separate secret for each partition key. Deleting the secret of a key makes all payloads of the
    key unreadable, also in streams and backups.
    """

    def encrypt(self, data: bytes, partition_key: str | None, /) -> bytes:
        """Return the ciphertext of a payload.

        Raises:
            LookupError: There is no secret for this partition key. The command that added the event fails.
        """
        ...

    def decrypt(self, data: bytes, partition_key: str | None, /) -> bytes:
        """Return the payload of a ciphertext.

        Raises:
            LookupError: There is no secret for this partition key, or the secret was deleted.
            ValueError: The ciphertext was made with another secret, or was altered.
        """
        ...


class EncryptingCodec:
    """An `EventCodec` that encrypts the payloads of an inner codec.

    Give the codec to the unit of work: `codec=EncryptingCodec(MsgspecCodec(), cipher)`. The receiving application uses
    an `EncryptingCodec` with the same secrets. The partition key stays readable in the envelope and in front of the
    ciphertext. So a partition key must hold no personal data. Upcasters get unencrypted payloads. Frozen samples
    (example payloads in files, for tests) are unencrypted too.

    Args:
        codec: Encodes the payload before it is encrypted.
        cipher: Encrypts the payload.

    Attributes:
        codec: The inner codec.
    """

    content_type: str = "application/octet-stream"
    """The media type of the encrypted payload."""

    def __init__(self, codec: EventCodec, cipher: PayloadCipher) -> None:
        self.codec: EventCodec = codec
        self._cipher = cipher

    def encode(self, event: DistributedEvent, /) -> bytes:
        """Return the encrypted payload of an event.

        Raises:
            EventNotSerializableError: The event has a value that cannot be encoded, the cipher has no secret for the
                event's partition key, or the payload cannot be encrypted.
        """
        data, key = self.codec.encode(event), event.partition_key
        try:
            return _header(key) + self._cipher.encrypt(data, key)
        except LookupError as error:
            raise EventNotSerializableError(event, "the cipher has no secret for its partition key") from error
        except ValueError as error:
            raise EventNotSerializableError(event, f"it cannot be encrypted ({type(error).__name__})") from error

    def decode(self, data: bytes, event_class: type[E], /) -> E:
        """Return the event that an encrypted payload encodes.

        Raises:
            EventNotDecodableError: The payload cannot be decrypted, or does not decode to an event of that class.
        """
        return self.codec.decode(self._decrypt(data, event_class.__name__), event_class)

    def decode_data(self, data: bytes, /) -> dict[str, Any]:
        """Decrypt a payload and decode it to plain data.

        Raises:
            EventNotDecodableError: The payload cannot be decrypted, or is not an object with fields. The error is raised
                for every payload if the inner codec is no `PlainDataCodec`.
        """
        return self._plain().decode_data(self._decrypt(data, "unknown"))

    def convert(self, data: dict[str, Any], event_class: type[E], /) -> E:
        """Build an event from plain data with the inner codec.

        Raises:
            EventNotDecodableError: The data does not convert to an event of that class, or the inner codec does not
                build events from plain data.
        """
        return self._plain().convert(data, event_class)

    def schema(self, event_class: type[DistributedEvent], /) -> dict[str, Any]:
        """Return the inner codec's schema, which describes the unencrypted payload.

        Raises:
            DeclarationError: The class has a field that the inner codec cannot describe, or the inner codec has no
                schemas.
        """
        if not isinstance(self.codec, SchemaCodec):
            reason = f"{type(self.codec).__name__} lacks `decode_data`, `convert` or `schema`"
            raise misuse.event_schema(event_class, reason)
        return self.codec.schema(event_class)

    def _plain(self) -> PlainDataCodec:
        if not isinstance(self.codec, PlainDataCodec):
            reason = f"{type(self.codec).__name__} lacks `decode_data` or `convert`; upcasters need both"
            raise EventNotDecodableError("unknown", reason)
        return self.codec

    def _decrypt(self, data: bytes, event: str) -> bytes:
        try:
            key, ciphertext = _split(data)
            return self._cipher.decrypt(ciphertext, key)
        except LookupError as error:
            raise EventNotDecodableError(event, "there is no secret for its partition key") from error
        except ValueError as error:
            raise EventNotDecodableError(event, "it cannot be decrypted with its secret") from error


def _header(key: str | None) -> bytes:
    if key is None:
        return _NO_KEY.to_bytes(_LENGTH_BYTES)
    encoded = str(key).encode()
    if len(encoded) >= _NO_KEY:
        raise ValueError("the partition key is too long")
    return len(encoded).to_bytes(_LENGTH_BYTES) + encoded


def _split(data: bytes) -> tuple[str | None, bytes]:
    length = int.from_bytes(data[:_LENGTH_BYTES])
    if length == _NO_KEY:
        return None, data[_LENGTH_BYTES:]
    end = _LENGTH_BYTES + length
    if len(data) < end:
        raise ValueError("too short")
    return data[_LENGTH_BYTES:end].decode(), data[end:]
