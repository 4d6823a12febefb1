"""Types of the upcasters of an event class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mediator import DistributedEvent
from mediator.distributed.events import Upcaster


def from_v1(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"status": "enrolled"}


async def later(data: dict[str, Any]) -> dict[str, Any]:
    return data


def nothing(data: dict[str, Any]) -> None:
    data.clear()


@dataclass(frozen=True, slots=True)
class Changed(DistributedEvent):
    event_type: ClassVar[str] = "university.changed"
    event_version: ClassVar[int] = 3
    upcasters: ClassVar[Mapping[int, Upcaster]] = {1: from_v1, 2: lambda data: {**data, "reason": ""}}
    status: str


class Asynchronous(DistributedEvent):
    upcasters: ClassVar[Mapping[int, Upcaster]] = {1: later}  # error


class WithoutResult(DistributedEvent):
    upcasters: ClassVar[Mapping[int, Upcaster]] = {1: nothing}  # error


class Listed(DistributedEvent):
    upcasters: ClassVar[Mapping[int, Upcaster]] = [from_v1]  # error
