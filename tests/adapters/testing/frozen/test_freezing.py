"""Frozen samples: a test fails when an event changes incompatibly with other applications."""

import enum
import json
import uuid
import warnings
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from dependency_injector import containers, providers

from mediator import DistributedEvent, DistributedEventHandler
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.errors import DeclarationError, FrozenEventsError, MisuseError
from mediator.msgspec import MsgspecCodec
from mediator.pydantic import PydanticCodec
from mediator.testing import (
    FrozenSampleWarning,
    InMemoryDatabase,
    InMemoryUnitOfWork,
    check_frozen_events,
    freeze_events,
)

TYPE = "freezing.ordered"

T = TypeVar("T")


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, slots=True)
class Line:
    article: str
    parts: "list[Line]" = field(default_factory=list["Line"])


@dataclass(frozen=True, slots=True)
class Ordered(DistributedEvent):
    event_type: ClassVar[str] = TYPE
    id: uuid.UUID
    size: Size
    price: Decimal
    at: datetime
    zoned: Annotated[datetime, msgspec.Meta(tz=True)]
    on: date
    daily: time
    takes: timedelta
    lines: list[Line]
    first: Line | None
    counts: dict[int, float]
    pair: tuple[int, str]
    tags: set[str]
    way: Literal["air", "sea"]
    code: Annotated[str, msgspec.Meta(min_length=9)]
    seats: Annotated[int, msgspec.Meta(gt=4, multiple_of=2)]
    anything: Any
    urgent: bool
    picture: bytes = b""


@attrs.frozen
class AttrsOrdered(DistributedEvent):
    event_type: ClassVar[str] = TYPE
    id: uuid.UUID
    at: datetime
    size: Size = Size.SMALL


class StructOrdered(msgspec.Struct, DistributedEvent, frozen=True):
    event_type: ClassVar[str] = TYPE
    id: uuid.UUID
    at: datetime
    size: Size = Size.SMALL


class ModelOrdered(pydantic.BaseModel, DistributedEvent):
    event_type: ClassVar[str] = TYPE
    id: uuid.UUID
    at: datetime
    price: Decimal
    lines: list[Line]
    size: Size = Size.SMALL


@dataclass(frozen=True)
class Box(Generic[T]):
    value: T


def event(*fields: Any, version: int = 1, upcasters: Any = None, slots: bool = True) -> Any:
    """Return an event class with these fields: `("name", type)` or `("name", type, default)`."""
    namespace = {"event_type": TYPE, "event_version": version, "upcasters": upcasters or {}}
    return make_dataclass(
        f"OrderedV{version}",
        [
            (name, kind, *(field(default=value) for value in default))
            for name, kind, *default in (each if isinstance(each, tuple) else (each, str) for each in fields)
        ],
        bases=(DistributedEvent,),
        namespace=namespace,
        frozen=True,
        slots=slots,
    )


def problems(classes: Any, folder: Any, **options: Any) -> str:
    with pytest.raises(FrozenEventsError) as caught:
        check_frozen_events(classes, folder, **options)
    assert isinstance(caught.value, AssertionError)
    return str(caught.value)


CODECS = [
    (MsgspecCodec(), Ordered),
    (MsgspecCodec(), AttrsOrdered),
    (MsgspecCodec(), StructOrdered),
    (PydanticCodec(), ModelOrdered),
]


@pytest.mark.parametrize(("codec", "cls"), CODECS, ids=lambda each: getattr(each, "__name__", type(each).__name__))
def test_a_sample_of_a_class_is_deterministic_and_can_be_decoded(codec: Any, cls: Any, tmp_path: Any):
    (file,) = freeze_events([cls], tmp_path, codec=codec)
    text = file.read_text()
    frozen = json.loads(text)

    assert file.name == f"{TYPE}.v1.json"
    assert (frozen["type"], frozen["version"]) == (TYPE, 1)
    assert isinstance(codec.convert(frozen["sample"], cls), cls)
    assert set(frozen["sample"]) == {name for name in cls.__annotations__ if not name.startswith("event_")}
    check_frozen_events([cls], tmp_path, codec=codec)
    assert freeze_events([cls], tmp_path, codec=codec, force=True) == [file]
    assert file.read_text() == text


def test_an_existing_sample_is_kept_unless_forced(tmp_path: Any):
    (file,) = freeze_events([event("name")], tmp_path)
    file.write_text(before := file.read_text().replace('"name": "name"', '"name": "Ada"'))

    assert freeze_events([event("name")], tmp_path) == []
    assert file.read_text() == before
    assert freeze_events([event("name")], tmp_path, force=True) == [file]
    assert file.read_text() != before


def test_an_event_may_be_its_own_sample(tmp_path: Any):
    (file,) = freeze_events([AttrsOrdered(uuid.UUID(int=7), datetime(2024, 5, 6, tzinfo=UTC))], tmp_path)
    assert json.loads(file.read_text())["sample"]["at"] == "2024-05-06T00:00:00Z"
    check_frozen_events([AttrsOrdered], tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (["a", "b"], ["a"], "the field `b` was removed, but older classes have no default for it"),
        (["a"], ["a", ("b", int)], "the field `b` was added without a default, and older events lack it"),
        (["a"], [("a", int)], "the field `a` was string, and is now integer"),
        (["a"], [("a", str | None)], "the field `a` was string, and is now string or null"),
        (["a"], [("a", datetime)], "the field `a` was string, and is now date-time"),
        ([("a", datetime)], ["a"], "the field `a` was date-time, and is now string"),
        ([("a", int)], [("a", float)], "the field `a` was integer, and is now number"),
        (
            [("a", datetime)],
            [("a", Annotated[datetime, msgspec.Meta(tz=True)])],
            'the field `a` was date-time, and is now date-time ("x-timezone True")',
        ),
        ([("a", list[int])], [("a", list[str])], "the field `a[]` was integer, and is now string"),
        ([("a", tuple[int, str])], [("a", tuple[int, int])], "the field `a` was string, and is now integer"),
        ([("a", Literal["x"])], [("a", Literal["x", "y"])], "the field `a` was one of 'x', and is now one of 'x', 'y'"),
        (["a", "b"], ["a", "c"], "the field `b` was renamed to `c`"),
        (["a", ("b", str, "")], ["a", ("c", str, "")], "the field `b` was renamed to `c`"),
        (["a", ("b", str, "")], ["a", "b"], "the field `b` has lost its default, and older events may lack the field"),
        (
            [("a", Annotated[int, msgspec.Meta(ge=1)])],
            [("a", Annotated[int, msgspec.Meta(ge=2)])],
            'the field `a` was integer ("minimum 1"), and is now integer ("minimum 2")',
        ),
    ],
)
def test_an_incompatible_change_fails_and_names_the_change_and_the_remedy(
    before: Any, after: Any, text: str, tmp_path: Any
):
    freeze_events([event(*before)], tmp_path)
    found = problems([event(*after)], tmp_path)
    assert f"{TYPE}.v1 (OrderedV1): has changed incompatibly" in found
    assert text in found
    assert "set event_version to 2, write an upcaster `upcasters = {1: ...}`" in found


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (["a"], ["a", ("b", int, 0)], "the field `b` was added, with a default"),
        (["a", ("b", int, 0)], ["a"], "the field `b`, which has a default, was removed"),
        (["a", "b"], ["a", ("b", str, "")], "the field `b` now has a default"),
    ],
)
def test_a_compatible_change_passes_and_the_report_recommends_to_refresh_the_sample(
    before: Any, after: Any, text: str, tmp_path: Any
):
    freeze_events([event(*before)], tmp_path)
    changed = event(*after)
    with pytest.warns(FrozenSampleWarning, match="can be refreshed") as caught:
        check_frozen_events([changed], tmp_path)
    assert text in str(caught[0].message)
    freeze_events([changed], tmp_path, force=True)
    check_frozen_events([changed], tmp_path)


def test_changes_inside_nested_classes_are_found(tmp_path: Any):
    before = make_dataclass("Inner", [("a", str)])
    grown = make_dataclass("Inner", [("a", str), ("b", int, 0)])
    broken = make_dataclass("Inner", [("a", str), ("b", int)])
    freeze_events([event(("rows", list[before]))], tmp_path)
    with pytest.warns(FrozenSampleWarning, match=r"`rows\[\].b` was added, with a default"):
        check_frozen_events([event(("rows", list[grown]))], tmp_path)
    assert "`rows[].b` was added without a default" in problems([event(("rows", list[broken]))], tmp_path)


def test_classes_with_the_same_name_are_distinguished(tmp_path: Any):
    street = make_dataclass("Address", [("street", str)])
    account, changed = (make_dataclass("Address", [("number", kind, kind())]) for kind in (int, str))
    freeze_events([event(("to", street), ("bill", account))], tmp_path)
    found = problems([event(("to", street), ("bill", changed))], tmp_path)
    assert "the field `bill.number` was integer, and is now string" in found
    assert "`to" not in found


def test_the_first_of_several_classes_with_the_same_name_keeps_it():
    first, third = make_dataclass("Address", [("a", str)]), make_dataclass("Address", [("c", str)])
    second = msgspec.defstruct("Address", [("b", str)], forbid_unknown_fields=True)
    schema = MsgspecCodec().schema(event(("a", first), ("b", second), ("c", list[third]), ("d", second), ("e", first)))
    definitions = schema["$defs"]
    fields = {name: str(kind) for name, kind in definitions["OrderedV1"]["properties"].items()}

    assert list(definitions) == ["Address", "Address-2", "Address-3", "OrderedV1"]
    assert [list(each["properties"]) for each in definitions.values()][:3] == [["a"], ["b"], ["c"]]
    assert ["additionalProperties" in each for each in definitions.values()] == [False, True, False, False]
    assert "Address-3'" in fields["c"]
    assert fields["b"] == fields["d"] == str({"$ref": "#/$defs/Address-2"})
    assert fields["a"] == fields["e"] == str({"$ref": "#/$defs/Address"})


def test_a_generic_class_is_distinguished_by_its_type_arguments(tmp_path: Any):
    freeze_events([event(("a", Box[int]), ("b", Box[Box[int]]))], tmp_path)
    check_frozen_events([event(("a", Box[int]), ("b", Box[Box[int]]))], tmp_path)
    found = problems([event(("a", Box[int]), ("b", Box[Box[str]]))], tmp_path)
    assert "the field `b.value.value` was integer, and is now string" in found


def test_another_order_of_classes_with_the_same_name_is_no_change(tmp_path: Any):
    street, account = (make_dataclass("Address", [(name, str)]) for name in ("street", "account"))
    freeze_events([event(("to", street), ("bill", account))], tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_frozen_events([event(("bill", account), ("to", street))], tmp_path)


def test_a_struct_that_is_written_as_an_array_may_neither_get_nor_lose_a_field(tmp_path: Any):
    """Defaults do not help: a field in the middle would be read as another one."""
    small = msgspec.defstruct("Row", [("a", int), ("c", int, 7)], array_like=True)
    grown = msgspec.defstruct("Row", [("a", int), ("b", int, 0), ("c", int, 7)], array_like=True)
    assert msgspec.json.decode(msgspec.json.encode(grown(1, 5, 9)), type=small) == small(1, 5)
    for before, after in ((small, grown), (grown, small)):
        freeze_events([event(("rows", list[before]))], tmp_path, force=True)
        assert "the field `rows[]` was array" in problems([event(("rows", list[after]))], tmp_path)


def test_a_docstring_a_default_or_another_name_of_the_class_is_no_change(tmp_path: Any):
    freeze_events([event("a", ("b", int, 0))], tmp_path)
    changed = event("a", ("b", int, 7))
    changed.__doc__, changed.__name__, changed.__qualname__ = "What it is.", "Renamed", "Renamed"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_frozen_events([changed], tmp_path)


def test_a_constraint_missing_from_the_schema_is_found_by_the_sample(tmp_path: Any):
    freeze_events([event("a")], tmp_path)

    @dataclass(frozen=True)
    class Picky(DistributedEvent):
        event_type: ClassVar[str] = TYPE
        a: str

        def __post_init__(self) -> None:
            raise ValueError(self.a)

    assert "the sample is refused" in problems([Picky], tmp_path)


def test_an_event_without_a_sample_is_reported(tmp_path: Any):
    found = problems([event("a")], tmp_path)
    assert f"{TYPE}.v1 (OrderedV1): is not frozen yet. Freeze it: `mediator events freeze MODULE:NAME" in found


def lift(data: dict[str, Any]) -> dict[str, Any]:
    return {"first": data["name"], "last": ""}


def test_the_sample_of_an_older_version_must_be_read_through_the_upcasters(tmp_path: Any):
    freeze_events([event("name")], tmp_path)
    second = event("first", "last", version=2, upcasters={1: lift})
    freeze_events([second], tmp_path)
    check_frozen_events([second], tmp_path)
    check_frozen_events([second, event("name")], tmp_path)

    wrong = event("first", "last", version=2, upcasters={1: lambda data: data})
    found = problems([wrong], tmp_path)
    assert f"{TYPE}.v1 (OrderedV2): can no longer be read: its sample cannot be upcast from version 1 to 2" in found
    raising = event("first", "last", version=2, upcasters={1: lambda data: data["nothing"]})
    assert "its upcaster from version 1 to 2 raised KeyError" in problems([raising], tmp_path)
    without = event("first", "last", version=2)
    assert "Write an upcaster from version 1 into OrderedV2, or delete the file" in problems([without], tmp_path)


def test_a_sample_without_a_class_is_found(tmp_path: Any):
    freeze_events([event("name")], tmp_path)
    assert "no class reads it. Bring its class back, or delete the file" in problems([], tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"type": "freezing.ordered"}', "null"])
def test_a_file_that_is_not_a_sample_is_found(text: str, tmp_path: Any):
    (tmp_path / f"{TYPE}.v1.json").write_text(text)
    assert f"{TYPE}.v1.json: cannot be read" in problems([event("name")], tmp_path)


def test_a_file_under_the_name_of_another_event_is_found(tmp_path: Any):
    (file,) = freeze_events([event("name")], tmp_path)
    file.rename(tmp_path / "freezing.other.v1.json")
    assert f"its name does not match its event, {TYPE}.v1" in problems([event("name")], tmp_path)


class Strict(pydantic.BaseModel, DistributedEvent):
    model_config = pydantic.ConfigDict(extra="forbid")
    event_type: ClassVar[str] = TYPE
    name: str


class Lenient(pydantic.BaseModel, DistributedEvent):
    event_type: ClassVar[str] = TYPE
    name: str


def test_a_model_that_newly_refuses_unknown_fields_is_found(tmp_path: Any):
    freeze_events([Lenient], tmp_path, codec=PydanticCodec())
    assert "has changed incompatibly" in problems([Strict], tmp_path, codec=PydanticCodec())


@pytest.mark.parametrize(
    ("cls", "codec", "text"),
    [
        (event(("a", "Missing")), MsgspecCodec(), "Missing"),
        (event(("a", complex)), MsgspecCodec(), "complex"),
        (event(("a", Annotated[str, msgspec.Meta(pattern="^[0-9]+$")])), MsgspecCodec(), "no sample of it can be made"),
        (event("a"), object(), "its codec, object, lacks `decode_data`, `convert` or `schema`"),
        (StructOrdered, PydanticCodec(), "StructOrdered"),
    ],
)
def test_an_event_that_cannot_be_frozen_is_refused_with_the_reason(cls: Any, codec: Any, text: str, tmp_path: Any):
    with pytest.raises(DeclarationError, match="cannot be frozen") as caught:
        freeze_events([cls], tmp_path, codec=codec)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_is_not_an_event_class_is_refused(tmp_path: Any):
    with pytest.raises(MisuseError, match="is not a DistributedEvent"):
        freeze_events([Line("a")], tmp_path)


class Handle(DistributedEventHandler[ModelOrdered]):
    async def handle(self, event: ModelOrdered) -> None: ...


class Container(containers.DeclarativeContainer):
    database = providers.Singleton(InMemoryDatabase)
    codec = providers.Singleton(PydanticCodec)
    unit_of_work = Scoped(InMemoryUnitOfWork, database, codec=codec)
    mediator = MediatorProvider()
    handle = providers.Factory(Handle)


def test_a_container_is_checked_with_the_codec_of_its_unit_of_work(tmp_path: Any, monkeypatch: Any):
    monkeypatch.setattr(Handle, "__module__", "freezing.handlers")
    (file,) = freeze_events(Container(), tmp_path)
    assert json.loads(file.read_text())["schema"] == PydanticCodec().schema(ModelOrdered)
    check_frozen_events(Container(), tmp_path)
