"""DistributedEvent: an event for other applications, which leaves the process after the commit."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from mediator.errors import misuse

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""A pure function that converts the payload of one version, as plain data, to the next version."""

KeyLocking = Literal["strict", "row"]
"""How events of one key are kept in commit order; see `DistributedEvent.key_locking`."""

_LONGEST_WORD = 64
"""The largest number of characters in each of the two words of an event type.

With this limit every event type fits into a broker's subject and a database column.
"""

_KEY_LOCKINGS = ("strict", "row")
_WORD = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_EVENT_TYPE = re.compile(rf"{_WORD}\.{_WORD}")
_WIRE_TYPE = re.compile(rf"({_WORD}\.{_WORD})\.v([1-9][0-9]*)")


class DistributedEvent:
    """The base class of events for other applications.

    A distributed event is not a notification. Handlers add events to a `DistributedEventBroker`. A subclass declares
    `event_type`, and `event_version` when the version is not 1. Type and version identify the event in all
    applications; the name and module of the class do not matter, so classes can be renamed and moved. A property or a
    field can override `partition_key`.
    """

    __slots__ = ()

    event_type: ClassVar[str] = ""
    """`<domain>.<name>`: two words of up to 64 lower-case letters, digits and hyphens. A domain has one stream."""

    event_version: ClassVar[int] = 1
    """Increase this when the payload changes incompatibly."""

    key_locking: ClassVar[KeyLocking] = "strict"
    """How events of one partition key are kept in the order in which concurrent transactions commit.

    `"strict"` locks the key from the storing of the events to the end of the commit. `"row"` takes no lock. Instead,
    all transactions that add events of the key must update or lock the same row before they commit.
    """

    upcasters: ClassVar[Mapping[int, Upcaster]] = MappingProxyType({})
    """For each older version, a function that converts the payload of that version to the next version.

    A class of version 3 declares `{1: from_v1, 2: from_v2}`.
    """

    @property
    def partition_key(self) -> str | None:
        """The key whose events are kept in order; `None` for an event without order."""
        return None


class _NoPartitionKey:
    """An attribute that is `None` on an event and missing on its class.

    A dataclass may have a field `partition_key`. An inherited property would become the default of that field.
    """

    def __get__(self, event: DistributedEvent | None, event_class: type[DistributedEvent]) -> None:
        if event is None:
            raise AttributeError("partition_key")


setattr(DistributedEvent, "partition_key", _NoPartitionKey())  # noqa: B010  (type checkers should see the property)


def wire_type(event_class: type[DistributedEvent]) -> str:
    """Return the wire type of an event class: `<event_type>.v<event_version>`.

    Raises:
        DeclarationError: The class declares no valid type, version or key locking.
    """
    event_type: object = getattr(event_class, "event_type", None)
    version: object = getattr(event_class, "event_version", None)
    if not event_type:
        raise misuse.event_declaration(event_class, "has no event_type")
    if not isinstance(event_type, str) or not _is_event_type(event_type):
        raise misuse.event_declaration(event_class, f"has the event_type {event_type!r}")
    if type(version) is not int or version < 1:
        raise misuse.event_declaration(event_class, f"has the event_version {version!r}")
    if (key_locking := getattr(event_class, "key_locking", None)) not in _KEY_LOCKINGS:
        raise misuse.event_declaration(event_class, f"has the key_locking {key_locking!r}")
    return f"{event_type}.v{version}"


@cache
def _is_event_type(text: str) -> bool:
    return _EVENT_TYPE.fullmatch(text) is not None and all(len(word) <= _LONGEST_WORD for word in text.split("."))


def split_wire_type(wire: str) -> tuple[str, int]:
    """Return the event type and the version of a wire type.

    Raises:
        ValueError: The text is not a wire type.
    """
    found = _WIRE_TYPE.fullmatch(wire)
    if found is None:
        raise ValueError(f"{wire!r} is not <domain>.<name>.v<version>")
    return found[1], int(found[2])
