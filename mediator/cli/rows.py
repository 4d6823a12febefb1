"""Rows: formats events as tables, text and JSON, and escapes characters that could control a terminal."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mediator.distributed.parking import ParkedEvent, ParkReason
from mediator.printable import printable, shown

_COLUMNS = {
    "number": "NUMBER",
    "direction": "WAY",
    "consumer": "CONSUMER",
    "type": "TYPE",
    "partition_key": "KEY",
    "reason": "REASON",
    "error_class": "ERROR",
    "attempts": "ATTEMPTS",
    "parked_at": "PARKED",
    "next_try": "NEXT TRY",
}
_WIDEST = 48
"""The largest number of characters in a cell of a table."""
_LONGEST_LINE = 4096
"""The largest number of characters that `as_text` shows of a field. Only the body is always shown in full."""


def as_row(parking: str, event: ParkedEvent, *, whole: bool = False) -> dict[str, Any]:
    """Return the fields of a parked event for output. With `whole`, add headers, extensions, error text and payload."""
    row: dict[str, Any] = {
        "parking": parking,
        "number": event.number,
        "direction": event.direction,
        "consumer": event.consumer,
        "source": event.source,
        "event_id": event.event_id,
        "type": event.type,
        "time": event.time,
        "partition_key": event.partition_key,
        "subject": event.subject,
        "sequence": event.sequence,
        "reason": str(event.reason),
        "error_class": class_of(event.error),
        "attempts": event.attempts,
        "parked_at": as_time(event.parked_at),
        "due_at": as_time(event.due_at),
        "tries": event.tries,
        "held_by": event.held_by,
    }
    if whole:
        row |= {"error": event.error, "content_type": event.content_type, "extensions": dict(event.extensions)}
        row |= {"headers": dict(event.headers), **body_of(event.data)}
    return row


def class_of(error: str) -> str:
    """Return the class name at the beginning of an error text (`KeyError: 'x'` -> `KeyError`), or an empty text.

    The text after the class name is not shown, since this text may contain a part of the payload.
    """
    name, colon, _ = error.partition(": ")
    return name if colon and name.isidentifier() else ""


def short_name(handler: str) -> str:
    """Return the name of a handler class without its module. A name that was cut ends with `...`, and is returned whole."""
    return handler.rpartition(".")[2] or handler


def as_time(at: float | None) -> str | None:
    """Return a time in seconds since the epoch as ISO 8601."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def body_of(data: bytes) -> dict[str, str]:
    """Return a payload as text, or as base64 when the payload is not UTF-8."""
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(data).decode()}


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return a value as JSON in ASCII. Characters outside ASCII are escaped."""
    return json.dumps(value, indent=indent)


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return parked events as a table."""
    return table(rows, _COLUMNS) if rows else "Nothing is parked."


def next_try(event: ParkedEvent, head: ParkedEvent | None) -> str:
    """Return when an event is tried next, given the first parked event of its key.

    The result is one of these texts:

    - `held by <handler>`: an open circuit holds the event;
    - a time: the consumer tries the event again at this time;
    - `follows`: the event is parked behind an earlier event of its key;
    - `by hand`: a person has to replay the event.
    """
    if event.held_by is not None:
        return f"held by {short_name(event.held_by)}"
    follows = event.reason == ParkReason.KEY_PARKED and head is not None and head.number < event.number
    return as_time(event.due_at) or ("follows" if follows else "by hand")


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Return rows as a table. `columns` gives the title of each column."""
    cells = ([("" if row[each] is None else shown(str(row[each]), _WIDEST)) for each in columns] for row in rows)
    return "\n".join(aligned([tuple(columns.values()), *cells]))


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield each row as a line with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def as_text(row: Mapping[str, Any]) -> str:
    """Return one event as text: a line for each field, and the body at the end."""
    lines: list[str] = []
    for name, value in row.items():
        if name in {"headers", "extensions"}:
            lines.append(f"{name}:")
            lines += [f"  {_line(key)}: {_line(text)}" for key, text in value.items()]
        elif name not in {"data", "data_base64"}:
            lines.append(f"{name}: {'' if value is None else _line(str(value))}")
    body = row["data"] if "data" in row else f"(base64) {row['data_base64']}"
    return "\n".join([*lines, "", printable(body)])


def _line(text: str) -> str:
    return shown(text, _LONGEST_LINE)
