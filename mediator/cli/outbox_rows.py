"""Outbox rows: events of an outbox and its archive as tables, as text and as JSON, fit for a terminal."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mediator.cli.rows import body_of, table
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox_contents import OutboxCount, OutboxRecord

_COLUMNS = ("sequence", "place", "id", "type", "partition_key", "size", "time", "moved_at")
_TITLES = ("SEQUENCE", "PLACE", "ID", "TYPE", "KEY", "BYTES", "RAISED", "ARCHIVED/DUE")


def as_row(outbox: str, record: OutboxRecord, event: CloudEvent | None = None) -> dict[str, Any]:
    """What is shown of an event: without its payload, unless it is given whole."""
    row: dict[str, Any] = {
        "outbox": outbox,
        "place": record.place,
        "sequence": record.sequence,
        "id": record.id,
        "type": record.type,
        "partition_key": record.partition_key,
        "size": record.size,
        "time": record.time.isoformat(timespec="seconds"),
        "moved_at": as_time(record.moved_at),
    }
    if event is not None:
        row |= {"content_type": event.datacontenttype, "extensions": dict(event.extensions), **body_of(event.data)}
    return row


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under each other."""
    return table(rows, _COLUMNS, _TITLES) if rows else "Nothing is there."


def as_time(at: float | None) -> str | None:
    """A time in seconds since the epoch, as ISO 8601."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def counted(shown: int, counts: Sequence[OutboxCount]) -> str:
    """How many there are, and how old the oldest is."""
    total = sum(count.events for count in counts)
    oldest = min((count.oldest for count in counts if count.oldest is not None), default=None)
    text = f"{shown} of {total}" if shown != total else str(total)
    return text if oldest is None else f"{text}, the oldest from {as_time(oldest)}, {_age(time.time() - oldest)} ago"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
