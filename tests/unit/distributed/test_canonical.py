"""The canonical form of a command: equal for equal content, for any order of fields and with or without defaults."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator.distributed.canonical import canonical
from mediator.msgspec import MsgspecRequestCodec

CODEC = MsgspecRequestCodec()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def form(value: Any) -> bytes:
    return canonical(CODEC.encode(value), value)


def make(**fields: tuple[Any, Any]) -> Any:
    """Make a frozen dataclass from fields and their defaults, as another version of the application declares it."""
    return dataclasses.make_dataclass(
        "Command",
        [(name, kind, dataclasses.field(default=default)) for name, (kind, default) in fields.items()],
        frozen=True,
    )


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers() | st.text() | st.none()), st.randoms())
def test_the_order_of_fields_does_not_matter(values: dict[str, Any], random: Any):
    names = list(values)
    random.shuffle(names)
    kept, shuffled = make(**dict.fromkeys(values, (Any, ...))), make(**dict.fromkeys(names, (Any, ...)))
    assert form(kept(**values)) == form(shuffled(**values))


@given(VALUES, VALUES)
def test_two_payloads_have_the_same_form_only_if_they_are_equal(one: Any, other: Any):
    holder = make(value=(Any, ...))
    assert (form(holder(one)) == form(holder(other))) == (CODEC.encode(one) == CODEC.encode(other) or same(one, other))


def same(one: Any, other: Any) -> bool:
    """Return whether two objects have the same canonical JSON values. The order of the members does not count."""
    first, second = (msgspec.json.decode(CODEC.encode(each)) for each in (one, other))
    return bool(first == second and repr(first) == repr(second))


def test_a_new_field_changes_the_form_only_if_its_value_differs_from_the_default():
    before, after = (
        make(amount=(int, ...)),
        make(note=(str | None, None), amount=(int, ...), tags=(tuple[str, ...], ())),
    )
    assert form(before(1)) == form(after(amount=1))
    assert form(before(1)) != form(after(amount=1, note=""))
    assert form(before(1)) != form(after(amount=1, tags=("a",)))


@pytest.mark.parametrize(("default", "value"), [(0, False), (1, True), (1, 1.0), ("", None), (None, ""), (0, None)])
def test_a_value_of_another_type_than_its_equal_default_is_kept(default: Any, value: Any):
    command = make(field=(Any, default))
    assert form(command(value)) != form(command())


@dataclasses.dataclass(frozen=True)
class Data:
    name: str
    labels: frozenset[str] = frozenset()
    parts: list[str] = dataclasses.field(default_factory=list)


@attrs.frozen
class Attrs:
    name: str
    labels: frozenset[str] = frozenset()
    parts: list[str] = attrs.field(factory=list)


class Struct(msgspec.Struct, frozen=True):
    name: str
    labels: frozenset[str] = frozenset()
    parts: list[str] = msgspec.field(default_factory=list)


class Model(pydantic.BaseModel):
    name: str
    labels: frozenset[str] = frozenset()
    parts: list[str] = pydantic.Field(default_factory=list)


def encoded(value: Any) -> bytes:
    return value.model_dump_json().encode() if isinstance(value, Model) else CODEC.encode(value)


@pytest.mark.parametrize("kind", [Data, Attrs, Struct, Model])
def test_defaults_are_omitted_for_every_kind_of_class(kind: Any):
    plain, full = kind(name="a"), kind(name="a", labels=frozenset("xyz"), parts=["p"])
    assert canonical(encoded(plain), plain) == b'{"name":"a"}'
    assert canonical(encoded(full), full) == b'{"labels":["x","y","z"],"name":"a","parts":["p"]}'


@dataclasses.dataclass(frozen=True)
class Outer:
    lines: tuple[Data, ...]
    by_name: Mapping[str, Data]
    odd: frozenset[int] = frozenset()


def test_defaults_of_nested_objects_are_omitted_too():
    value = Outer((Data("a"), Data("b", parts=["p"])), {"c": Data("c")}, frozenset({3, 1}))
    expected = b'{"by_name":{"c":{"name":"c"}},"lines":[{"name":"a"},{"name":"b","parts":["p"]}],"odd":[1,3]}'
    assert form(value) == expected


def test_a_payload_that_is_not_json_is_unchanged():
    assert canonical(b"\x00secret", Data("a")) == b"\x00secret"
