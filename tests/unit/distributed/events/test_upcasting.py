"""Upcasters convert older payloads, one version after the other, to the version of the class that reads them."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import DistributedEvent
from mediator.distributed.events import (
    EventCodec,
    PlainDataCodec,
    SchemaCodec,
    Upcaster,
    decode_event,
    readable_types,
    upcast,
    upcast_types,
    upcaster_problem,
)
from mediator.errors import DeclarationError, EventNotDecodableError
from mediator.msgspec import MsgspecCodec
from mediator.pydantic import PydanticCodec

TYPE = "versions.moved"


def split_name(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data.pop("name").partition(" ")
    return data | {"first": first, "last": last}


def add_floor(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"floor": 0}


UPCASTERS: Mapping[int, Upcaster] = {1: split_name, 2: add_floor}


@dataclass(frozen=True, slots=True)
class AsDataclass(DistributedEvent):
    event_type: ClassVar[str] = TYPE
    event_version: ClassVar[int] = 3
    upcasters: ClassVar[Mapping[int, Upcaster]] = UPCASTERS
    first: str
    last: str
    floor: int
    note: str = "none"


@attrs.frozen
class AsAttrs(DistributedEvent):
    event_type: ClassVar[str] = TYPE
    event_version: ClassVar[int] = 3
    upcasters: ClassVar[Mapping[int, Upcaster]] = UPCASTERS
    first: str
    last: str
    floor: int
    note: str = "none"


class AsStruct(msgspec.Struct, DistributedEvent, frozen=True):
    event_type: ClassVar[str] = TYPE
    event_version: ClassVar[int] = 3
    upcasters: ClassVar[Mapping[int, Upcaster]] = UPCASTERS
    first: str
    last: str
    floor: int
    note: str = "none"


class AsModel(pydantic.BaseModel, DistributedEvent):
    model_config = pydantic.ConfigDict(frozen=True, strict=True)
    event_type: ClassVar[str] = TYPE
    event_version: ClassVar[int] = 3
    upcasters: ClassVar[Mapping[int, Upcaster]] = UPCASTERS
    first: str
    last: str
    floor: int
    note: str = "none"


KINDS = [
    (MsgspecCodec(), AsDataclass),
    (MsgspecCodec(), AsAttrs),
    (MsgspecCodec(), AsStruct),
    (PydanticCodec(), AsModel),
    (PydanticCodec(), AsDataclass),
]
each_kind = pytest.mark.parametrize(
    ("codec", "cls"), KINDS, ids=lambda each: getattr(each, "__name__", type(each).__name__)
)
ADA = {"first": "Ada", "last": "Lovelace", "floor": 0}


def declared(upcasters: Any, version: int = 3) -> Any:
    return type("Declared", (DistributedEvent,), {"event_type": TYPE, "event_version": version, "upcasters": upcasters})


@each_kind
@pytest.mark.parametrize(
    ("version", "payload"), [(1, {"name": "Ada Lovelace"}), (2, {"first": "Ada", "last": "Lovelace"}), (3, ADA)]
)
def test_a_class_reads_every_older_version_through_its_upcasters(codec: Any, cls: Any, version: int, payload: Any):
    data = json.dumps(payload).encode()
    assert decode_event(codec, f"{TYPE}.v{version}", data, cls) == cls(**ADA)


@each_kind
@pytest.mark.parametrize("version", [1, 3])
def test_unknown_fields_are_ignored_and_missing_fields_take_their_default(codec: Any, cls: Any, version: int):
    payload = {"name": "Ada Lovelace"} if version == 1 else ADA
    data = json.dumps(payload | {"later": {"a": [1]}}).encode()
    assert decode_event(codec, f"{TYPE}.v{version}", data, cls) == cls(**ADA, note="none")


@each_kind
@pytest.mark.parametrize("version", [1, 3])
def test_an_upcast_payload_is_checked_as_strictly_as_a_current_one(codec: Any, cls: Any, version: int):
    payload = {"name": "secret Lovelace", "note": 7} if version == 1 else ADA | {"note": 7}
    with pytest.raises(EventNotDecodableError) as caught:
        decode_event(codec, f"{TYPE}.v{version}", json.dumps(payload).encode(), cls)
    assert "note" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert (f"upcast from version {version} to 3" in str(caught.value)) == (version == 1)


@each_kind
@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_json_object_is_undecodable(codec: Any, cls: Any, data: bytes):
    with pytest.raises(EventNotDecodableError, match=rf"{TYPE}\.v1"):
        decode_event(codec, f"{TYPE}.v1", data, cls)


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
payloads = st.dictionaries(st.text(max_size=5), json_values, max_size=4)


def edit(kind: str, key: str, value: Any) -> Upcaster:
    """An upcaster that changes its argument, also in nested values."""

    def edited(data: dict[str, Any]) -> dict[str, Any]:
        for inner in data.values():
            if isinstance(inner, list):
                inner.append(value)
            elif isinstance(inner, dict):
                inner[key] = value
        if kind == "add":
            data[key] = value
        elif kind == "remove":
            data.pop(key, None)
        else:
            return {f"{name}{key}": inner for name, inner in data.items()}
        return data

    return edited


edits = st.lists(
    st.builds(edit, st.sampled_from(["add", "remove", "rename"]), st.text(max_size=5), json_values), max_size=5
)


@given(payloads, edits, st.data())
def test_upcasters_run_one_after_the_other_and_do_not_change_their_input(
    payload: dict[str, Any], steps: list[Upcaster], data: st.DataObject
):
    own = len(steps) + 1
    cls = declared(dict(enumerate(steps, 1)), own)
    version = data.draw(st.integers(1, own))
    expected = copy.deepcopy(payload)
    for step in steps[version - 1 :]:
        expected = step(copy.deepcopy(expected))
    before = copy.deepcopy(payload)

    assert upcast(payload, cls, version) == expected
    assert payload == before


@given(payloads)
def test_plain_data_converted_later_equals_data_decoded_at_once(payload: dict[str, Any]):
    @dataclass(frozen=True, slots=True)
    class Anything(DistributedEvent):
        value: Any

    for codec in (MsgspecCodec(), PydanticCodec()):
        data = codec.encode(Anything(payload))
        assert codec.convert(codec.decode_data(data), Anything) == codec.decode(data, Anything)


def raises(_: dict[str, Any]) -> Any:
    raise KeyError("secret")


def takes_nothing() -> dict[str, Any]:
    return {}


async def is_async(data: dict[str, Any]) -> Any:
    return data


@pytest.mark.parametrize(
    ("upcaster", "text"),
    [
        (raises, "raised KeyError"),
        (lambda _: None, "of type NoneType"),
        (lambda data: [data], "of type list"),
        (is_async, "of type coroutine"),
    ],
    ids=["raises", "None", "list", "coroutine"],
)
def test_the_error_of_a_failing_upcaster_names_version_and_step_without_values(upcaster: Any, text: str):
    cls = declared({1: add_floor, 2: upcaster})
    with pytest.raises(EventNotDecodableError) as caught:
        decode_event(MsgspecCodec(), f"{TYPE}.v1", b'{"name":"secret"}', cls)
    said = str(caught.value)
    assert caught.value.event_type == f"{TYPE}.v1"
    assert "its upcaster from version 2 to 3" in said
    assert f"Correct `{cls.__name__}.upcasters[2]`" in said
    assert text in said
    assert "secret" not in said


def test_a_version_without_an_upcaster_is_undecodable():
    with pytest.raises(EventNotDecodableError, match="from version 1 to 2 is missing"):
        upcast({}, declared({2: add_floor}), 1)


def test_a_codec_without_plain_data_is_refused_only_when_an_event_needs_upcasting():
    class Opaque:
        content_type = "text/plain"

        def encode(self, event: DistributedEvent, /) -> bytes:
            return b""

        def decode(self, data: bytes, event_class: Any, /) -> Any:
            return event_class(**ADA)

    codec: EventCodec = Opaque()
    assert decode_event(codec, f"{TYPE}.v3", b"", AsDataclass) == AsDataclass(**ADA)
    with pytest.raises(EventNotDecodableError, match="Opaque lacks `decode_data` or `convert`"):
        decode_event(codec, f"{TYPE}.v2", b"", AsDataclass)


@pytest.mark.parametrize("codec", [MsgspecCodec(), PydanticCodec()])
def test_the_codecs_of_the_library_read_plain_data_and_describe_payloads(codec: Any):
    assert isinstance(codec, PlainDataCodec)
    assert isinstance(codec, SchemaCodec)


class PlainCallable:
    def __init__(self, *, asynchronous: bool) -> None:
        if asynchronous:
            self.__class__ = AsyncCallable

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return data


class AsyncCallable(PlainCallable):
    async def __call__(self, data: dict[str, Any]) -> Any:
        return data


@pytest.mark.parametrize(
    ("upcasters", "version", "text"),
    [
        ({}, 1, ""),
        ({}, 3, ""),
        ({1: add_floor, 2: add_floor}, 3, ""),
        ({2: add_floor}, 3, ""),
        ({1: PlainCallable(asynchronous=False)}, 2, ""),
        ({1: staticmethod(add_floor)}, 2, ""),
        ({1: dict}, 2, ""),
        ({1: add_floor}, 3, "has no upcaster from version 2"),
        ({1: add_floor, 4: add_floor}, 6, "has no upcaster from version 2, 3, 5"),
        ({3: add_floor}, 3, "from version 3, but is itself version 3"),
        ({4: add_floor}, 3, "from version 4, but is itself version 3"),
        ({0: add_floor}, 3, "version 0, which is no version"),
        ({"1": add_floor}, 3, "version '1', which is no version"),
        ({True: add_floor}, 3, "version True, which is no version"),
        ({1: "add_floor"}, 2, "from version 1 that is not callable"),
        ({1: is_async}, 2, "from version 1 that is async"),
        ({1: PlainCallable(asynchronous=True)}, 2, "from version 1 that is async"),
        ({1: takes_nothing}, 2, "does not take one argument"),
        ([add_floor], 2, "has upcasters that are of type list"),
    ],
)
def test_upcasters_that_cannot_work_are_refused_with_the_reason(upcasters: Any, version: int, text: str):
    cls = declared(upcasters, version)
    problem = upcaster_problem(cls)
    assert text in problem
    assert bool(text) == bool(problem)
    if text:
        with pytest.raises(DeclarationError, match="Declared .*Declare a plain function for each older version"):
            readable_types([cls])


def test_a_class_reads_its_own_type_and_the_versions_it_upcasts_unless_a_class_declares_the_version():
    second, third = declared({1: add_floor}, 2), declared({1: add_floor, 2: add_floor}, 3)
    assert upcast_types(third) == [f"{TYPE}.v1", f"{TYPE}.v2"]
    assert readable_types([third]) == dict.fromkeys([f"{TYPE}.v1", f"{TYPE}.v2", f"{TYPE}.v3"], third)
    for order in ([second, third], [third, second]):
        assert readable_types(order)[f"{TYPE}.v2"] is second
        assert readable_types(order)[f"{TYPE}.v3"] is third
