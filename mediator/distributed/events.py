"""DistributedEvent: a fact that leaves the process after the commit, under a name and a version of its own."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from mediator.errors import EventDeclarationError

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the payload of one version, decoded into plain data, into that of the next. A pure function."""

Ordering = Literal["strict", "row"]
"""How events of one partition key get into the order of their commits; see `DistributedEvent.ordering`."""

_LONGEST_WORD = 64
"""Characters in each part of an event type, so that every type fits into a broker's subject and a column of a database."""

_ORDERINGS = ("strict", "row")
_WORD = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_EVENT_TYPE = re.compile(rf"{_WORD}\.{_WORD}")
_WIRE_TYPE = re.compile(rf"({_WORD}\.{_WORD})\.v([1-9][0-9]*)")


class DistributedEvent:
    """The base of events for other applications. It is no notification: it is added to a `DistributedEventBroker`.

    A subclass declares `event_type`, and `event_version` when it is not 1. A type is a name and a version, never a
    Python path: classes can be moved and renamed. `partition_key` can be overridden by a property or a field.
    """

    __slots__ = ()

    event_type: ClassVar[str] = ""
    """`<context>.<name>`, of up to 64 lower-case letters, digits and hyphens each. The context names the stream."""

    event_version: ClassVar[int] = 1
    """Raised when the payload changes incompatibly."""

    ordering: ClassVar[Ordering] = "strict"
    """How events of one partition key get into the order of their commits, where a database has several writers.

    `"strict"` holds a lock of the key from the storing of the events to the end of the commit. `"row"` takes none: each
    transaction that adds such an event has updated or locked one row that stands for the key, before it commits.
    """

    upcasters: ClassVar[Mapping[int, Upcaster]] = MappingProxyType({})
    """By version, what lifts the payload of that version to the next: `{1: from_v1, 2: from_v2}` for version 3."""

    @property
    def partition_key(self) -> str | None:
        """Order is kept among the events of one key; `None` for an event without order."""
        return None


class _NoPartitionKey:
    """Reads as `None`. A dataclass takes what it inherits for the default of a field of that name, a property too."""

    def __get__(self, event: DistributedEvent | None, event_class: type[DistributedEvent]) -> None:
        if event is None:
            raise AttributeError("partition_key")


setattr(DistributedEvent, "partition_key", _NoPartitionKey())  # noqa: B010  (type checkers are to see the property)


def wire_type(event_class: type[DistributedEvent]) -> str:
    """The type on the wire: `<event_type>.v<event_version>`.

    Raises:
        EventDeclarationError: The class does not declare a valid one, or no valid ordering.
    """
    event_type: object = getattr(event_class, "event_type", None)
    version: object = getattr(event_class, "event_version", None)
    if not event_type:
        raise EventDeclarationError(event_class, "has no event_type")
    if not isinstance(event_type, str) or not _is_event_type(event_type):
        raise EventDeclarationError(event_class, f"has the event_type {event_type!r}")
    if type(version) is not int or version < 1:
        raise EventDeclarationError(event_class, f"has the event_version {version!r}")
    if (ordering := getattr(event_class, "ordering", None)) not in _ORDERINGS:
        raise EventDeclarationError(event_class, f"has the ordering {ordering!r}")
    return f"{event_type}.v{version}"


@cache
def _is_event_type(text: str) -> bool:
    return _EVENT_TYPE.fullmatch(text) is not None and all(len(word) <= _LONGEST_WORD for word in text.split("."))


def split_wire_type(wire: str) -> tuple[str, int]:
    """The event type and the version that a type on the wire stands for.

    Raises:
        ValueError: It is not one.
    """
    found = _WIRE_TYPE.fullmatch(wire)
    if found is None:
        raise ValueError(f"{wire!r} is not <context>.<name>.v<version>")
    return found[1], int(found[2])
