"""Wire types: how the type and version of an event are written and read."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import DistributedEvent, Notification
from mediator.distributed.cloudevents import CloudEvent, bucket_of
from mediator.distributed.events import split_wire_type, wire_type
from mediator.distributed.parking import ParkedEvent, refused_event
from mediator.distributed.unit_of_work import check_event
from mediator.errors import DeclarationError, EventNotSerializableError
from mediator.msgspec import MsgspecCodec

WORDS = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True).filter(lambda word: len(word) <= 64)
EVENT_TYPES = st.builds("{}.{}".format, WORDS, WORDS)


def declare(event_type: Any, version: Any = 1) -> type[DistributedEvent]:
    return type("Declared", (DistributedEvent,), {"event_type": event_type, "event_version": version})


@pytest.mark.thorough("waits in real time, or does much work")
@given(EVENT_TYPES, st.integers(1, 10**9))
def test_a_wire_type_is_parsed_back_into_its_type_and_version(event_type: str, version: int):
    assert split_wire_type(wire_type(declare(event_type, version))) == (event_type, version)


@given(st.one_of(st.text(), st.builds("{}.v{}".format, EVENT_TYPES, st.text("0123456789٣²-+_ \n"))))
def test_a_wire_type_that_can_be_split_is_one_that_an_event_can_declare(wire: str):
    try:
        event_type, version = split_wire_type(wire)
    except ValueError:
        return
    assert wire_type(declare(event_type, version)) == wire


@pytest.mark.parametrize("wire", ["a.b.v0", "a.b.v007", "a.b", "a.b.v", "a.v1", "a.b.c.v1", "a.b.v1\n", "A.b.v1", ""])
def test_a_text_that_is_no_wire_type_is_refused(wire: str):
    with pytest.raises(ValueError, match="is not <domain>"):
        split_wire_type(wire)


@pytest.mark.parametrize(
    "event_type",
    [
        *("", "one", "Upper.case", "a.b.c", "a.", ".b", "a b.c", "-a.b", "a.b-", "a--b.c", "a.b\n", "ä.b", 3, None),
        *("a" * 65 + ".b", "a." + "b" * 65),
    ],
)
def test_an_event_type_must_be_a_domain_and_a_name(event_type: Any):
    with pytest.raises(DeclarationError, match=r"Declared has .*Declare `event_type"):
        wire_type(declare(event_type))


def test_the_longest_event_type_is_one_of_64_characters_each():
    assert wire_type(declare(f"{'a' * 64}.{'b' * 64}")) == f"{'a' * 64}.{'b' * 64}.v1"


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, None])
def test_an_event_version_must_be_a_positive_number(version: Any):
    with pytest.raises(DeclarationError, match="event_version"):
        wire_type(declare("university.changed", version))


def test_the_version_is_one_unless_declared():
    class Changed(DistributedEvent):
        event_type: ClassVar[str] = "university.changed"

    assert wire_type(Changed) == "university.changed.v1"


def test_a_distributed_event_is_not_a_notification():
    assert not issubclass(DistributedEvent, Notification)


class ByProperty(DistributedEvent):
    @property
    def partition_key(self) -> str:
        return "k"


@dataclass(frozen=True, slots=True)
class SlottedField(DistributedEvent):
    partition_key: str
    student_id: str


@dataclass(frozen=True)
class FrozenField(DistributedEvent):
    partition_key: str
    student_id: str


@dataclass
class PlainField(DistributedEvent):
    partition_key: str
    student_id: str


class StructField(msgspec.Struct, DistributedEvent):
    partition_key: str
    student_id: str


def test_an_event_has_no_partition_key_unless_a_property_returns_one():
    assert DistributedEvent().partition_key is None
    assert ByProperty().partition_key == "k"


@pytest.mark.parametrize("event_class", [SlottedField, FrozenField, PlainField, StructField])
def test_the_partition_key_can_be_a_field_like_any_other(event_class: Any):
    assert event_class("k", "s-1").partition_key == "k"
    with pytest.raises(TypeError, match="partition_key"):
        event_class(student_id="s-1")
    assert MsgspecCodec().decode(MsgspecCodec().encode(event_class("k", "s-1")), event_class).partition_key == "k"


@given(st.text(), st.text())
def test_the_bucket_is_derived_from_the_key_if_there_is_one(key: str, event_id: str):
    assert bucket_of(key, event_id) == bucket_of(key, "another")
    assert bucket_of(None, event_id) == bucket_of(event_id, "another")


class Keyed(DistributedEvent):
    event_type = "contract.keyed"
    partition_key: Any = ""


def test_an_empty_key_is_refused_when_its_event_is_added():
    with pytest.raises(EventNotSerializableError, match="use None for an event without order"):
        check_event(Keyed(), None)


@pytest.mark.parametrize("number", range(1, 4))
def test_the_ordering_key_of_an_event_without_a_key_equals_no_partition_key(number: int):
    """In an earlier version `#2` was the ordering key of the parked event number 2 if that event had no key."""
    without = parked(None, number)
    assert all(
        without.ordering_key != parked(key, other).ordering_key
        for key in ("#2", f"#{number}", str(number))
        for other in (1, 2)
    )


def parked(key: str | None, number: int) -> ParkedEvent:
    event = CloudEvent("1", "contract.keyed.v1", datetime.now(UTC), b"{}", partitionkey=key)
    return replace(refused_event(event, "refused", "", sequence=1), number=number)
