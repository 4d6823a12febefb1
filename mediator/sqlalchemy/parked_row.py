"""Parked row: how a parked event is laid out in a row, and read from one."""

from dataclasses import fields
from typing import Any

from mediator.distributed.parking import ParkedEvent, from_json, to_json

_COLUMNS = tuple(field.name for field in fields(ParkedEvent))


def row_of(event: ParkedEvent) -> dict[str, Any]:
    """The value of each column; its number is drawn when it is inserted."""
    row = {name: getattr(event, name) for name in _COLUMNS if name != "number"}
    return {**row, "extensions": to_json(event.extensions), "headers": to_json(event.headers)}


def parked_of(row: Any) -> ParkedEvent:
    """The event in a row of the table."""
    values = {name: getattr(row, name) for name in _COLUMNS}
    values["data"] = bytes(row.data)
    for name in ("extensions", "headers"):
        values[name] = from_json(getattr(row, name))
    return ParkedEvent(**values)
