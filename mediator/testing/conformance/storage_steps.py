"""Steps: what the cases of storages do again and again."""

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mediator.distributed.broker import DistributedEventBroker
from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox import Admission
from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason
from mediator.testing.conformance.storage import StorageUnderTest

GROUP = "advising"
ALL = ParkedFilter()
OUT = ParkedFilter(direction="out")
FUTURE = timedelta(hours=1)


async def outcome_of(doing: Awaitable[Any]) -> Any:
    """What it returns, or `LookupError` if it raises that."""
    try:
        return await doing
    except LookupError as error:
        return type(error)


async def add(storage: StorageUnderTest, *events: DistributedEvent, after: timedelta | None = None) -> Sequence[str]:
    """Add events in a command of their own; their ids."""

    async def action(storage: StorageUnderTest) -> list[str]:
        deliver_at = None if after is None else datetime.now(UTC) + after
        broker = DistributedEventBroker(storage.unit_of_work)
        return [broker.add(event, deliver_at=deliver_at) for event in events]

    ids: list[str] = await storage.do(action)
    return ids


async def park_first(storage: StorageUnderTest) -> ParkedEvent:
    """Let the broker refuse the oldest event."""
    async with storage.outbox.claim(1) as batch:
        await batch.park(batch.events[0], ParkReason.REFUSED, "too large")
    [refused] = await storage.parking.find(OUT)
    return refused


def parked_event(event_id: str, key: str | None = "k", **changes: Any) -> ParkedEvent:
    """An event that came in, and that no handler could handle."""
    made = ParkedEvent(
        direction="in",
        consumer=GROUP,
        source="shop",
        event_id=event_id,
        type="shop.order-placed.v1",
        time="2026-01-02T03:04:05+00:00",
        partition_key=key,
        content_type="application/json",
        extensions={"tenant": "acme"},
        data=b"\x00\xff{}",
        subject="events.shop.order-placed.3",
        headers={"ce-id": event_id, "odd": "\x1b[2J\u2028"},
        sequence=7,
        reason=ParkReason.HANDLER_FAILED,
        error="ValueError: no",
        attempts=8,
        parked_at=1000.5,
    )
    return replace(made, **changes)


async def insert(storage: StorageUnderTest, event_id: str, key: str | None = "k") -> Admission:
    """Take an event in, in a transaction of its own."""
    async with storage.transaction() as unit_of_work:
        return await storage.inbox.insert(unit_of_work, GROUP, "shop", event_id, key=key)


async def park(storage: StorageUnderTest, *events: ParkedEvent) -> Sequence[int]:
    """Set events aside; their numbers."""
    for event in events:
        assert await storage.parking.park(event)
    return [event.number for event in await storage.parking.find(ALL)][-len(events) :]


async def take(storage: StorageUnderTest, number: int) -> ParkedEvent:
    """Take an event out, in a transaction of its own."""
    async with storage.transaction() as unit_of_work:
        return await storage.parking.take(unit_of_work, number)


async def ids(storage: StorageUnderTest, which: ParkedFilter = ALL, **options: Any) -> list[str]:
    """The ids of the events that are found."""
    return [event.event_id for event in await storage.parking.find(which, **options)]
