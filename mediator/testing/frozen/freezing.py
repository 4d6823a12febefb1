"""FrozenEvent: the schema and a sample of one version of an event, stored in a file."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from mediator.dependency_injector.event_flows import codec_in, read_events
from mediator.distributed.events import DistributedEvent, EncryptingCodec, EventCodec, SchemaCodec, wire_type
from mediator.errors import DeclarationError, EventError, misuse
from mediator.msgspec import MsgspecCodec
from mediator.testing.frozen.changes import Schema, definition, is_schema, resolved

E = TypeVar("E", bound=DistributedEvent)


@dataclass(frozen=True, slots=True)
class FrozenEvent:
    """One version of an event.

    Attributes:
        type: The type without the version, `<domain>.<name>`.
        version: The version, beginning at 1.
        schema: The JSON schema of the payload.
        sample: A payload, as plain data.
    """

    type: str
    version: int
    schema: Schema
    sample: dict[str, Any]

    @property
    def wire(self) -> str:
        """The wire type, `<domain>.<name>.v<version>`."""
        return f"{self.type}.v{self.version}"

    def as_text(self) -> str:
        """Return the content of the file: JSON with a newline at the end."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def read_frozen(file: Path) -> FrozenEvent:
    """Read a file that `freeze_events` has written.

    Raises:
        ValueError: `freeze_events` cannot have written the file. The text of the error gives the reason.
    """
    members: Any = json.loads(file.read_text("utf-8"))
    wanted = {"type": str, "version": int, "schema": dict, "sample": dict}
    found: dict[str, Any] = dict(members) if isinstance(members, dict) else {}  # pyright: ignore[reportUnknownArgumentType]
    missing = [name for name, kind in wanted.items() if not isinstance(found.get(name), kind)]
    if missing:
        raise ValueError(f"it has no `{missing[0]}`")
    frozen = FrozenEvent(**{name: found[name] for name in wanted})
    if file.name != f"{frozen.wire}.json":
        raise ValueError(f"its name does not match its event, {frozen.wire}")
    return frozen


def freeze_events(
    events: Any, folder: Path | str, *, codec: EventCodec | None = None, force: bool = False
) -> list[Path]:
    """Write a file for each event that has no file in the folder yet, and return the written files.

    Args:
        events: A container, or a list of event classes and events. An event in the list becomes the sample in its file.
        folder: The folder of the files. Each type and version has one file: `<event_type>.v<version>.json`.
        codec: The codec of the payloads; by default the codec of the container's unit of work, or `MsgspecCodec`.
        force: Also replace existing files.

    Raises:
        DeclarationError: A class has no valid type, its payload cannot be described, or no sample payload can be made.
    """
    codec = codec_of(events, codec)
    written: list[Path] = []
    for event in events_in(events):
        event_class = event if isinstance(event, type) else type(event)
        file = frozen_file(folder, wire_type(event_class))
        if force or not file.exists():
            text = freeze(event, codec).as_text()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
            written.append(file)
    return written


def freeze(event: DistributedEvent | type[DistributedEvent], codec: EventCodec) -> FrozenEvent:
    """Return the current schema and a sample of an event. For a class, the sample is made from the schema.

    Raises:
        DeclarationError: The payload cannot be described, or no sample payload can be made.
    """
    event_class = event if isinstance(event, type) else type(event)
    describing = describing_codec(codec, event_class)
    schema = describing.schema(event_class)
    try:
        made = describing.convert(sample_of(schema), event_class) if isinstance(event, type) else event
        sample = describing.decode_data(describing.encode(made))
    except (EventError, DeclarationError, ValueError) as error:
        raise misuse.event_schema(event_class, f"no sample of it can be made: {error}") from error
    return FrozenEvent(event_class.event_type, event_class.event_version, schema, sample)


def describing_codec(codec: EventCodec, event_class: type) -> SchemaCodec:
    """Return the codec that can describe payloads: the given codec, or the codec inside an `EncryptingCodec`.

    Samples are not encrypted, because there may be no encryption key for the partition key of a sample.

    Raises:
        DeclarationError: The codec cannot describe payloads.
    """
    while isinstance(codec, EncryptingCodec):
        codec = codec.codec
    if not isinstance(codec, SchemaCodec):
        reason = f"its codec, {type(codec).__name__}, lacks `decode_data`, `convert` or `schema`"
        raise misuse.event_schema(event_class, reason)
    return codec


def events_in(events: Any) -> list[DistributedEvent | type[DistributedEvent]]:
    """Return the event classes of a container, or the given list of classes and events.

    Raises:
        MisuseError: An element of the list is neither an event nor an event class.
    """
    if not isinstance(events, Iterable):
        return [entry.event_class for entry in read_events(events)]
    listed: list[Any] = list(events)  # pyright: ignore[reportUnknownArgumentType]  # checked below
    for event in listed:
        if not issubclass(event if isinstance(event, type) else type(event), DistributedEvent):
            raise misuse.no_event(event)
    return listed


def codec_of(events: Any, codec: EventCodec | None) -> EventCodec:
    """Return the given codec, or else the codec of the container, or else `MsgspecCodec`."""
    found = codec if codec is not None or isinstance(events, Iterable) else codec_in(events)
    return found if found is not None else MsgspecCodec()


def frozen_file(folder: Path | str, wire: str) -> Path:
    """Return the path of the file for a wire type."""
    return Path(folder) / f"{wire}.json"


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
    """Return a sample payload with a value in every field, even in fields with a default.

    The sample may violate rules that a schema cannot express, such as the checks of a `__post_init__`.

    Raises:
        ValueError: A class contains itself in a field that can be neither `None` nor empty.
    """
    return _Sampling(schema).value(schema, "payload", ())


class _Sampling:
    """Makes values for schemas. `above` contains the names of the definitions around a schema, to detect recursion."""

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
            fit = [option for option in options if option.get("type") != "null" and definition(option) not in above]
            return self.value(fit[0], name, above) if fit else None
        return self._typed(schema, name, above)

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
