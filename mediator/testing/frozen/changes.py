"""Change: one difference between two schemas of a payload, and whether the difference is compatible.

A change is compatible if the new class can read old events, and the old class can read new events. Fields with
defaults may therefore be added and removed, unless a class forbids unknown fields.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

Schema = Mapping[str, Any]

REMARKS = frozenset(
    {"$defs", "default", "deprecated", "description", "discriminator", "examples", "readOnly", "title", "writeOnly"}
)
"""Keywords that do not affect which payloads a class can read."""
ALTERNATIVES = ("anyOf", "oneOf")
CONTAINED = frozenset({"additionalProperties", "items", "prefixItems", "properties", "required", *ALTERNATIVES})
"""Keywords about the schemas inside a schema."""


def is_schema(value: Any) -> TypeGuard[Schema]:
    """Return whether a value is a schema. The value of `additionalProperties`, for example, may be a boolean instead."""
    return isinstance(value, Mapping)


def followed(schema: Schema, root: Schema) -> tuple[str, Schema]:
    """Follow the references of a schema, and return the name and the schema of the last definition.

    If the schema has no reference, the name is empty. `root` is the whole schema, which contains the definitions.
    """
    name = ""
    while True:
        if "$ref" in schema:
            name = definition(schema)
            schema = root.get("$defs", {}).get(name, {})
        elif len(schema.get("allOf", ())) == 1:
            schema = schema["allOf"][0]
        else:
            return name, schema


def resolved(schema: Schema, root: Schema) -> Schema:
    """Return the schema that `schema` refers to, or `schema` itself if `schema` has no reference."""
    return followed(schema, root)[1]


def definition(schema: Schema) -> str:
    """Return `"Course"` for the schema `{"$ref": "#/$defs/Course"}`, and an empty text for a schema without a reference."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def relevant(schema: Schema) -> dict[str, Any]:
    """Return the keywords that affect which payloads a class can read.

    `additionalProperties: true` is left out, because a schema without this keyword means the same.
    """
    silent = {"additionalProperties"} if schema.get("additionalProperties") is True else set[str]()
    return {key: value for key, value in schema.items() if key not in REMARKS | silent}


def spelled(schema: Schema, root: Schema) -> str:
    """Describe a schema in a few words."""
    name = definition(schema).rpartition(".")[2]
    schema = resolved(schema, root)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(spelled(option, root) for option in options)
    if "enum" in schema:
        return f"one of {', '.join(map(repr, schema['enum']))}"
    if "properties" in schema:
        return f"an object {name or schema.get('title', '')}".strip()
    limits = [f"{key} {value}" for key, value in schema.items() if key not in REMARKS | CONTAINED | {"type", "format"}]
    inner: Any = schema.get("items", schema.get("additionalProperties"))
    of = f" of {spelled(inner, root)}" if is_schema(inner) else ""
    kind = schema.get("format") or schema.get("type") or "anything"
    return f"{kind}{of}{f' ({json.dumps(limits)[1:-1]})' if limits else ''}"


def meanings(*roots: Schema) -> "list[Meanings]":
    """Return one `Meanings` for each root schema. Meanings of schemas in different roots can be compared.

    Classes may contain each other, so a class cannot be expanded completely. Each round of the loop therefore looks one
    level deeper into all classes. The loop has one round for each class. After the last round, classes with equal
    meanings describe the same payloads.
    """
    found = [Meanings(root) for root in roots]
    for _ in range(sum(len(root.get("$defs", ())) for root in roots)):
        for each in found:
            each.look_further()
    return found


class Meanings:
    """The meanings of the schemas inside one root schema. The function `meanings` creates the objects of this class.

    The meaning of a schema is a hash. Schemas that describe the same payloads have the same meaning, whatever the names
    of their classes.
    """

    def __init__(self, root: Schema) -> None:
        self.root = root
        self._known: dict[str, str] = {}

    def of(self, schema: Schema) -> str:
        """Return the meaning of a schema."""
        parts = {key: self._part(key, value) for key, value in relevant(resolved(schema, self.root)).items()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def look_further(self) -> None:
        """Look one level deeper into all classes."""
        self._known = {name: self.of(schema) for name, schema in self.root.get("$defs", {}).items()}

    def _part(self, key: str, value: Any) -> Any:
        if key == "properties":
            return {field: self._inner(inner) for field, inner in value.items()}
        if key in ALTERNATIVES:
            return sorted(map(self._inner, value))
        if key == "prefixItems":
            return [self._inner(inner) for inner in value]
        if key in ("enum", "required"):
            return sorted(json.dumps(each, sort_keys=True) for each in value)
        return self._inner(value) if is_schema(value) else value

    def _inner(self, schema: Schema) -> str:
        """Return the known meaning of the referenced class. Without a reference, return the meaning of the schema itself."""
        name, schema = followed(schema, self.root)
        return self._known.get(name, "") if name else self.of(schema)


_LIKENESSES = 5


def paired(
    old: Sequence[Schema], before: Meanings, new: Sequence[Schema], after: Meanings
) -> Iterator[tuple[Schema, Schema]]:
    """Pair each alternative of an old union with a similar alternative of a new union. Both unions have the same size.

    The most similar pairs are formed first. The result has the order of the old union.
    """
    was, left = [_likeness(each, before) for each in old], {n: _likeness(each, after) for n, each in enumerate(new)}
    found: dict[int, int] = {}
    for level in range(_LIKENESSES):
        for index, likeness in enumerate(was):
            other = next((n for n in left if left[n][level] == likeness[level]), None)
            if index not in found and other is not None:
                found[index] = other
                del left[other]
    return ((option, new[found[index]]) for index, option in enumerate(old))


def _likeness(schema: Schema, known: Meanings) -> Sequence[str]:
    """Return descriptions of one alternative of a union, from exact to vague. The last description fits all alternatives."""
    name, found = followed(schema, known.root)
    kind = f"{found.get('type')} {found.get('format')}"
    tags = f"{kind} {_tags(found, known.root)}"
    return known.of(schema), f"{tags} {name}", tags, kind, ""


def _tags(schema: Schema, root: Schema) -> str:
    """Return the fields that have only one possible value: `{"kind": "card"}`. These fields tell classes apart."""
    tags: dict[str, object] = {}
    for field, inner in schema.get("properties", {}).items():
        found = resolved(inner, root)
        values = [found["const"]] if "const" in found else found.get("enum", ())
        if len(values) == 1:
            tags[field] = values[0]
    return json.dumps(tags, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two schemas.

    Attributes:
        text: The change, in words.
        compatible: Whether the new class can read older events, and older classes can read newer events.
    """

    text: str
    compatible: bool


def changes(old: Schema, new: Schema) -> list[Change]:
    """Return the changes from one JSON schema to another, in the order of the old schema's fields."""
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
            text = f"{_named(place)} was {spelled(old, self._old)}, and is now {spelled(new, self._new)}"
            yield Change(text, compatible=False)
            return
        if "properties" in old:
            yield from self._fields(old, new, place)
        for before, after, where in self._parts(old, new, place):
            yield from self.of(before, after, where)

    def _fields(self, old: Schema, new: Schema, place: str) -> Iterator[Change]:
        yield from _strictness(old, new, place)
        yield from self._removed_and_added(old, new, place)
        needed, needs = set(old.get("required", ())), set(new.get("required", ()))
        for name, inner in old["properties"].items():
            if name not in new["properties"]:
                continue
            field = _join(place, name)
            if name in needs - needed:
                yield Change(
                    f"{_named(field)} has lost its default, and older events may lack the field", compatible=False
                )
            elif name in needed - needs:
                yield Change(f"{_named(field)} now has a default", compatible=True)
            yield from self.of(inner, new["properties"][name], field)

    def _removed_and_added(self, old: Schema, new: Schema, place: str) -> Iterator[Change]:
        added = {name: inner for name, inner in new["properties"].items() if name not in old["properties"]}
        for name, inner in old["properties"].items():
            if name in new["properties"]:
                continue
            field, meaning = _named(_join(place, name)), self._before.of(inner)
            other = next((each for each in added if self._after.of(added[each]) == meaning), None)
            if other is not None:
                del added[other]
                yield Change(f"{field} was renamed to `{_join(place, other)}`", compatible=False)
            else:
                refused = _refuses(new, meaning, self._after)
                yield _removed(field, needed=name in old.get("required", ()), refused=refused)
        for name, inner in added.items():
            refused = _refuses(old, self._after.of(inner), self._before)
            yield _added(_named(_join(place, name)), needed=name in new.get("required", ()), refused=refused)

    def _parts(self, old: Schema, new: Schema, place: str) -> Iterator[tuple[Schema, Schema, str]]:
        for key in ("items", "additionalProperties"):
            if is_schema(old.get(key)):
                yield old[key], new[key], f"{place}[]"
        for item, other in zip(old.get("prefixItems", ()), new.get("prefixItems", ()), strict=True):
            yield item, other, place
        for key in ALTERNATIVES:
            for option, other in paired(old.get(key, ()), self._before, new.get(key, ()), self._after):
                yield option, other, place


def _removed(field: str, *, needed: bool, refused: bool) -> Change:
    if needed:
        return Change(f"{field} was removed, but older classes have no default for it", compatible=False)
    if refused:
        text = f"{field} was removed, but older events still have it, and the class refuses it as unknown"
        return Change(text, compatible=False)
    return Change(f"{field}, which has a default, was removed", compatible=True)


def _added(field: str, *, needed: bool, refused: bool) -> Change:
    if needed:
        return Change(f"{field} was added without a default, and older events lack it", compatible=False)
    if refused:
        return Change(f"{field} was added, and older classes refuse it as an unknown field", compatible=False)
    return Change(f"{field} was added, with a default", compatible=True)


def _strictness(old: Schema, new: Schema, place: str) -> Iterator[Change]:
    """Yield a change if only the new class, or only the old class, forbids unknown fields.

    While unknown fields were allowed, producers could add fields without a new version. A class that begins to forbid
    unknown fields would refuse the events of these producers.
    """
    forbade, forbids = (each.get("additionalProperties") is False for each in (old, new))
    if forbids and not forbade:
        text = f"{_named(place)} forbids unknown fields from now on, and other producers may still send such fields"
        yield Change(text, compatible=False)
    elif forbade and not forbids and "additionalProperties" in new:
        yield Change(f"{_named(place)} may now have unknown fields, and older classes refuse them", compatible=False)
    elif forbade and not forbids:
        yield Change(f"{_named(place)} no longer forbids unknown fields", compatible=True)


def _refuses(schema: Schema, meaning: str, known: Meanings) -> bool:
    """Return whether a class refuses an unknown field of the given meaning. Some classes allow only one meaning."""
    others = schema.get("additionalProperties", True)
    return others is False or (is_schema(others) and known.of(others) != meaning)


def _shape(schema: Schema, known: Meanings) -> dict[str, Any]:
    """Return the keywords of a schema without the schemas inside: `"items": {...}` becomes `"items": "contained"`."""
    keywords = relevant(schema)
    if "properties" in schema:  # without `additionalProperties: false`, which `_strictness` compares
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
