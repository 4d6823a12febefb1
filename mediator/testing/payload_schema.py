"""Change: what differs between two schemas of one payload, and whether both sides can live with it.

A class reads what older producers sent, and what it sends is read by older classes. So a change is compatible when each
side finds all it needs: fields with defaults may come, and such may go.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

Schema = Mapping[str, Any]

_REMARKS = frozenset(
    {"$defs", "default", "deprecated", "description", "discriminator", "examples", "readOnly", "title", "writeOnly"}
)
"""Keywords that say nothing about what is read."""
_LISTS = ("anyOf", "oneOf", "prefixItems")
_CONTAINED = frozenset({"additionalProperties", "items", "properties", "required", *_LISTS})


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
        self._seen: set[tuple[str, str]] = set()

    def of(self, old: Schema, new: Schema, place: str) -> Iterator[Change]:
        refs = (str(old.get("$ref", "")), str(new.get("$ref", "")))
        if all(refs):
            if refs in self._seen:
                return
            self._seen.add(refs)
        old, new = resolved(old, self._old), resolved(new, self._new)
        if not self._alike(old, new):
            text = f"{_named(place)} was {spelled(old, self._old)}, and is {spelled(new, self._new)}"
            yield Change(text, compatible=False)
        elif "properties" in old:
            yield from self._fields(old, new, place)
        else:
            for before, after, where in _parts(old, new, place):
                yield from self.of(before, after, where)

    def _alike(self, old: Schema, new: Schema) -> bool:
        """Whether two schemas differ in nothing but what is contained in them."""
        before, after = ([part for *_, part in _shape(each)] for each in (old, new))
        return before == after

    def _fields(self, old: Schema, new: Schema, place: str) -> Iterator[Change]:
        before: Mapping[str, Schema] = old["properties"]
        after: Mapping[str, Schema] = new["properties"]
        needed, needs = set(old.get("required", ())), set(new.get("required", ()))
        yield from self._gone_and_come(before, after, needed, needs, place)
        for name, inner in before.items():
            if name not in after:
                continue
            field = _join(place, name)
            if name in needs - needed:
                yield Change(f"{_named(field)} has lost its default, and older events may lack it", compatible=False)
            elif name in needed - needs:
                yield Change(f"{_named(field)} has got a default", compatible=True)
            yield from self.of(inner, after[name], field)

    def _gone_and_come(
        self, before: Mapping[str, Schema], after: Mapping[str, Schema], needed: set[str], needs: set[str], place: str
    ) -> Iterator[Change]:
        come = [name for name in after if name not in before]
        for name in (each for each in before if each not in after):
            field = _named(_join(place, name))
            other = next((each for each in come if self._same(before[name], after[each])), None)
            if other is not None:
                come.remove(other)
                yield Change(f"{field} was renamed to `{_join(place, other)}`", compatible=False)
            elif name in needed:
                yield Change(f"{field} was removed, and classes that read it have no default for it", compatible=False)
            else:
                yield Change(f"{field}, which has a default, was removed", compatible=True)
        for name in come:
            field = _named(_join(place, name))
            if name in needs:
                yield Change(f"{field} was added without a default, and older events lack it", compatible=False)
            else:
                yield Change(f"{field} was added, with a default", compatible=True)

    def _same(self, old: Schema, new: Schema) -> bool:
        return _canonical(old, self._old, ()) == _canonical(new, self._new, ())


def is_schema(value: Any) -> TypeGuard[Schema]:
    """Whether a keyword holds a schema or several; it may also hold a truth value."""
    return isinstance(value, Mapping)


def resolved(schema: Schema, root: Schema) -> Schema:
    """What a schema says, where it only names a definition of the whole one."""
    while True:
        if "$ref" in schema:
            schema = root.get("$defs", {}).get(definition(schema), {})
        elif len(schema.get("allOf", ())) == 1:
            schema = schema["allOf"][0]
        else:
            return schema


def definition(schema: Schema) -> str:
    """The name of the definition that a schema refers to; empty when it refers to none."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def spelled(schema: Schema, root: Schema) -> str:
    """A schema in a few words."""
    name = definition(schema).rpartition(".")[2]
    schema = resolved(schema, root)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(spelled(option, root) for option in options)
    if "enum" in schema:
        return f"one of {', '.join(map(repr, schema['enum']))}"
    if "properties" in schema:
        return f"an object {name or schema.get('title', '')}".strip()
    limits = [
        f"{key} {value}" for key, value in schema.items() if key not in _REMARKS | _CONTAINED | {"type", "format"}
    ]
    inner: Any = schema.get("items", schema.get("additionalProperties"))
    of = f" of {spelled(inner, root)}" if is_schema(inner) else ""
    kind = schema.get("format") or schema.get("type") or "anything"
    return f"{kind}{of}{f' ({json.dumps(limits)[1:-1]})' if limits else ''}"


def _shape(schema: Schema) -> Iterator[tuple[str, Any]]:
    """The keywords of a schema itself, in order; of what it contains only how much there is of it."""
    for key in sorted(schema.keys() - _REMARKS - {"required"}):
        value = schema[key]
        if key in _LISTS:
            yield key, (key, len(value))
        elif key in _CONTAINED and is_schema(value):
            yield key, (key, "contained")
        else:
            yield key, (key, json.dumps(value, sort_keys=True))


def _parts(old: Schema, new: Schema, place: str) -> Iterator[tuple[Schema, Schema, str]]:
    for key in ("items", "additionalProperties"):
        if is_schema(old.get(key)):
            yield old[key], new[key], f"{place}[]"
    for key in _LISTS:
        for option, other in zip(old.get(key, ()), new.get(key, ()), strict=True):
            yield option, other, place


def _canonical(schema: Schema, root: Schema, above: tuple[str, ...]) -> str:
    """A text that two schemas share when they mean the same."""
    name = definition(schema)
    if name in above:
        return f"above {len(above) - above.index(name)}"
    if name:
        above = (*above, name)
    parts = {key: value for key, value in resolved(schema, root).items() if key not in _REMARKS}
    for key, value in parts.items():
        if key == "properties":
            parts[key] = {field: _canonical(inner, root, above) for field, inner in value.items()}
        elif key in _LISTS:
            parts[key] = [_canonical(inner, root, above) for inner in value]
        elif key in _CONTAINED and is_schema(value):
            parts[key] = _canonical(value, root, above)
    return json.dumps(parts, sort_keys=True)


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _named(place: str) -> str:
    return f"the field `{place}`" if place else "the payload"
