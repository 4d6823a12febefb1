"""Republishing over time: the patience with an outage, the events that are sent again, and the rate."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import EventPublisher, OutboxFilter, PublishResult, Republishing
from mediator.distributed.throttle import Throttle
from mediator.errors import (
    DuplicateDroppedError,
    EventHeldBackError,
    PublisherUnavailableError,
    StreamNotFoundError,
    StreamUnavailableError,
)
from mediator.testing import InMemoryDatabase, InMemoryOutbox
from tests.unit.virtual_time import in_virtual_time, now

ALL = OutboxFilter("archived")
AWAY = PublisherUnavailableError("nats://broker", "connection refused")


class Broker(EventPublisher):
    """A broker that returns for each event its error in `errors`, and records time, ids and mark of each call."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.remembered: set[str] = set()
        self.calls: list[tuple[float, list[str], str]] = []
        self.stored: list[str] = []
        self.waits: list[float] = []

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        return self._take(events, "")

    async def refill(self, events: Sequence[CloudEvent], /, *, mark: str = "") -> Sequence[PublishResult]:
        return self._take(events, mark)

    def _take(self, events: Sequence[CloudEvent], mark: str) -> Sequence[PublishResult]:
        self.calls.append((now(), [each.id for each in events], mark))
        assert len(self.calls) < 1000, "the broker is called endlessly"
        results = []
        for each in events:
            error = self.errors.get(each.id)
            if error is None and each.id in self.remembered and not mark:
                error = DuplicateDroppedError("broker", "it remembers the id", each.id)
            if error is None:
                self.stored.append(each.id)
            results.append(PublishResult(each, error, duplicate=isinstance(error, DuplicateDroppedError)))
        return results

    async def wait_for_recovery(self, seconds: float, /) -> bool:
        self.waits.append(seconds)
        return await super().wait_for_recovery(seconds)


def archive(count: int) -> InMemoryOutbox:
    database = InMemoryDatabase()
    for number in range(1, count + 1):
        event = CloudEvent(f"{number}", "shop.x.v1", datetime.now(UTC), b"{}", partitionkey="k")
        database.archive.append(event)
        database.archived[event.id] = (next(database.numbers), datetime.now(UTC).timestamp())
    return InMemoryOutbox(database)


def republishing(outbox: InMemoryOutbox, broker: Broker, rate: float | None = None, **options: float) -> Republishing:
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)

    return Republishing(outbox.contents, broker, throttle=Throttle(rate, clock=now, sleep=sleep), clock=now, **options)


@in_virtual_time
async def test_each_batch_waits_for_an_unavailable_broker_no_longer_than_the_patience() -> None:
    outbox, broker = archive(20), Broker()
    run = republishing(outbox, broker, rate=5, patience=30).run(ALL)
    broker.errors = {f"{number}": AWAY for number in range(1, 21)}
    asyncio.get_running_loop().call_later(25, broker.errors.clear)
    done = await anext(run)
    assert (done.stored, round(now())) == (5, 25)
    broker.errors = {f"{number}": AWAY for number in range(1, 21)}
    asyncio.get_running_loop().call_later(25, broker.errors.clear)
    done = await anext(run)
    assert (done.stored, round(now())) == (5, 50)
    broker.errors = {f"{number}": AWAY for number in range(1, 21)}
    with pytest.raises(PublisherUnavailableError):
        await anext(run)
    assert 80 <= now() <= 82
    assert set(broker.waits) == {1.0}
    assert len(broker.calls) <= 85


@in_virtual_time
async def test_stored_events_are_not_sent_again_while_the_remaining_events_are_retried() -> None:
    outbox, broker = archive(4), Broker()
    broker.errors = {
        "2": StreamUnavailableError("nats://broker", "full", "s"),
        "3": EventHeldBackError("3", "shop.x.v1"),
    }
    asyncio.get_running_loop().call_later(2.5, broker.errors.clear)
    [done] = [each async for each in republishing(outbox, broker).run(ALL)]
    assert (done.stored, done.duplicates, broker.stored) == (4, 0, ["1", "4", "2", "3"])
    assert [ids for _, ids, _ in broker.calls] == [["1", "2", "3", "4"], *[["2", "3"]] * 3]


@in_virtual_time
async def test_a_permanent_error_ends_the_run_although_other_errors_may_recover() -> None:
    outbox, broker = archive(2), Broker()
    broker.errors = {"1": AWAY, "2": StreamNotFoundError("nats://broker", "x", "s")}
    with pytest.raises((PublisherUnavailableError, StreamNotFoundError)):
        await anext(republishing(outbox, broker).run(ALL))
    assert now() == 0.0


@in_virtual_time
async def test_a_rate_holds_across_batches_and_the_first_batch_has_no_pause() -> None:
    outbox, broker = archive(20), Broker()
    started = [now() async for _ in republishing(outbox, broker, rate=4).run(ALL)]
    assert started == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [ids[0] for _, ids, _ in broker.calls] == ["1", "5", "9", "13", "17"]


@in_virtual_time
async def test_events_that_the_broker_remembers_are_sent_again_with_a_mark_even_through_an_outage() -> None:
    outbox, broker = archive(4), Broker()
    page = await outbox.contents.find(ALL)
    broker.remembered = {"2", "3"}
    done = await republishing(outbox, broker).publish(page, mark="m1")
    assert now() == 0.0
    assert [(ids, mark) for _, ids, mark in broker.calls] == [(["1", "2", "3", "4"], ""), (["2", "3"], "m1")]
    assert (done.stored, done.duplicates) == (4, 0)
    broker.calls.clear()
    broker.errors = {"3": AWAY}
    asyncio.get_running_loop().call_later(3.5, broker.errors.clear)
    await republishing(outbox, broker).publish(page, mark="m2")
    assert [(ids, mark) for _, ids, mark in broker.calls][1:] == [(["2", "3"], "m2"), *[(["3"], "m2")] * 4]
