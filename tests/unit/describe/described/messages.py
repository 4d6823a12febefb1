"""Messages of the application that is described."""

from dataclasses import dataclass
from typing import ClassVar

from mediator import Command, DistributedEvent, Notification, Query, Request


@dataclass(frozen=True, slots=True)
class Order(Command[list[str]]):
    title: str = ""


@dataclass(frozen=True, slots=True)
class Pay(Command[None]):
    pass


@dataclass(frozen=True, slots=True)
class Price(Query[int]):
    pass


@dataclass(frozen=True, slots=True)
class Ping(Request[None]):
    pass


@dataclass(frozen=True, slots=True)
class Changed(Notification):
    pass


@dataclass(frozen=True, slots=True)
class Ordered(Changed):
    pass


@dataclass(frozen=True, slots=True)
class OrderPlaced(DistributedEvent):
    event_type: ClassVar[str] = "shop.order-placed"
    event_version: ClassVar[int] = 2
