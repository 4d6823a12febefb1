"""Encrypted payloads: no stored payload can be read without its secret, and a deleted secret cannot be restored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.fernet import Fernet, InvalidToken
from hypothesis import given
from hypothesis import strategies as st

from mediator import DistributedEvent, MessageContext
from mediator.distributed.events import EncryptingCodec, Upcaster, decode_event
from mediator.distributed.unit_of_work.broker import utc_now
from mediator.distributed.unit_of_work.running import CollectedEvent
from mediator.errors import DeclarationError, EventNotDecodableError, EventNotSerializableError
from mediator.msgspec import MsgspecCodec
from mediator.testing import check_frozen_events, freeze_events


@dataclass(frozen=True, slots=True)
class Diagnosed(DistributedEvent):
    event_type: ClassVar[str] = "clinic.diagnosed"
    patient: str | None
    finding: str

    @property
    def partition_key(self) -> str | None:
        return self.patient


class FernetCipher:
    """A cipher with a secret for each patient and one for other events. Payloads of a deleted secret are unreadable."""

    def __init__(self, secrets: dict[str | None, bytes]) -> None:
        self.secrets = secrets

    def encrypt(self, data: bytes, partition_key: str | None, /) -> bytes:
        return Fernet(self.secrets[partition_key]).encrypt(data)

    def decrypt(self, data: bytes, partition_key: str | None, /) -> bytes:
        try:
            return Fernet(self.secrets[partition_key]).decrypt(data)
        except InvalidToken as error:
            raise ValueError from error


@pytest.fixture
def cipher() -> FernetCipher:
    return FernetCipher({key: Fernet.generate_key() for key in ("ada", "bob", None)})


@pytest.fixture
def codec(cipher: FernetCipher) -> EncryptingCodec:
    return EncryptingCodec(MsgspecCodec(), cipher)


@pytest.mark.parametrize("patient", ["ada", "bob", None])
def test_an_encrypted_payload_is_read_back_and_does_not_contain_the_plaintext(
    codec: EncryptingCodec, patient: str | None
) -> None:
    event = Diagnosed(patient, "measles")
    data = codec.encode(event)
    assert b"measles" not in data
    assert codec.decode(data, Diagnosed) == event
    assert codec.content_type == "application/octet-stream"


def test_an_event_is_staged_encrypted_under_the_media_type_of_ciphertext(codec: EncryptingCodec) -> None:
    collected = CollectedEvent(Diagnosed("ada", "measles"), "1", utc_now(), MessageContext("m", "c"))
    staged = collected.encode(codec, 10_000)
    assert (staged.datacontenttype, staged.partitionkey) == ("application/octet-stream", "ada")
    assert b"measles" not in staged.data


def test_payloads_of_a_deleted_key_are_unreadable_and_all_others_are_readable(
    codec: EncryptingCodec, cipher: FernetCipher
) -> None:
    forgotten, kept = codec.encode(Diagnosed("ada", "measles")), codec.encode(Diagnosed("bob", "mumps"))
    del cipher.secrets["ada"]
    with pytest.raises(EventNotDecodableError, match="there is no secret for its partition key"):
        codec.decode(forgotten, Diagnosed)
    assert codec.decode(kept, Diagnosed).finding == "mumps"
    with pytest.raises(EventNotSerializableError, match="no secret for its partition key"):
        codec.encode(Diagnosed("ada", "measles"))


def test_a_payload_of_another_secret_cannot_be_read(codec: EncryptingCodec, cipher: FernetCipher) -> None:
    data = codec.encode(Diagnosed("ada", "measles"))
    cipher.secrets["ada"] = Fernet.generate_key()
    with pytest.raises(EventNotDecodableError, match="cannot be decrypted"):
        codec.decode(data, Diagnosed)


def lift(data: dict[str, Any]) -> dict[str, Any]:
    return {"patient": data["patient"], "finding": data["diagnosis"]}


@dataclass(frozen=True, slots=True)
class OldDiagnosed(DistributedEvent):
    event_type: ClassVar[str] = "clinic.diagnosed"
    patient: str | None
    diagnosis: str

    @property
    def partition_key(self) -> str | None:
        return self.patient


@dataclass(frozen=True, slots=True)
class NewDiagnosed(DistributedEvent):
    event_type: ClassVar[str] = "clinic.diagnosed"
    event_version: ClassVar[int] = 2
    upcasters: ClassVar[Mapping[int, Upcaster]] = {1: lift}
    patient: str | None
    finding: str


def test_encrypted_payloads_of_older_versions_are_upcast(codec: EncryptingCodec, cipher: FernetCipher) -> None:
    data = codec.encode(OldDiagnosed("ada", "measles"))
    assert decode_event(codec, "clinic.diagnosed.v1", data, NewDiagnosed) == NewDiagnosed("ada", "measles")
    del cipher.secrets["ada"]
    with pytest.raises(EventNotDecodableError, match="there is no secret"):
        decode_event(codec, "clinic.diagnosed.v1", data, NewDiagnosed)


def test_encrypted_events_are_frozen_as_plaintext_without_a_secret(tmp_path: Path) -> None:
    codec = EncryptingCodec(MsgspecCodec(), FernetCipher({}))
    freeze_events([OldDiagnosed], tmp_path, codec=codec)
    freeze_events([NewDiagnosed], tmp_path, codec=codec)
    check_frozen_events([NewDiagnosed], tmp_path, codec=codec)
    assert codec.schema(NewDiagnosed) == MsgspecCodec().schema(NewDiagnosed)


def test_the_error_names_an_inner_codec_without_plain_data(cipher: FernetCipher) -> None:
    class Opaque:
        content_type = "text/plain"

        def encode(self, event: DistributedEvent, /) -> bytes:
            return b"opaque"

        def decode(self, data: bytes, event_class: Any, /) -> Any:
            return event_class("ada", "measles")

    codec = EncryptingCodec(Opaque(), cipher)
    data = codec.encode(OldDiagnosed("ada", "measles"))
    assert codec.decode(data, NewDiagnosed) == NewDiagnosed("ada", "measles")
    with pytest.raises(EventNotDecodableError, match="Opaque lacks `decode_data` or `convert`"):
        decode_event(codec, "clinic.diagnosed.v1", data, NewDiagnosed)
    with pytest.raises(DeclarationError, match="Opaque lacks"):
        codec.schema(NewDiagnosed)


class Plain:
    """A cipher that does not encrypt, and writes its arguments into the payload."""

    def encrypt(self, data: bytes, partition_key: str | None, /) -> bytes:
        return data

    def decrypt(self, data: bytes, partition_key: str | None, /) -> bytes:
        self.partition_key = partition_key
        return data


@given(st.none() | st.text(max_size=255), st.text())
def test_the_cipher_receives_the_partition_key_again_when_decrypting(patient: str | None, finding: str) -> None:
    cipher = Plain()
    codec = EncryptingCodec(MsgspecCodec(), cipher)
    assert codec.decode(codec.encode(Diagnosed(patient, finding)), Diagnosed) == Diagnosed(patient, finding)
    assert cipher.partition_key == patient


@given(st.binary())
def test_data_that_is_no_encrypted_payload_raises_event_not_decodable(data: bytes) -> None:
    codec = EncryptingCodec(MsgspecCodec(), FernetCipher({None: Fernet.generate_key()}))
    with pytest.raises(EventNotDecodableError):
        codec.decode(data, Diagnosed)


def test_a_partition_key_that_is_too_long_cannot_be_encrypted(codec: EncryptingCodec) -> None:
    with pytest.raises(EventNotSerializableError):
        EncryptingCodec(MsgspecCodec(), Plain()).encode(Diagnosed("x" * 70_000, "measles"))
