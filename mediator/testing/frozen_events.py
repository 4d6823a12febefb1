"""FrozenEvent: what the payload of one version of an event looks like, kept in a file that tests compare with the class."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mediator.dependency_injector.event_catalog import codec_in, read_events
from mediator.distributed.encryption import EncryptingCodec
from mediator.distributed.events import DistributedEvent, wire_type
from mediator.distributed.serialization import EventCodec, SchemaCodec
from mediator.errors import EventError, EventKindError, EventSchemaError
from mediator.msgspec import MsgspecCodec
from mediator.testing.payload_sample import sample_of
from mediator.testing.payload_schema import Schema

E = TypeVar("E", bound=DistributedEvent)


@dataclass(frozen=True, slots=True)
class FrozenEvent:
    """One version of an event.

    Attributes:
        type: `<context>.<name>`.
        version: From 1.
        schema: The JSON schema of the payload.
        sample: A payload, as plain data.
    """

    type: str
    version: int
    schema: Schema
    sample: dict[str, Any]

    @property
    def wire(self) -> str:
        """The type on the wire."""
        return f"{self.type}.v{self.version}"

    def as_text(self) -> str:
        """What stands in the file."""
        members = {"type": self.type, "version": self.version, "schema": self.schema, "sample": self.sample}
        return json.dumps(members, indent=2, ensure_ascii=False) + "\n"


def read_frozen(file: Path) -> FrozenEvent:
    """What a file holds.

    Raises:
        ValueError: It is not what `freeze_events` has written; the text says why.
    """
    members: Any = json.loads(file.read_text("utf-8"))
    wanted = {"type": str, "version": int, "schema": dict, "sample": dict}
    found: dict[str, Any] = dict(members) if isinstance(members, dict) else {}  # pyright: ignore[reportUnknownArgumentType]
    missing = [name for name, kind in wanted.items() if not isinstance(found.get(name), kind)]
    if missing:
        raise ValueError(f"it has no `{missing[0]}`")
    frozen = FrozenEvent(**{name: found[name] for name in wanted})
    if file.name != f"{frozen.wire}.json":
        raise ValueError(f"it is about {frozen.wire}")
    return frozen


def freeze_events(
    events: Any, folder: Path | str, *, codec: EventCodec | None = None, force: bool = False
) -> list[Path]:
    """Write a file for each event that has none in the folder yet, and return those that were written.

    Args:
        events: A container; or classes of events, or events, which then are the samples.
        folder: Where the files are, one for each type and version: `<event_type>.v<version>.json`.
        codec: Reads and writes payloads; that of the container's unit of work, or `MsgspecCodec`, if not given.
        force: Also replace the files of events that have one.

    Raises:
        EventSchemaError: The payload of a class cannot be described, or no sample of it can be made.
        EventDeclarationError: A class has no valid type.
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
    """An event, or a class of which a sample is made, as it is now.

    Raises:
        EventSchemaError: The payload cannot be described, or no sample of it can be made.
    """
    event_class = event if isinstance(event, type) else type(event)
    wire_type(event_class)
    describing = describing_codec(codec, event_class)
    schema = describing.schema(event_class)
    try:
        made = describing.convert(sample_of(schema), event_class) if isinstance(event, type) else event
        sample = describing.decode_data(describing.encode(made))
    except (EventError, ValueError) as error:
        raise EventSchemaError(event_class, f"no sample of it can be made: {error}") from error
    return FrozenEvent(event_class.event_type, event_class.event_version, schema, sample)


def describing_codec(codec: EventCodec, event_class: type) -> SchemaCodec:
    """The codec, when it can describe payloads; the one inside an `EncryptingCodec`, for samples are in clear.

    Raises:
        EventSchemaError: It cannot.
    """
    while isinstance(codec, EncryptingCodec):  # there need be no secret for the key of a sample
        codec = codec.codec
    if not isinstance(codec, SchemaCodec):
        reason = f"its codec, {type(codec).__name__}, has no `decode_data`, `convert` and `schema`"
        raise EventSchemaError(event_class, reason)
    return codec


def events_in(events: Any) -> list[DistributedEvent | type[DistributedEvent]]:
    """The event classes of a container, or what was listed.

    Raises:
        EventKindError: Something in the list is no event.
    """
    if not isinstance(events, Iterable):
        return [entry.event_class for entry in read_events(events)]
    listed: list[Any] = list(events)  # pyright: ignore[reportUnknownArgumentType]  # of whatever was listed
    for event in listed:
        if not issubclass(event if isinstance(event, type) else type(event), DistributedEvent):
            raise EventKindError(event)
    return listed


def codec_of(events: Any, codec: EventCodec | None) -> EventCodec:
    """The codec that was given, or that of a container, or the one that is used when none is given."""
    found = codec if codec is not None or isinstance(events, Iterable) else codec_in(events)
    return found if found is not None else MsgspecCodec()


def frozen_file(folder: Path | str, wire: str) -> Path:
    """The file of a type on the wire."""
    return Path(folder) / f"{wire}.json"
