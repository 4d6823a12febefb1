"""The canonical form of a command: its fields sorted by name, without the fields that have their default value.

A command may be sent again after its class got a new field with a default, or a new order of fields. The canonical form
of the command is still the same.
"""

import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

_NO_DEFAULT: Any = object()


def canonical(encoded: bytes, value: object) -> bytes:
    """Return the canonical form of a value that a codec has encoded as JSON. Other encodings are returned unchanged.

    The class of `value` declares the defaults.
    """
    try:
        plain: object = json.loads(encoded)
    except (ValueError, RecursionError):
        return encoded
    return _text(_without_defaults(plain, value)).encode()


def _text(plain: object) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _without_defaults(plain: Any, value: Any) -> Any:
    kind: type[Any] = value.__class__
    if issubclass(type(plain), dict):
        return _of_mapping(plain, value) if issubclass(kind, Mapping) else _of_fields(plain, value)
    if issubclass(type(plain), list) and issubclass(kind, (AbstractSet, Sequence)) and len(plain) == len(value):
        parts = [_without_defaults(*pair) for pair in zip(plain, value, strict=True)]
        return sorted(parts, key=_text) if issubclass(kind, AbstractSet) else parts
    return plain


def _of_mapping(plain: dict[str, Any], value: Any) -> dict[str, Any]:
    by_text = {str(key): each for key, each in value.items()}
    return {name: _without_defaults(each, by_text.get(name)) for name, each in plain.items()}


def _of_fields(plain: dict[str, Any], value: Any) -> dict[str, Any]:
    defaults, kept = _defaults(value.__class__), dict[str, Any]()
    for name, each in plain.items():
        own = getattr(value, name, None)
        default = _default(defaults.get(name, _NO_DEFAULT))
        if type(own) is not type(default) or own != default:
            kept[name] = _without_defaults(each, own)
    return kept


@lru_cache(maxsize=1024)
def _defaults(cls: Any) -> dict[str, Any]:
    """Return the default or default factory of each field of a dataclass, attrs class, `Struct` or pydantic model."""
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):
        return {}
    found = {each.name: each.default for each in parameters if each.default is not each.empty}
    for field in dataclasses.fields(cls) if hasattr(cls, "__dataclass_fields__") else ():
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = _Factory(field.default_factory)
    for field in getattr(cls, "__attrs_attrs__", ()):
        found[field.name] = field.default
    for name, field in getattr(cls, "model_fields", {}).items():
        if callable(getattr(field, "default_factory", None)):
            found[name] = _Factory(field.default_factory)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Factory:
    factory: Any


def _default(found: Any) -> Any:
    factory = getattr(found, "factory", None)  # of a `_Factory` or an `attrs.Factory`
    if not callable(factory) or getattr(found, "takes_self", False):
        return found
    try:
        return factory()
    except Exception:  # the factory may raise any error, and a field without a known default is kept
        return _NO_DEFAULT
