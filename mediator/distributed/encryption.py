"""EncryptingCodec: encrypts the payloads of events, so that outbox, archive, stream and parked rows hold ciphertext."""

from typing import Any, Protocol, TypeVar

from mediator.distributed.events import DistributedEvent
from mediator.distributed.serialization import EventCodec, PlainDataCodec, SchemaCodec
from mediator.errors import EventNotDecodableError, EventNotSerializableError, EventSchemaError

E = TypeVar("E", bound=DistributedEvent)

_LENGTH_BYTES = 2
_NO_KEY = (1 << 8 * _LENGTH_BYTES) - 1


class PayloadCipher(Protocol):
    """Encrypts and decrypts payloads, on the event loop: keys are in memory before they are needed.

    With a secret of its own for each partition key a cipher can forget one key: deleting that secret makes the payloads
    of that key unreadable everywhere, also in streams and backups.
    """

    def encrypt(self, data: bytes, partition_key: str | None, /) -> bytes:
        """The ciphertext of a payload.

        Raises:
            LookupError: There is no secret for this partition key. The command fails.
        """
        ...

    def decrypt(self, data: bytes, partition_key: str | None, /) -> bytes:
        """The payload that a ciphertext stands for.

        Raises:
            LookupError: There is no secret for this partition key (any more).
            ValueError: The ciphertext was made with another secret, or was altered.
        """
        ...


class EncryptingCodec:
    """An `EventCodec` around another one: `codec=EncryptingCodec(MsgspecCodec(), cipher)` in the unit of work.

    The receiving application uses one with a cipher that has the same secrets. The partition key stands in front of the
    ciphertext in clear, as it does in the envelope; keep personal data out of it.

    Upcasters and frozen samples work as they do with the codec inside, and see payloads in clear.

    Args:
        codec: Makes the payload that is encrypted.
        cipher: Encrypts it.

    Attributes:
        codec: The codec inside.
    """

    content_type: str = "application/octet-stream"
    """The media type of what `encode` returns."""

    def __init__(self, codec: EventCodec, cipher: PayloadCipher) -> None:
        self.codec: EventCodec = codec
        self._cipher = cipher

    def encode(self, event: DistributedEvent, /) -> bytes:
        """The encrypted payload of an event.

        Raises:
            EventNotSerializableError: It has a value that cannot be encoded, or the cipher has no secret for its key.
        """
        data, key = self.codec.encode(event), event.partition_key
        try:
            return _header(key) + self._cipher.encrypt(data, key)
        except LookupError as error:
            raise EventNotSerializableError(event, "the cipher has no secret for its partition key") from error
        except ValueError as error:
            raise EventNotSerializableError(event, f"it cannot be encrypted ({type(error).__name__})") from error

    def decode(self, data: bytes, event_class: type[E], /) -> E:
        """The event that an encrypted payload stands for.

        Raises:
            EventNotDecodableError: It cannot be decrypted, or is not of that class.
        """
        return self.codec.decode(self._decrypt(data, event_class.__name__), event_class)

    def decode_data(self, data: bytes, /) -> dict[str, Any]:
        """See `PlainDataCodec.decode_data`.

        Raises:
            EventNotDecodableError: It cannot be decrypted, is no object of fields, or the codec inside knows no plain data.
        """
        return self._plain().decode_data(self._decrypt(data, "unknown"))

    def convert(self, data: dict[str, Any], event_class: type[E], /) -> E:
        """See `PlainDataCodec.convert`.

        Raises:
            EventNotDecodableError: The data is not of that class, or the codec inside knows no plain data.
        """
        return self._plain().convert(data, event_class)

    def schema(self, event_class: type[DistributedEvent], /) -> dict[str, Any]:
        """See `SchemaCodec.schema`; it is that of the payload in clear.

        Raises:
            EventSchemaError: The class has a field that the codec inside cannot describe, or it describes none.
        """
        if not isinstance(self.codec, SchemaCodec):
            reason = f"{type(self.codec).__name__} has no `decode_data`, `convert` and `schema`"
            raise EventSchemaError(event_class, reason)
        return self.codec.schema(event_class)

    def _plain(self) -> PlainDataCodec:
        if not isinstance(self.codec, PlainDataCodec):
            reason = f"{type(self.codec).__name__} has no `decode_data` and `convert`, which upcasters need"
            raise EventNotDecodableError("unknown", reason)
        return self.codec

    def _decrypt(self, data: bytes, event: str) -> bytes:
        try:
            key, ciphertext = _split(data)
            return self._cipher.decrypt(ciphertext, key)
        except LookupError as error:
            raise EventNotDecodableError(event, "there is no secret for its partition key") from error
        except ValueError as error:
            raise EventNotDecodableError(event, "it cannot be decrypted by its secret") from error


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
