"""Frozen samples of classes that forbid unknown fields: both sides can read each other's events after a passed check."""

import tempfile
import warnings
from pathlib import Path
from typing import Any, ClassVar

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

TYPE = "freezing.strict"

Fields = dict[str, tuple[Any, ...]]
"""The type of each field, and its default if it has one."""


def struct(fields: Fields, *, forbids: bool, name: str = "Struct") -> Any:
    return msgspec.defstruct(
        name,
        [(name, *rest) for name, rest in fields.items()],
        bases=(msgspec.Struct, DistributedEvent),
        namespace={"event_type": TYPE},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=forbids,
    )


def model(fields: Fields, *, forbids: bool, name: str = "Model", extra: Any = "ignore") -> Any:
    namespace: dict[str, Any] = {
        "__annotations__": {"event_type": ClassVar[str]} | {name: kind for name, (kind, *_) in fields.items()},
        "__module__": __name__,
        "event_type": TYPE,
        "model_config": pydantic.ConfigDict(extra="forbid" if forbids else extra),
    }
    defaults = {name: default[0] for name, (_, *default) in fields.items() if default}
    return type(pydantic.BaseModel)(name, (pydantic.BaseModel, DistributedEvent), namespace | defaults)


KINDS = [pytest.param(struct, MsgspecCodec(), id="struct"), pytest.param(model, PydanticCodec(), id="model")]
every_kind = pytest.mark.parametrize(("made", "codec"), KINDS)

BEFORE: Fields = {"name": (str,)}
GROWN: Fields = {"name": (str,), "seats": (int, 1)}


def fault(before: Any, after: Any, codec: Any) -> str:
    """Return the text of the failed check for a changed class; empty if the check passes."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenSampleWarning)
        freeze_events([before], folder, codec=codec)
        try:
            check_frozen_events([after], folder, codec=codec)
        except FrozenEventsError as error:
            return str(error)
    return ""


@every_kind
def test_an_added_field_fails_if_older_classes_forbid_unknown_fields(made: Any, codec: Any):
    for forbids in (True, False):
        found = fault(made(BEFORE, forbids=True), made(GROWN, forbids=forbids), codec)
        assert "the field `seats` was added, and older classes refuse it as an unknown field" in found


@every_kind
def test_a_removed_field_fails_if_the_current_class_forbids_unknown_fields(made: Any, codec: Any):
    found = fault(made(GROWN, forbids=True), made(BEFORE, forbids=True), codec)
    assert "the field `seats` was removed, but older events still have it, and the class refuses it as unknown" in found
    assert fault(made(GROWN, forbids=True), made(BEFORE, forbids=False), codec) == ""


@every_kind
def test_a_class_that_newly_forbids_unknown_fields_fails(made: Any, codec: Any):
    found = fault(made(BEFORE, forbids=False), made(BEFORE, forbids=True), codec)
    assert "the payload forbids unknown fields from now on, and other producers may still send such fields" in found


@every_kind
def test_a_class_that_no_longer_forbids_unknown_fields_passes_with_a_warning(made: Any, codec: Any, tmp_path: Path):
    freeze_events([made(BEFORE, forbids=True)], tmp_path, codec=codec)
    with pytest.warns(FrozenSampleWarning, match="the payload no longer forbids unknown fields"):
        check_frozen_events([made(BEFORE, forbids=False)], tmp_path, codec=codec)


@every_kind
def test_a_class_that_still_forbids_unknown_fields_passes_without_a_warning(made: Any, codec: Any, tmp_path: Path):
    freeze_events([made(GROWN, forbids=True)], tmp_path, codec=codec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_frozen_events([made(GROWN, forbids=True)], tmp_path, codec=codec)


@every_kind
def test_a_prohibition_inside_a_nested_class_is_found(made: Any, codec: Any):
    def rows(inner: Any) -> Any:
        return made({"rows": (list[inner],)}, forbids=False, name="Outer")

    strict, open_ = made(BEFORE, forbids=True), made(BEFORE, forbids=False)
    assert "the field `rows[]` forbids unknown fields from now on" in fault(rows(open_), rows(strict), codec)
    grown = made(GROWN, forbids=True)
    assert "the field `rows[].seats` was added, and older classes refuse it" in fault(rows(strict), rows(grown), codec)


def test_the_sample_of_a_class_that_ignores_unknown_fields_does_not_mention_them():
    """The existing samples of such classes stay unchanged."""
    assert "additionalProperties" not in str(MsgspecCodec().schema(struct(BEFORE, forbids=False)))


def test_a_sample_without_a_prohibition_means_that_its_class_ignores_unknown_fields(tmp_path: Path):
    strict = struct(BEFORE, forbids=True)
    (file,) = freeze_events([strict], tmp_path)
    silent = file.read_text().replace(',\n        "additionalProperties": false', "")
    assert silent != file.read_text()
    file.write_text(silent)
    with pytest.raises(FrozenEventsError, match="forbids unknown fields from now on") as caught:
        check_frozen_events([strict], tmp_path)
    assert "--force" in str(caught.value)
    freeze_events([strict], tmp_path, force=True)
    check_frozen_events([strict], tmp_path)


def test_a_model_that_keeps_unknown_fields_fails_if_older_ones_forbid_them():
    strict, keeping = model(BEFORE, forbids=True), model(BEFORE, forbids=False, extra="allow")
    assert "the payload may now have unknown fields, and older classes refuse them" in fault(
        strict, keeping, PydanticCodec()
    )
    with pytest.raises(ValueError, match="extra_forbidden"):
        PydanticCodec().decode(PydanticCodec().encode(keeping(name="Ada", seats=2)), strict)


def test_a_model_may_start_or_stop_keeping_unknown_fields_that_were_ignored():
    ignoring, keeping = model(BEFORE, forbids=False), model(BEFORE, forbids=False, extra="allow")
    assert fault(ignoring, keeping, PydanticCodec()) == fault(keeping, ignoring, PydanticCodec()) == ""


def test_a_model_that_keeps_unknown_fields_of_one_type_refuses_other_types():
    class Keeping(pydantic.BaseModel, DistributedEvent, extra="allow"):
        event_type: ClassVar[str] = TYPE
        __pydantic_extra__: dict[str, int]
        name: str

    class Texts(pydantic.BaseModel, DistributedEvent, extra="allow"):
        event_type: ClassVar[str] = TYPE
        __pydantic_extra__: dict[str, str]
        name: str

    class Grown(Keeping):
        note: str = ""

    class Counted(Keeping):
        seats: int = 1

    assert "the field `note` was added, and older classes refuse it" in fault(Keeping, Grown, PydanticCodec())
    assert fault(Keeping, Counted, PydanticCodec()) == ""
    assert "was integer, and is now string" in fault(Keeping, Texts, PydanticCodec())


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "age": st.sampled_from([(int,), (int, 1)]),
        "name": st.sampled_from([(str,), (str, "")]),
        "rows": st.sampled_from([(list[int],), (list[int], [])]),
    },
).filter(bool)
SENT = {"age": 7, "name": "Ada", "rows": [1]}


@every_kind
@given(before=st.tuples(FIELDS, st.booleans()), after=st.tuples(FIELDS, st.booleans()))
def test_both_sides_can_read_each_others_events_after_a_passed_check(
    made: Any, codec: Any, before: tuple[Fields, bool], after: tuple[Fields, bool]
):
    old, new = (made(fields, forbids=forbids) for fields, forbids in (before, after))
    if fault(old, new, codec):
        return
    for sender, reader, (fields, _) in ((old, new, before), (new, old, after)):
        sent = sender(**{name: SENT[name] for name in fields})
        assert isinstance(codec.decode(codec.encode(sent), reader), reader)
