"""PydanticCodec: payloads of models and dataclasses as JSON."""

import contextlib
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import DistributedEvent
from mediator.errors import EventNotDecodableError, EventNotSerializableError
from mediator.pydantic import PydanticCodec

codec = PydanticCodec()


class Address(pydantic.BaseModel):
    street: str


class Moved(pydantic.BaseModel, DistributedEvent):
    model_config = pydantic.ConfigDict(frozen=True)
    event_type: ClassVar[str] = "pydantic.moved"
    student_id: uuid.UUID
    at: datetime
    fee: Decimal
    address: Address | None = None
    floor: Annotated[int, pydantic.Field(alias="storey")] = 0
    marks: dict[str, int] = {}
    partition_key: str | None = None


class Checked(pydantic.BaseModel, DistributedEvent):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    marks: dict[str, int] = {}

    @pydantic.field_validator("name")
    @classmethod
    def refuse(cls, name: str) -> str:
        raise ValueError(name)


class AsStruct(msgspec.Struct, DistributedEvent):
    name: str = "Ada"


class Listed(pydantic.RootModel[list[int]], DistributedEvent):
    pass


text = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.builds(
        Moved,
        student_id=st.uuids(),
        at=st.datetimes(timezones=st.just(UTC)),
        fee=st.decimals(allow_nan=False, allow_infinity=False),
        address=st.none() | st.builds(Address, street=text),
        storey=st.integers(),
        marks=st.dictionaries(text, st.integers()),
        partition_key=st.none() | text,
    )
)
def test_a_model_is_decoded_as_it_was_encoded_in_one_step_or_two(event: Moved):
    data = codec.encode(event)
    assert codec.decode(data, Moved) == event
    assert codec.convert(codec.decode_data(data), Moved) == event


def test_the_payload_is_a_json_object_of_the_fields_under_their_aliases():
    event = Moved(student_id=uuid.UUID(int=1), at=datetime(2024, 1, 2, tzinfo=UTC), fee=Decimal("1.50"), storey=2)
    assert codec.content_type == "application/json"
    assert codec.decode_data(codec.encode(event)) == {
        "student_id": "00000000-0000-0000-0000-000000000001",
        "at": "2024-01-02T00:00:00Z",
        "fee": "1.50",
        "address": None,
        "storey": 2,
        "marks": {},
        "partition_key": None,
    }


@pytest.mark.parametrize(
    "event",
    [AsStruct(), Listed([1]), Checked.model_construct(name=3), Checked.model_construct(name="\ud800")],
    ids=["struct", "list", "wrong type", "surrogate"],
)
def test_an_event_that_cannot_be_decoded_again_is_refused(event: DistributedEvent):
    with pytest.raises(EventNotSerializableError):
        codec.encode(event)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000])
def test_data_that_does_not_fit_the_class_is_refused(data: bytes):
    with pytest.raises(EventNotDecodableError, match="type Moved cannot be decoded"):
        codec.decode(data, Moved)
    with pytest.raises(EventNotDecodableError):
        codec.decode(b"{}", AsStruct)


@given(st.binary())
def test_any_data_is_either_decoded_or_refused(data: bytes):
    with contextlib.suppress(EventNotDecodableError):
        assert isinstance(codec.decode(data, Moved), Moved)
    with contextlib.suppress(EventNotDecodableError):
        assert isinstance(codec.decode_data(data), dict)


@pytest.mark.parametrize("data", [b'{"name":"secret"}', b'{"name":["secret"]}', b'{"marks":{"secret":"secret"}}'])
def test_the_error_for_undecodable_data_contains_no_values(data: bytes):
    with pytest.raises(EventNotDecodableError, match=r"at `name`|at `marks...`") as caught:
        codec.decode(data, Checked)
    assert "secret" not in str(caught.value)


def test_values_of_upcasters_are_accepted_if_json_can_represent_them():
    data: dict[str, Any] = {"student_id": uuid.UUID(int=1), "at": datetime(2024, 1, 2, tzinfo=UTC), "fee": 1}
    assert codec.convert(data, Moved).student_id == uuid.UUID(int=1)
    with pytest.raises(EventNotDecodableError, match="a value that JSON has no form for"):
        codec.convert(data | {"fee": object()}, Moved)
