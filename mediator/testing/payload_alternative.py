"""Alternative: one of several schemas of which a payload fits any, in an order that says nothing."""

import json
from collections.abc import Iterator, Sequence

from mediator.testing.payload_meaning import Meanings
from mediator.testing.payload_schema import Schema, followed

_LIKENESSES = 5


def paired(
    old: Sequence[Schema], before: Meanings, new: Sequence[Schema], after: Meanings
) -> Iterator[tuple[Schema, Schema]]:
    """Which alternative has become which, in the order of the old ones; those that are most alike go first.

    There are as many new ones as old ones.
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
    """What two alternatives may share, from all they say to nothing."""
    name, said = followed(schema, known.root)
    kind = f"{said.get('type')} {said.get('format')}"
    tags = f"{kind} {_tags(said, known.root)}"
    return known.of(schema), f"{tags} {name}", tags, kind, ""


def _tags(schema: Schema, root: Schema) -> str:
    """The fields that can have but one value: classes are told apart by them."""
    tags: dict[str, object] = {}
    for field, inner in schema.get("properties", {}).items():
        said = followed(inner, root)[1]
        values = [said["const"]] if "const" in said else said.get("enum", ())
        if len(values) == 1:
            tags[field] = values[0]
    return json.dumps(tags, sort_keys=True)
