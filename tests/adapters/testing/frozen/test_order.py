"""Frozen samples and order: the order of alternatives, members and values does not change the payload."""

import enum
import functools
import operator
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import DistributedEvent
from mediator.errors import FrozenEventsError
from mediator.msgspec import MsgspecCodec
from mediator.pydantic import PydanticCodec
from mediator.testing import FrozenSampleWarning, check_frozen_events, freeze_events
from mediator.testing.frozen.changes import changes

CODECS = [pytest.param(MsgspecCodec(), id="msgspec"), pytest.param(PydanticCodec(), id="pydantic")]
every_codec = pytest.mark.parametrize("codec", CODECS)


def event(kind: Any) -> Any:
    namespace = {"event_type": "freezing.sorted"}
    return make_dataclass("Sorted", [("a", kind)], bases=(DistributedEvent,), namespace=namespace, frozen=True)


def one_of(kinds: Sequence[Any]) -> Any:
    return functools.reduce(operator.or_, kinds)


def check(before: Any, after: Any, codec: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        freeze_events([event(before)], folder, codec=codec)
        check_frozen_events([event(after)], folder, codec=codec)


def fault(before: Any, after: Any, codec: Any) -> str:
    with pytest.raises(FrozenEventsError) as caught:
        check(before, after, codec)
    return str(caught.value)


class Leaf(msgspec.Struct, tag="leaf"):
    value: int


class Pair(msgspec.Struct, tag="pair"):
    left: "Leaf | Pair"
    right: "Pair | Leaf"


class Grown(msgspec.Struct, tag="pair"):
    left: "Leaf | Grown"
    right: "Grown | Leaf"
    note: str = ""


class Broken(msgspec.Struct, tag="pair"):
    left: "Leaf | Broken"
    right: "Broken | Leaf"
    note: str


class Plane(pydantic.BaseModel):
    way: Literal["air"]
    height: int


class Ship(pydantic.BaseModel):
    way: Literal["sea"]


class FastShip(pydantic.BaseModel):
    way: Literal["sea"]
    speed: int = 30


ALTERNATIVES = {MsgspecCodec: [int, float, str, bool, None, list[int], Leaf, Pair]}
ALTERNATIVES[PydanticCodec] = [int, float, str, bool, None, list[int], list[str], dict[str, int], Plane, Ship]


@every_codec
@given(data=st.data())
def test_the_alternatives_of_a_union_have_no_order(codec: Any, data: st.DataObject):
    kinds = data.draw(st.lists(st.sampled_from(ALTERNATIVES[type(codec)]), min_size=2, unique=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FrozenSampleWarning)
        check(one_of(kinds), one_of(data.draw(st.permutations(kinds))), codec)


@every_codec
@given(data=st.data())
def test_a_replaced_alternative_of_a_union_is_found_in_any_order(codec: Any, data: st.DataObject):
    kinds = data.draw(st.lists(st.sampled_from(ALTERNATIVES[type(codec)]), min_size=3, unique=True))
    gone, *came = kinds
    before, after = [gone, *came[1:]], data.draw(st.permutations(came))
    assert "has changed incompatibly" in fault(one_of(before), one_of(after), codec)


@every_codec
@given(order=st.permutations(["a", "b", "c", "d"]))
def test_the_values_of_a_literal_and_the_members_of_an_enum_have_no_order(codec: Any, order: list[str]):
    values = sorted(order)
    check(Literal[tuple(values)], Literal[tuple(order)], codec)
    before, after = (enum.Enum("Way", [(each, each) for each in given]) for given in (values, order))
    check(before, after, codec)
    assert "has changed incompatibly" in fault(Literal[tuple(values)], Literal[tuple(order[1:])], codec)


@every_codec
def test_the_items_of_a_tuple_have_an_order(codec: Any):
    assert "was integer, and is now string" in fault(tuple[int, str], tuple[str, int], codec)


@given(order=st.permutations([Leaf, Grown, int]))
def test_an_alternative_with_a_new_optional_field_is_compared_with_its_earlier_form(order: list[Any]):
    with pytest.warns(FrozenSampleWarning, match=r"`a.note` was added, with a default"):
        check(one_of([int, Leaf, Pair]), one_of(order), MsgspecCodec())


@given(order=st.permutations([Leaf, Broken, int]))
def test_a_changed_alternative_is_named_with_its_field(order: list[Any]):
    found = fault(one_of([int, Leaf, Pair]), one_of(order), MsgspecCodec())
    assert "the field `a.note` was added without a default" in found
    assert "was integer" not in found


@given(order=st.permutations([Plane, FastShip]))
def test_models_of_a_discriminated_union_have_no_order(order: list[Any]):
    before = Annotated[Plane | Ship, pydantic.Field(discriminator="way")]
    after = Annotated[one_of(order), pydantic.Field(discriminator="way")]
    with pytest.warns(FrozenSampleWarning, match=r"`a.speed` was added, with a default"):
        check(before, after, PydanticCodec())


def test_the_order_of_fields_is_no_change():
    class Before(msgspec.Struct, DistributedEvent, frozen=True):
        event_type: ClassVar[str] = "freezing.sorted"
        a: int
        b: str

    class After(msgspec.Struct, DistributedEvent, frozen=True):
        event_type: ClassVar[str] = "freezing.sorted"
        b: str
        a: int

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        freeze_events([Before], folder)
        check_frozen_events([After], folder)


def test_mutually_recursive_classes_are_compared_without_following_every_path():
    def schema(names: Sequence[str]) -> Any:
        any_of_them = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
        inner = {
            name: {"properties": {"tag": {"const": name}, "of": any_of_them}, "required": ["of"]} for name in names
        }
        return {"properties": {"a": any_of_them}, "$defs": inner}

    names = [f"kind-{number}" for number in range(30)]
    assert changes(schema(names), schema(names[::-1])) == []
