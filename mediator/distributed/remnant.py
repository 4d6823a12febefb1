"""Remnant: what can still be read of a message that is no readable event."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remnant:
    """Enough to keep the order of its key, and to show what it was; see `identity_of` why its id is of no use.

    Attributes:
        type: Its type on the wire; empty when it cannot be read.
        partitionkey: Its key; `None` when it has none, or none that can be read.
    """

    type: str = ""
    partitionkey: str | None = None
