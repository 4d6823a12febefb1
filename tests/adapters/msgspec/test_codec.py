"""MsgspecCodec: payloads as JSON."""

import contextlib
import enum
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import DistributedEvent
from mediator.errors import EventNotDecodableError, EventNotSerializableError
from mediator.msgspec import MsgspecCodec

codec = MsgspecCodec()


class Grade(enum.Enum):
    PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Address:
    street: str


@dataclass(frozen=True, slots=True)
class Graded(DistributedEvent):
    student_id: uuid.UUID
    grade: Grade
    points: Decimal
    at: datetime
    address: Address | None
    notes: list[str]
    marks: dict[str, int]
    picture: bytes = b""


class Moved(msgspec.Struct, DistributedEvent, frozen=True):
    student_id: str
    floor: int = 0


@dataclass(frozen=True, slots=True)
class Anything(DistributedEvent):
    value: Any


@dataclass(frozen=True, slots=True)
class Checked(DistributedEvent):
    grade: Grade
    value: str = ""

    def __post_init__(self) -> None:
        if self.value:
            raise ValueError(self.value)


class Plain(DistributedEvent):
    def __init__(self) -> None:
        self.name = "Ada"


class Listed(msgspec.Struct, DistributedEvent, array_like=True):
    name: str = "Ada"


text = st.text(st.characters(exclude_categories=["Cs"]))
graded = st.builds(
    Graded,
    student_id=st.uuids(),
    grade=st.sampled_from(Grade),
    points=st.decimals(allow_nan=False, allow_infinity=False),
    at=st.datetimes(timezones=st.just(UTC)),
    address=st.none() | st.builds(Address, text),
    notes=st.lists(text),
    marks=st.dictionaries(text, st.integers(-(2**63), 2**63 - 1)),
    picture=st.binary(),
)


@given(graded)
def test_a_dataclass_is_decoded_as_it_was_encoded(event: Graded):
    assert codec.decode(codec.encode(event), Graded) == event


@given(st.builds(Moved, text, st.integers(-(2**63), 2**63 - 1)))
def test_a_struct_is_decoded_as_it_was_encoded(event: Moved):
    assert codec.decode(codec.encode(event), Moved) == event


def test_the_payload_is_a_json_object_of_the_fields():
    assert codec.content_type == "application/json"
    assert codec.encode(Moved("s-1", 2)) == b'{"student_id":"s-1","floor":2}'


@pytest.mark.parametrize(
    "value", [object(), {object(): 1}, "\ud800", 1j], ids=["object", "key", "half a character", "complex"]
)
def test_a_value_that_json_cannot_represent_is_refused(value: Any):
    with pytest.raises(EventNotSerializableError) as caught:
        codec.encode(Anything(value))
    assert caught.value.event == Anything(value)
    assert "Anything cannot be serialized" in str(caught.value)


def test_a_value_that_contains_itself_is_refused():
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(EventNotSerializableError):
        codec.encode(Anything(endless))


@pytest.mark.parametrize("event", [Plain(), Listed()], ids=["plain", "array"])
def test_an_event_that_is_not_encoded_as_an_object_is_refused(event: DistributedEvent):
    with pytest.raises(EventNotSerializableError):
        codec.encode(event)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"{}", b'{"student_id":3}', b"\xff", b'{"student_id":"\xff"}']
)
def test_data_that_does_not_fit_the_class_is_refused(data: bytes):
    with pytest.raises(EventNotDecodableError, match="type Moved cannot be decoded"):
        codec.decode(data, Moved)


def test_deeply_nested_data_is_refused():
    with pytest.raises(EventNotDecodableError):
        codec.decode(b'{"value":' + b"[" * 100_000, Anything)


@given(st.binary())
def test_any_data_is_either_decoded_or_refused(data: bytes):
    with contextlib.suppress(EventNotDecodableError):
        assert isinstance(codec.decode(data, Moved), Moved)


def test_unknown_fields_are_ignored_and_missing_ones_take_their_default():
    assert codec.decode(b'{"student_id":"s-1","later":{"a":[1]}}', Moved) == Moved("s-1", 0)


@pytest.mark.parametrize("data", [b'{"grade":"secret"}', b'{"grade":"passed","value":"secret"}'])
def test_the_error_for_undecodable_data_contains_no_values(data: bytes):
    with pytest.raises(EventNotDecodableError, match=r"Invalid enum value - at|ValueError") as caught:
        codec.decode(data, Checked)
    assert "secret" not in str(caught.value)


def test_the_error_for_an_event_class_without_fields_names_the_remedy():
    class Bare(DistributedEvent):
        event_type = "school.bare"

    with pytest.raises(EventNotSerializableError, match="has no fields that msgspec knows; make it a dataclass"):
        codec.encode(Bare())
