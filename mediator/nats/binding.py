"""Binding: converts a CloudEvent to the headers, subject and body of a NATS message, and back.

The conversion follows the NATS protocol binding of CloudEvents 1.0 (https://github.com/cloudevents/spec,
"nats-protocol-binding"). Events are written in binary mode: attributes in headers, data in the body. Events are read in
binary or in structured mode. In structured mode, the body is a JSON document with the whole event.
"""

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

import msgspec

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import split_wire_type
from mediator.distributed.inbox import UnreadableMessage
from mediator.errors import EventNotDecodableError, SettingError

MESSAGE_ID = "Nats-Msg-Id"
"""The header with the message id. A stream drops a message that has the id of a recently stored message."""

_CONTENT_TYPE = "application/cloudevents"
_ATTRIBUTES = frozenset({"specversion", "id", "source", "type", "time", "datacontenttype", "partitionkey"})
_RESERVED = _ATTRIBUTES | {"data", "data_base64"}
_TRACE = ("traceparent", "tracestate")
_TOKEN = re.compile(r"[a-z0-9-]{1,64}")
_NAME = re.compile(r"[a-z0-9]+")
_PARTITION = re.compile(r"[0-9]{1,4}")
_MAX_SUBJECT = 255
_READ_ERRORS = (ValueError, RecursionError, msgspec.MsgspecError)
_PLAIN = re.compile(r"[!#-$&-~]*")
_UNENCODED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def checked_prefix(prefix: str) -> str:
    """Return the given prefix of streams and subjects; raise a `SettingError` unless the prefix is one valid token."""
    if not _TOKEN.fullmatch(prefix):
        raise SettingError("prefix", prefix, "use one token of 1 to 64 lower-case letters, digits and hyphens")
    return prefix


def stream_name(prefix: str, domain: str) -> str:
    """Return the name of a domain's stream: `<prefix>-<domain>`."""
    return f"{prefix}-{domain}"


def domain_of(event_type: str) -> str:
    """Return the domain of an event type, which is the part before the first dot."""
    return event_type.partition(".")[0]


def subject_of(prefix: str, event: CloudEvent, partitions: int) -> str:
    """Return the subject of an event: `<prefix>.<domain>.<name>.<partition>`.

    Raises:
        ValueError: The event's type is not `<domain>.<name>.v<version>`, or the subject would be longer than 255
            characters.
    """
    subject = f"{prefix}.{_event_type(event.type)}.{event.bucket % partitions}"
    if len(subject) > _MAX_SUBJECT:  # at about 4,000 characters, the server would close the connection
        raise ValueError(f"its subject is {len(subject):,} characters, and the broker takes at most {_MAX_SUBJECT}")
    return subject


def partition_of(subject: str) -> int | None:
    """Return the partition at the end of a subject; `None` when the subject does not end with a partition."""
    last = subject.rpartition(".")[2]
    return int(last) if _PARTITION.fullmatch(last) else None


@lru_cache(maxsize=1024)
def _event_type(wire_type: str) -> str:
    return split_wire_type(wire_type)[0]


def to_headers(event: CloudEvent, *, application: str = "") -> dict[str, str]:
    """Return the headers of an event in binary mode. The event's data is the body of the message.

    `application` becomes the source of an event without a source.

    Raises:
        ValueError: The event cannot be written: an extension's name is not allowed, the time has no time zone, the
            partition key is empty, or a string cannot be encoded.
    """
    if event.time.tzinfo is None:
        raise ValueError("its time has no time zone")
    identity = encoded(event.id)
    headers = {
        "ce-specversion": "1.0",
        "ce-id": identity,
        "ce-source": encoded(event.source or application),
        "ce-type": encoded(event.type),
        "ce-time": event.time.astimezone(UTC).isoformat(),
        "ce-datacontenttype": encoded(event.datacontenttype),
        MESSAGE_ID: identity,
    }
    if event.partitionkey == "":
        raise ValueError("its partition key is empty")
    if event.partitionkey is not None:
        headers["ce-partitionkey"] = encoded(event.partitionkey)
    for name, value in event.extensions.items():
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(f"{name!r} cannot be the name of an extension attribute")
        headers[f"ce-{name}"] = encoded(value)
        if name in _TRACE:
            headers[name] = headers[f"ce-{name}"]
    return headers


def from_message(
    headers: Mapping[str, str] | None, data: bytes, *, fallback_id: str, stored_at: datetime
) -> CloudEvent:
    """Return the event in a message. The names of the headers may be in upper or lower case.

    An event without an id gets the id `fallback_id`. An event without a time gets the time `stored_at`.

    Raises:
        EventNotDecodableError: The message is not a CloudEvent, or the CloudEvent is malformed.
    """
    lowered, content_type = _lowered(headers or {})
    try:
        if content_type.startswith(_CONTENT_TYPE):
            attributes, body = _read_structured(content_type, data)
        else:
            attributes, body = _read_binary(lowered), data
        return _event(attributes, body, fallback_id, stored_at)
    except _READ_ERRORS as error:
        raise EventNotDecodableError(lowered.get("ce-type", "unknown"), str(error)) from error


def unreadable_from(headers: Mapping[str, str], data: bytes) -> UnreadableMessage:
    """Return the type and the partition key of a message that is not a valid event. An unreadable value is left out.

    In structured mode, the values are read from the JSON document. If the document is not a JSON object, the values are
    read from the headers, because a producer may have repeated them there.
    """
    lowered, content_type = _lowered(headers)
    members: dict[str, msgspec.Raw] | None = None
    if content_type.startswith(_CONTENT_TYPE):
        with suppress(*_READ_ERRORS):
            members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])

    def attribute(name: str) -> str | None:
        with suppress(KeyError, *_READ_ERRORS):
            return decoded(lowered[f"ce-{name}"]) if members is None else _member(members[name])
        return None

    return UnreadableMessage(attribute("type") or "", attribute("partitionkey") or None)


def _lowered(headers: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return the headers with lower-case names, and the content type of the message."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return lowered, lowered.get("content-type", "").strip().lower()


def _event(attributes: dict[str, str], data: bytes, fallback_id: str, stored_at: datetime) -> CloudEvent:
    """Return an event with the given attributes.

    CloudEvents allows no empty attributes. Therefore an empty id, time or partition key is treated as missing.
    """
    if attributes.get("specversion") != "1.0":
        raise ValueError("the attribute specversion is not 1.0, so the message is not a CloudEvent 1.0")
    for required in ("type", "source"):
        if not attributes.get(required):
            raise ValueError(f"the attribute {required} is missing or empty")
    time = attributes.get("time")
    return CloudEvent(
        id=attributes.get("id") or fallback_id,
        type=attributes["type"],
        time=_read_time(time) if time else stored_at,
        data=data,
        source=attributes["source"],
        datacontenttype=attributes.get("datacontenttype", "application/json"),
        partitionkey=attributes.get("partitionkey") or None,
        extensions={name: value for name, value in attributes.items() if name not in _ATTRIBUTES},
    )


def _read_time(text: str) -> datetime:
    time = datetime.fromisoformat(text.upper())
    if time.tzinfo is None:
        raise ValueError(f"the time {text!r} has no time zone")
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"the time {text!r} is outside the years 1 to 9999") from error


def _read_binary(headers: Mapping[str, str]) -> dict[str, str]:
    attributes = {name[3:]: decoded(value) for name, value in headers.items() if name.startswith("ce-")}
    if "specversion" in attributes:
        for name in _TRACE:
            if name in headers:
                attributes.setdefault(name, decoded(headers[name]))
    return attributes


def _read_structured(content_type: str, data: bytes) -> tuple[dict[str, str], bytes]:
    media_type = content_type.partition(";")[0].strip()
    if media_type not in {_CONTENT_TYPE, f"{_CONTENT_TYPE}+json"}:
        raise ValueError(f"the format {media_type} is not supported")
    members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    body = _structured_data(members)
    return {name: value for name, raw in members.items() if (value := _member(raw)) is not None}, body


def _member(raw: msgspec.Raw) -> str | None:
    value = msgspec.json.decode(raw, type=str | int | bool | None)
    return value if value is None or isinstance(value, str) else str(value).lower()


def _structured_data(members: dict[str, msgspec.Raw]) -> bytes:
    """Remove the data from the members of a structured event; return the data (JSON event format, section 3.1)."""
    plain, encoded = members.pop("data", None), members.pop("data_base64", None)
    if encoded is not None:
        return base64.b64decode(msgspec.json.decode(encoded, type=str), validate=True)
    if plain is None:
        return b""
    declared = members.get("datacontenttype")
    media_type = "application/json" if declared is None else msgspec.json.decode(declared, type=str).lower()
    if "json" in media_type or not bytes(plain).startswith(b'"'):
        return bytes(plain)
    return msgspec.json.decode(plain, type=str).encode()


def encoded(value: str) -> str:
    """Return a text as a header value. `"`, `%` and all characters outside visible ASCII are percent-encoded."""
    return value if _PLAIN.fullmatch(value) else quote(value, safe=_UNENCODED)


def decoded(value: str) -> str:
    """Return the text of a header value. A value that is not valid UTF-8 raises a `ValueError`."""
    if "\ufffd" in value:  # nats-py replaces bytes that are not UTF-8 by this character
        raise ValueError("a header is not valid UTF-8")
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return unquote_to_bytes(value).decode() if "%" in value else value
