"""Assumptions of `MsgspecCodec` about msgspec."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")


class Size(StrEnum):
    SMALL = "small"


@dataclass(frozen=True)
class Ordered:
    number: int
    price: Decimal = Decimal(0)
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    id: UUID | None = None
    size: Size = Size.SMALL
    lines: tuple[str, ...] = ()
    hidden: str = field(default="h", init=False)


def decode(data: bytes) -> Ordered:
    return msgspec.json.decode(data, type=Ordered)


def test_a_dataclass_survives_the_round_trip():
    """An event class needs only `@dataclass`."""
    event = Ordered(1, Decimal("1.10"), datetime(2026, 1, 1, 12, tzinfo=UTC), UUID(int=7), Size.SMALL, ("a", "b"))
    assert decode(msgspec.json.encode(event)) == event


@pytest.mark.parametrize("number", [b'"1"', b"1.5", b"true", b"null", b"[]"])
def test_a_value_of_another_type_is_refused(number: bytes):
    """Therefore a wrong payload raises `EventNotDecodableError` before a handler runs."""
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"number": ' + number + b"}")


def test_a_missing_field_is_refused_and_an_unknown_field_is_ignored():
    """Therefore new fields of an event are compatible in both directions (docs/event-versions.md)."""
    with pytest.raises(msgspec.ValidationError, match="missing required field"):
        decode(b"{}")
    assert decode(b'{"number": 1, "new": {"a": 1}}') == Ordered(1)


def test_an_error_contains_the_path_of_a_value_and_not_the_value():
    """`_without_values` keeps these texts, because logs and parked events may contain errors but no payloads."""
    with pytest.raises(msgspec.ValidationError) as caught:
        decode(b'{"number": "secret"}')
    assert str(caught.value) == "Expected `int`, got `str` - at `$.number`"
    with pytest.raises(msgspec.ValidationError, match=r"^Invalid enum value .* - at `\$.size`$"):
        decode(b'{"number": 1, "size": "huge"}')


def test_an_error_of_post_init_is_the_cause_of_the_validation_error():
    """`_without_values` keeps only the class of the cause."""

    @dataclass
    class Checked:
        number: int

        def __post_init__(self) -> None:
            raise ValueError("secret")

    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(b'{"number": 1}', type=Checked)
    assert type(caught.value.__cause__) is ValueError


@pytest.mark.parametrize("data", [b"", b"{", b'{"number": 1} x', b"\xff", b'{"number": NaN}'])
def test_invalid_json_raises_an_error_that_the_codec_catches(data: bytes):
    """`MsgspecCodec.decode` translates each of these errors to `EventNotDecodableError`."""
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        decode(data)


def test_endless_nesting_raises_a_recursion_error():
    """A foreign producer can send such a payload: the event is parked and the process survives."""
    with pytest.raises(RecursionError):
        msgspec.json.decode(b"[" * 100_000)
    with pytest.raises(RecursionError):  # also in an unknown field, which is skipped
        msgspec.json.decode(b'{"number": 1, "unknown": ' + b"[" * 100_000, type=Ordered)


def test_an_object_that_contains_itself_raises_a_recursion_error():
    """`MsgspecCodec.encode` translates it to `EventNotSerializableError`."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        msgspec.json.encode(loop)


def test_an_object_without_a_json_form_raises_a_type_error():
    """`MsgspecCodec.encode` translates it to `EventNotSerializableError`."""
    with pytest.raises(TypeError):
        msgspec.json.encode(object())


def test_a_datetime_keeps_its_offset_and_a_naive_datetime_stays_naive():
    """Therefore events keep their times unchanged."""
    zone = timezone(timedelta(hours=2))
    for time in (datetime(2026, 1, 1, tzinfo=zone), datetime(2026, 1, 1)):  # noqa: DTZ001
        back = msgspec.json.decode(msgspec.json.encode(time), type=datetime)
        assert (back, back.utcoffset()) == (time, time.utcoffset())


def test_numbers_that_are_not_finite_become_null():
    """`CollectedEvent.encode` decodes each payload again, so that such an event fails its command."""
    assert msgspec.json.encode(float("nan")) == b"null"
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(float("inf")), type=float)


def test_deterministic_order_sorts_mappings_and_sets():
    """`MsgspecRequestCodec` relies on it: equal requests have equal bytes and equal idempotency keys."""
    assert msgspec.json.encode({"b": 1, "a": {3, 1, 2}}, order="deterministic") == b'{"a":[1,2,3],"b":1}'


def test_converting_is_as_strict_as_decoding():
    """`MsgspecCodec.convert` checks the payload after an upcaster."""
    assert msgspec.convert({"number": 1, "price": "1.10"}, type=Ordered, str_keys=True).price == Decimal("1.10")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"number": "1"}, type=Ordered, str_keys=True)
