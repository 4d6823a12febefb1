"""Tables and rows as the library wrote them with version 1 of its tables: `sqlite.sql`, `postgresql.sql`.

The same application wrote both: "enrollment", with the classes of this module. Its outbox has five events: one with the
partition key ada, one without a key, one with an empty key, a delayed one, and an archived one; one event was refused.
Its consumer has an event that took effect, a foreign one without an id that took effect, one counted attempt, and a
parked event. One command was handled under the key `order-7`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mediator import Command, DistributedEvent

APPLICATION = "enrollment"


@dataclass(frozen=True, slots=True)
class Enrolled(DistributedEvent):
    event_type: ClassVar[str] = "university.enrolled"

    student: str
    key: str | None = None

    @property
    def partition_key(self) -> str | None:
        return self.key


@dataclass(frozen=True, slots=True)
class PlaceOrder(Command[int]):
    item: str
    amount: int
    note: str = ""
    labels: frozenset[str] = frozenset()
    idempotency_key: str | None = None


ORDER = PlaceOrder("book", 2, idempotency_key="order-7")
"""The handled command, with the response 42."""


def statements(dialect: str) -> Sequence[str]:
    text = (Path(__file__).parent / f"{dialect}.sql").read_text(encoding="utf-8")
    return [each.strip() for each in text.split(";\n") if each.strip()]
