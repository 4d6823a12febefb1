"""Schema: the JSON schema (https://json-schema.org) of the payloads of an event class.

`msgspec.json.schema` gives a `datetime` no format unless the annotation demands a time zone. A change of a field from
`datetime` to `str` would not be visible in that schema. This module therefore builds the schema itself, from msgspec's
description of the class.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

from msgspec import inspect as info

Schema = dict[str, Any]

_PLAIN: Mapping[type[info.Type], Schema] = {
    info.AnyType: {},
    info.RawType: {},
    info.NoneType: {"type": "null"},
    info.BoolType: {"type": "boolean"},
    info.IntType: {"type": "integer"},
    info.FloatType: {"type": "number"},
    info.StrType: {"type": "string"},
    info.BytesType: {"type": "string", "contentEncoding": "base64"},
    info.ByteArrayType: {"type": "string", "contentEncoding": "base64"},
    info.MemoryViewType: {"type": "string", "contentEncoding": "base64"},
    info.DateTimeType: {"type": "string", "format": "date-time"},
    info.DateType: {"type": "string", "format": "date"},
    info.TimeType: {"type": "string", "format": "time"},
    info.TimeDeltaType: {"type": "string", "format": "duration"},
    info.UUIDType: {"type": "string", "format": "uuid"},
    info.DecimalType: {"type": "string", "format": "decimal"},
}
_CONSTRAINTS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
}
_LENGTHS = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
_OBJECT_LENGTHS = ("minProperties", "maxProperties")


def schema_of(event_class: type) -> Schema:
    """Return the schema of a class that msgspec supports.

    If JSON cannot represent the type of a field, a `TypeError` is raised.
    """
    definitions = _Definitions()
    root = _schema(info.type_info(event_class), definitions)
    return {**root, "$defs": dict(sorted(definitions.schemas.items()))}


class _Definitions:
    """The schemas of all classes in an event, each under a unique name.

    Classes of different modules may have the same name, and a generic class has one name for all its type arguments.
    """

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self._owners: dict[str, object] = {}

    def name(self, cls: Any) -> str:
        """Return the name of a class, which is unique in this schema."""
        own = str(cls.__qualname__).replace("/", "_").replace("<locals>.", "")
        names = itertools.chain([own], (f"{own}-{number}" for number in itertools.count(2)))
        return next(name for name in names if self._owners.setdefault(name, cls) == cls)


def _schema(described: info.Type, definitions: _Definitions) -> Schema:
    if isinstance(described, info.Metadata):
        return _schema(described.type, definitions)
    plain = _PLAIN.get(type(described))
    if plain is not None:
        return plain | _zone(described) | _constraints(described, str(plain.get("type", "")))
    return _composed(described, definitions)


def _zone(described: info.Type) -> Schema:
    """Return `{"x-timezone": True}` if a zone is required, `{"x-timezone": False}` if it is forbidden, else `{}`."""
    zone = getattr(described, "tz", None)
    return {} if zone is None else {"x-timezone": zone}


def _constraints(described: info.Type, kind: str) -> Schema:
    lengths = zip(("min_length", "max_length"), _LENGTHS.get(kind, _OBJECT_LENGTHS), strict=True)
    names = {**_CONSTRAINTS, **dict(lengths)}
    found = {keyword: getattr(described, name, None) for name, keyword in names.items()}
    return {keyword: limit for keyword, limit in found.items() if limit is not None}


@functools.singledispatch
def _composed(described: info.Type, definitions: _Definitions) -> Schema:  # noqa: ARG001  # other types need the definitions
    raise TypeError(f"JSON has no form for {getattr(described, 'cls', type(described)).__name__}")


@_composed.register
def _(described: info.UnionType, definitions: _Definitions) -> Schema:
    return {"anyOf": [_schema(each, definitions) for each in described.types]}


@_composed.register
def _(described: info.LiteralType, definitions: _Definitions) -> Schema:  # noqa: ARG001  # as above
    return {"enum": list(described.values)}


@_composed.register
def _(described: info.EnumType, definitions: _Definitions) -> Schema:  # noqa: ARG001  # as above
    return {"enum": [member.value for member in described.cls]}


@_composed.register
def _(described: info.CollectionType, definitions: _Definitions) -> Schema:
    items = _schema(described.item_type, definitions)
    unique = {"uniqueItems": True} if isinstance(described, info.SetType | info.FrozenSetType) else {}
    return {"type": "array", "items": items} | unique | _constraints(described, "array")


@_composed.register
def _(described: info.TupleType, definitions: _Definitions) -> Schema:
    return _row([_schema(each, definitions) for each in described.item_types])


@_composed.register
def _(described: info.NamedTupleType, definitions: _Definitions) -> Schema:
    return _row([_schema(field.type, definitions) for field in described.fields])


@_composed.register
def _(described: info.DictType, definitions: _Definitions) -> Schema:
    values, keys = _schema(described.value_type, definitions), _schema(described.key_type, definitions)
    named = {} if keys == {"type": "string"} else {"propertyNames": keys}
    return {"type": "object", "additionalProperties": values} | named | _constraints(described, "object")


def _row(items: list[Schema]) -> Schema:
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _of_fields(
    described: info.StructType | info.DataclassType | info.TypedDictType, definitions: _Definitions
) -> Schema:
    name = definitions.name(described.cls)
    if name not in definitions.schemas:
        definitions.schemas[name] = {}  # set first, since a field may be of the same class
        definitions.schemas[name] = _fields(described, definitions)
    return {"$ref": f"#/$defs/{name}"}


for _kind in (info.StructType, info.DataclassType, info.TypedDictType):
    _composed.register(_kind)(_of_fields)


def _fields(described: info.StructType | info.DataclassType | info.TypedDictType, definitions: _Definitions) -> Schema:
    found = {field.encode_name: _schema(field.type, definitions) for field in described.fields}
    required = [field.encode_name for field in described.fields if field.required]
    tag_field, tag = getattr(described, "tag_field", None), getattr(described, "tag", None)
    if tag_field is not None:
        found, required = {tag_field: {"enum": [tag]}, **found}, [tag_field, *required]
    if getattr(described, "array_like", False):
        return _row(list(found.values()))
    strict = {"additionalProperties": False} if getattr(described, "forbid_unknown_fields", False) else {}
    return {"type": "object", "properties": found, "required": required} | strict
