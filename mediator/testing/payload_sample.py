"""Sample: a payload that a schema allows, always the same one for the same schema."""

from typing import Any

from mediator.testing.payload_schema import Schema, definition, is_schema, resolved

_FORMATS = {
    "date-time": "2020-01-02T03:04:05Z",
    "date": "2020-01-02",
    "time": "03:04:05",
    "duration": "P1DT2H",
    "uuid": "00000000-0000-4000-8000-000000000001",
    "decimal": "1.5",
    "email": "someone@example.org",
    "uri": "https://example.org/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}


def sample_of(schema: Schema) -> Any:
    """Something in every field, those with a default too.

    What the schema cannot express, such as the checks of a `__post_init__`, the sample does not know.

    Raises:
        ValueError: A class contains itself with no way out.
    """
    return _Sampling(schema).value(schema, "payload", ())


class _Sampling:
    def __init__(self, root: Schema) -> None:
        self._root = root

    def value(self, schema: Schema, name: str, above: tuple[str, ...]) -> Any:
        referred = definition(schema)
        if referred in above:
            raise ValueError(f"{referred} contains itself")
        if referred:
            above = (*above, referred)
        schema = resolved(schema, self._root)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return self._option(options, name, above)
        return self._typed(schema, name, above)

    def _option(self, options: Any, name: str, above: tuple[str, ...]) -> Any:
        fit = [option for option in options if option.get("type") != "null" and definition(option) not in above]
        return self.value(fit[0], name, above) if fit else None

    def _typed(self, schema: Schema, name: str, above: tuple[str, ...]) -> Any:
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, name, above)
        if kind == "array":
            return self._array(schema, name, above)
        if kind == "string":
            return _text(schema, name)
        if kind in ("integer", "number"):
            return _number(schema)
        return {"boolean": True, "null": None}.get(str(kind), name)

    def _object(self, schema: Schema, name: str, above: tuple[str, ...]) -> dict[str, Any]:
        if "properties" in schema:
            return {field: self.value(inner, field, above) for field, inner in schema["properties"].items()}
        inner: Any = schema.get("additionalProperties")
        if not is_schema(inner) or definition(inner) in above:
            return {}
        keys = schema.get("propertyNames", {"type": "string"})
        return {str(self.value(keys, "key", above)): self.value(inner, name, above)}

    def _array(self, schema: Schema, name: str, above: tuple[str, ...]) -> list[Any]:
        if "prefixItems" in schema:
            return [self.value(inner, name, above) for inner in schema["prefixItems"]]
        inner: Schema = schema.get("items", {})
        if definition(inner) in above:
            return []
        return [self.value(inner, name, above)] * max(1, int(schema.get("minItems", 1)))


def _text(schema: Schema, name: str) -> str:
    if schema.get("contentEncoding") == "base64":
        return "c2FtcGxl"
    text = _FORMATS.get(schema.get("format", ""), name)
    if "format" in schema:
        return text
    return text.ljust(int(schema.get("minLength", 0)), "x")[: schema.get("maxLength")]


def _number(schema: Schema) -> int | float:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    number = 1 if schema["type"] == "integer" else 1.5
    if low is not None:
        number = low + (step if "exclusiveMinimum" in schema else 0)
    elif high is not None and number >= high:
        number = high - (step if "exclusiveMaximum" in schema else 0)
    if "multipleOf" in schema and number % step:
        number += step - number % step
    return number
