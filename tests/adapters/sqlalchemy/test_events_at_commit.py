"""Events are checked and stored with the commit: one that cannot be stored fails the command, and nothing is written."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from sqlalchemy import text

from mediator import DistributedEvent, current_unit_of_work
from mediator.errors import DeclarationError, EventLimitError, EventNotSerializableError, MisuseError, SchemaError
from mediator.testing import InMemoryBroker, InMemoryEventPublisher
from tests.adapters.sqlalchemy.ledger import Do, EntryWritten, Ledger, Noted, Write


@dataclass(frozen=True, slots=True)
class Blob(DistributedEvent):
    event_type: ClassVar[str] = "ledger.blob"
    content: Any
    key: Any = None

    @property
    def partition_key(self) -> Any:
        return self.key


def untyped() -> DistributedEvent:
    @dataclass(frozen=True, slots=True)
    class Untyped(DistributedEvent):
        content: str = ""

    return Untyped()


def misnamed() -> DistributedEvent:
    @dataclass(frozen=True, slots=True)
    class Misnamed(DistributedEvent):
        event_type: ClassVar[str] = "Ledger.Entry"

    return Misnamed()


@dataclass(frozen=True, slots=True)
class Measured(DistributedEvent):
    event_type: ClassVar[str] = "ledger.measured"
    value: float


def adding(*events: Any) -> Callable[[Ledger], Any]:
    async def add(ledger: Ledger) -> None:
        for event in events:
            ledger.events.add(event)

    return add


@pytest.mark.parametrize(
    ("event", "error", "text"),
    [
        (Blob(object()), EventNotSerializableError, "Blob cannot be serialized"),
        (Measured("7"), EventNotSerializableError, r"cannot be read again: .*Expected `float`, got `str`"),
        (Measured(float("nan")), EventNotSerializableError, "cannot be read again"),
        (Measured(float("inf")), EventNotSerializableError, "cannot be read again"),
        (Blob("x" * 1_000_001), EventLimitError, "more than max_event_bytes"),
        (Blob("x", key=7), EventNotSerializableError, "its partition_key is of type int"),
        (Blob("x", key="\ud800"), EventNotSerializableError, "serialized"),
        (EntryWritten(7), EventNotSerializableError, "Expected `str`, got `int`"),  # type: ignore[arg-type]
        (untyped(), DeclarationError, "has no event_type"),
        (misnamed(), DeclarationError, "'Ledger.Entry'"),
        (Noted("a"), MisuseError, "Publish a notification"),
        ("text", MisuseError, "not a DistributedEvent"),
    ],
)
async def test_an_event_that_cannot_be_sent_fails_the_command_and_nothing_is_committed(
    ledger: Ledger, event: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await ledger.send(Write("a", then=adding(event)))
    assert await ledger.entries() == await ledger.staged() == []
    await ledger.send(Write("b"))
    assert await ledger.staged() == ["b"]


async def test_the_limit_of_an_events_size_can_be_set(ledger: Ledger) -> None:
    small = Ledger(ledger.engine, uow_options={"max_event_bytes": 40})
    await small.send(Do(adding(EntryWritten("short"))))
    with pytest.raises(EventLimitError, match=r"more than max_event_bytes \(40\)"):
        await small.send(Do(adding(EntryWritten("long" * 10))))
    assert await small.staged() == ["short"]


async def test_add_returns_the_id_under_which_the_event_is_stored_with_its_context(ledger: Ledger) -> None:
    async def add(ledger: Ledger) -> tuple[str, str]:
        event_id = ledger.events.add(Blob("x", key="k"))
        await ledger.send(Do(adding(Blob("y", key="k"))))
        return event_id, current_unit_of_work().transaction_id

    event_id, _ = await ledger.send(Do(add))
    async with ledger.outbox.claim(10) as batch:
        first, second = batch.events
    assert (first.id, first.type, first.partitionkey, first.source) == (event_id, "ledger.blob.v1", "k", "")
    assert first.time.tzinfo is not None
    assert first.extensions["correlationid"] == second.extensions["correlationid"]
    assert first.extensions["causationid"] != second.extensions["causationid"]


async def test_missing_tables_are_named_with_the_remedy_and_nothing_is_committed(ledger: Ledger) -> None:
    async with ledger.engine.begin() as connection:
        await connection.execute(text("DROP TABLE mediator_outbox"))
    with pytest.raises(SchemaError, match="mediator schema create"):
        await ledger.send(Write("a"))
    assert await ledger.entries() == []


async def test_a_delayed_event_cannot_be_delivered_directly(ledger: Ledger) -> None:
    publisher = InMemoryEventPublisher(InMemoryBroker(), application="ledger")
    direct = Ledger(ledger.engine, behavior_options={"delivery": "direct", "publisher": publisher})

    async def delay(ledger: Ledger) -> None:
        ledger.events.add(EntryWritten("late"), deliver_at=datetime.now(UTC))

    with pytest.raises(MisuseError, match="no outbox"):
        await direct.send(Write("a", then=delay))
    assert await ledger.entries() == []
