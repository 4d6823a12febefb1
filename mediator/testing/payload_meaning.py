"""Meaning: a short text that schemas share when they say the same, whatever their classes are called."""

import hashlib
import json
from typing import Any

from mediator.testing.payload_schema import ALTERNATIVES, Schema, followed, is_schema, resolved, said


def meanings(*roots: Schema) -> "list[Meanings]":
    """Those of schemas that are to be compared with one another.

    Classes may contain each other, so there is no end to spell out. Each round looks one step further into all of them;
    after as many rounds as there are classes, those that were not told apart are the same.
    """
    found = [Meanings(root) for root in roots]
    for _ in range(sum(len(root.get("$defs", ())) for root in roots)):
        for each in found:
            each.look_further()
    return found


class Meanings:
    """What is said by the schemas that share one set of definitions. To be had from `meanings`."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self._known: dict[str, str] = {}

    def of(self, schema: Schema) -> str:
        """The meaning of a schema."""
        parts = {key: self._part(key, value) for key, value in said(resolved(schema, self.root)).items()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def look_further(self) -> None:
        """Make one more round."""
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
        """What is known of the class that a schema refers to, or the meaning of what it says itself."""
        name, schema = followed(schema, self.root)
        return self._known.get(name, "") if name else self.of(schema)
