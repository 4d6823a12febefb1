"""Change: what differs between two schemas of one payload, and whether both sides can live with it.

A class reads what older producers sent, and what it sends is read by older classes. So a change is compatible when each
side finds all it needs, and nothing that it refuses: fields with defaults may come and go, except where a class forbids
unknown ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mediator.testing.payload_alternative import paired
from mediator.testing.payload_meaning import Meanings, meanings
from mediator.testing.payload_schema import ALTERNATIVES, CONTAINED, Schema, is_schema, resolved, said, spelled


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        text: What was changed.
        compatible: Whether older events can be read, and newer ones by older classes.
    """

    text: str
    compatible: bool


def changes(old: Schema, new: Schema) -> list[Change]:
    """What has changed from one JSON schema to another, in the order of the old one's fields."""
    return list(dict.fromkeys(_Comparison(old, new).of(old, new, "")))


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new
        self._before, self._after = meanings(old, new)
        self._seen: set[tuple[str, str]] = set()

    def of(self, old: Schema, new: Schema, place: str) -> Iterator[Change]:
        refs = (str(old.get("$ref", "")), str(new.get("$ref", "")))
        if all(refs):
            if refs in self._seen:
                return
            self._seen.add(refs)
        old, new = resolved(old, self._old), resolved(new, self._new)
        if _shape(old, self._before) != _shape(new, self._after):
            text = f"{_named(place)} was {spelled(old, self._old)}, and is {spelled(new, self._new)}"
            yield Change(text, compatible=False)
            return
        if "properties" in old:
            yield from self._fields(old, new, place)
        for before, after, where in self._parts(old, new, place):
            yield from self.of(before, after, where)

    def _fields(self, old: Schema, new: Schema, place: str) -> Iterator[Change]:
        yield from _strictness(old, new, place)
        yield from self._gone_and_come(old, new, place)
        needed, needs = set(old.get("required", ())), set(new.get("required", ()))
        for name, inner in old["properties"].items():
            if name not in new["properties"]:
                continue
            field = _join(place, name)
            if name in needs - needed:
                yield Change(f"{_named(field)} has lost its default, and older events may lack it", compatible=False)
            elif name in needed - needs:
                yield Change(f"{_named(field)} has got a default", compatible=True)
            yield from self.of(inner, new["properties"][name], field)

    def _gone_and_come(self, old: Schema, new: Schema, place: str) -> Iterator[Change]:
        come = {name: inner for name, inner in new["properties"].items() if name not in old["properties"]}
        for name, inner in old["properties"].items():
            if name in new["properties"]:
                continue
            field, meaning = _named(_join(place, name)), self._before.of(inner)
            other = next((each for each in come if self._after.of(come[each]) == meaning), None)
            if other is not None:
                del come[other]
                yield Change(f"{field} was renamed to `{_join(place, other)}`", compatible=False)
            else:
                refused = _refuses(new, meaning, self._after)
                yield _gone(field, needed=name in old.get("required", ()), refused=refused)
        for name, inner in come.items():
            refused = _refuses(old, self._after.of(inner), self._before)
            yield _come(_named(_join(place, name)), needed=name in new.get("required", ()), refused=refused)

    def _parts(self, old: Schema, new: Schema, place: str) -> Iterator[tuple[Schema, Schema, str]]:
        for key in ("items", "additionalProperties"):
            if is_schema(old.get(key)):
                yield old[key], new[key], f"{place}[]"
        for item, other in zip(old.get("prefixItems", ()), new.get("prefixItems", ()), strict=True):
            yield item, other, place
        for key in ALTERNATIVES:
            for option, other in paired(old.get(key, ()), self._before, new.get(key, ()), self._after):
                yield option, other, place


def _gone(field: str, *, needed: bool, refused: bool) -> Change:
    if needed:
        return Change(f"{field} was removed, and classes that read it have no default for it", compatible=False)
    if refused:
        text = f"{field} was removed, and the class refuses it as an unknown field in older events"
        return Change(text, compatible=False)
    return Change(f"{field}, which has a default, was removed", compatible=True)


def _come(field: str, *, needed: bool, refused: bool) -> Change:
    if needed:
        return Change(f"{field} was added without a default, and older events lack it", compatible=False)
    if refused:
        return Change(f"{field} was added, and older classes refuse it as an unknown field", compatible=False)
    return Change(f"{field} was added, with a default", compatible=True)


def _strictness(old: Schema, new: Schema, place: str) -> Iterator[Change]:
    """What has become of the prohibition of unknown fields.

    That a class forbids them from now on breaks nothing between these two classes. But the old one let fields come and go
    without a new version, and events with such fields may be under way, from before and from others.
    """
    forbade, forbids = (each.get("additionalProperties") is False for each in (old, new))
    if forbids and not forbade:
        text = f"{_named(place)} forbids unknown fields from now on, and events of others may have such"
        yield Change(text, compatible=False)
    elif forbade and not forbids and "additionalProperties" in new:
        yield Change(f"{_named(place)} may have unknown fields, and older classes refuse them", compatible=False)
    elif forbade and not forbids:
        yield Change(f"{_named(place)} no longer forbids unknown fields", compatible=True)


def _refuses(schema: Schema, meaning: str, known: Meanings) -> bool:
    """Whether a class refuses a field that it does not know, for any such, or for its type."""
    others = schema.get("additionalProperties", True)
    return others is False or (is_schema(others) and known.of(others) != meaning)


def _shape(schema: Schema, known: Meanings) -> dict[str, Any]:
    """What a schema says itself; of what it contains only how much there is of it."""
    keywords = said(schema)
    if "properties" in schema:  # whether such a class forbids unknown fields is compared by itself
        keywords = {key: value for key, value in keywords.items() if value is not False}
    return {key: _outline(key, value, known) for key, value in keywords.items() if key != "required"}


def _outline(key: str, value: Any, known: Meanings) -> Any:
    if key in (*ALTERNATIVES, "prefixItems"):
        return len(value)
    if key in CONTAINED and is_schema(value):
        return "contained"
    return known.of({key: value})


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _named(place: str) -> str:
    return f"the field `{place}`" if place else "the payload"
