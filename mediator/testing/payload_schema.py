"""Schema: what the payloads of an event look like, as a JSON schema in plain data, and how it is read."""

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

Schema = Mapping[str, Any]

REMARKS = frozenset(
    {"$defs", "default", "deprecated", "description", "discriminator", "examples", "readOnly", "title", "writeOnly"}
)
"""Keywords that say nothing about what is read."""
ALTERNATIVES = ("anyOf", "oneOf")
CONTAINED = frozenset({"additionalProperties", "items", "prefixItems", "properties", "required", *ALTERNATIVES})


def is_schema(value: Any) -> TypeGuard[Schema]:
    """Whether a keyword holds a schema or several; it may also hold a truth value."""
    return isinstance(value, Mapping)


def followed(schema: Schema, root: Schema) -> tuple[str, Schema]:
    """The definition of the whole schema that one refers to in the end, if it does, and what is said there."""
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
    """What a schema says, where it only names a definition of the whole one."""
    return followed(schema, root)[1]


def definition(schema: Schema) -> str:
    """The name of the definition that a schema refers to; empty when it refers to none."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def said(schema: Schema) -> dict[str, Any]:
    """The keywords that say something; that unknown fields are taken needs no saying."""
    silent = {"additionalProperties"} if schema.get("additionalProperties") is True else set[str]()
    return {key: value for key, value in schema.items() if key not in REMARKS | silent}


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
    limits = [f"{key} {value}" for key, value in schema.items() if key not in REMARKS | CONTAINED | {"type", "format"}]
    inner: Any = schema.get("items", schema.get("additionalProperties"))
    of = f" of {spelled(inner, root)}" if is_schema(inner) else ""
    kind = schema.get("format") or schema.get("type") or "anything"
    return f"{kind}{of}{f' ({json.dumps(limits)[1:-1]})' if limits else ''}"
