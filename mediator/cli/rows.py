"""Rows: parked events as tables, as text and as JSON, fit for a terminal whatever their producers put into them."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mediator.distributed.parking import ParkedEvent
from mediator.printable import printable

_COLUMNS = (
    "number",
    "direction",
    "consumer",
    "type",
    "partition_key",
    "reason",
    "error_class",
    "attempts",
    "parked_at",
)
_TITLES = ("NUMBER", "WAY", "CONSUMER", "TYPE", "KEY", "REASON", "ERROR", "ATTEMPTS", "PARKED")
_WIDEST = 48


def as_row(parking: str, event: ParkedEvent, *, whole: bool = False) -> dict[str, Any]:
    """What is shown of an event; `whole` with headers, error text and payload, else without."""
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
        "error_class": _class_of(event.error),
        "attempts": event.attempts,
        "parked_at": datetime.fromtimestamp(event.parked_at, UTC).isoformat(timespec="seconds"),
    }
    if whole:
        row |= {"error": event.error, "content_type": event.content_type, "extensions": dict(event.extensions)}
        row |= {"headers": dict(event.headers), **body_of(event.data)}
    return row


def _class_of(error: str) -> str:
    """The class that an error's text begins with, if it does; the rest of the text may hold a part of the payload."""
    name, colon, _ = error.partition(": ")
    return name if colon and name.isidentifier() else ""


def body_of(data: bytes) -> dict[str, str]:
    """A payload as text, or as base64 where it is none."""
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(data).decode()}


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON in ASCII: what cannot be printed is escaped."""
    return json.dumps(value, indent=indent)


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under each other."""
    return table(rows, _COLUMNS, _TITLES) if rows else "Nothing is parked."


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], titles: Sequence[str]) -> str:
    """Some columns of rows under their titles."""
    cells = [titles, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)
    return "\n".join(lines)


def _cell(value: object) -> str:
    text = "" if value is None else printable(str(value)).replace("\n", "\\n")
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def as_text(row: Mapping[str, Any]) -> str:
    """One event, a line for each of its parts and the body at the end."""
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
    return printable(text).replace("\n", "\\n")
