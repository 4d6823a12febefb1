"""Envelope columns: how the envelope of an event is laid out in a row, and read from one."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row

from mediator.distributed.cloudevents import CloudEvent

ENVELOPE = ("id", "type", "time", "partition_key", "bucket", "content_type", "extensions", "data")
"""The columns that the outbox and its archive have for an event."""


def columns_of(event: CloudEvent) -> dict[str, Any]:
    """The value of each column in `ENVELOPE`."""
    return {
        "id": event.id,
        "type": event.type,
        "time": event.time.isoformat(),
        "partition_key": event.partitionkey,
        "bucket": event.bucket,
        "content_type": event.datacontenttype,
        "extensions": text_of(event.extensions),
        "data": event.data,
    }


def event_of(row: Row[Any]) -> CloudEvent:
    """The event in a row of the outbox or its archive."""
    return CloudEvent(
        id=row.id,
        type=row.type,
        time=datetime.fromisoformat(row.time),
        data=bytes(row.data),
        datacontenttype=row.content_type,
        partitionkey=row.partition_key,
        extensions=msgspec.json.decode(row.extensions, type=dict[str, str]),
    )


def text_of(extensions: Mapping[str, str]) -> str:
    """Extension attributes as the text that is stored."""
    return msgspec.json.encode(dict(extensions)).decode()
