"""Events that wait behind a hanging handler are handed back, so that events of other types are delivered."""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from mediator import DistributedEvent, DistributedEventHandler, Mediator
from mediator.binding import Binding
from mediator.registry import Registry
from tests.unit.distributed.inbox.application import Application, Handler, OrderPlaced, hanging
from tests.unit.distributed.inbox.test_times import Timed
from tests.unit.virtual_time import in_virtual_time, now


@dataclass(frozen=True, slots=True)
class OrderCancelled(DistributedEvent):
    event_type: ClassVar[str] = "shop.order-cancelled"


class OrderCancelledHandler(DistributedEventHandler[OrderCancelled]):
    async def handle(self, event: OrderCancelled) -> None:
        """Handle another type, which has a reserved place."""


class TwoTypes(Timed):
    """An application that handles two types of events with a concurrency of two; orders can use one place."""

    more: tuple[Binding, ...] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__({"concurrency": 2, **options})
        handlers = [
            Binding(lambda: Handler(self), Handler, "reserve", DistributedEventHandler),
            Binding(OrderCancelledHandler, OrderCancelledHandler, "release", DistributedEventHandler),
            *self.more,
        ]
        self.mediator = Mediator(Registry(handlers, []))
        self.consumer = self.consuming()


@dataclass(frozen=True, slots=True)
class InvoicePaid(DistributedEvent):
    event_type: ClassVar[str] = "billing.invoice-paid"


class InvoicePaidHandler(DistributedEventHandler[InvoicePaid]):
    async def handle(self, event: InvoicePaid) -> None:
        """Handles a type of another stream."""


class ThreeTypes(TwoTypes):
    """An application that handles three types of events, one of them of another stream."""

    more = (Binding(InvoicePaidHandler, InvoicePaidHandler, "book", DistributedEventHandler),)


def lasting_until(event: asyncio.Event) -> Any:
    async def act(_event: OrderPlaced) -> None:
        await event.wait()

    return act


async def until(application: Application, starts: dict[int, int]) -> None:
    while application.starts != starts:
        await asyncio.sleep(0.1)


@in_virtual_time
async def test_the_newest_waiting_events_are_handed_back_for_half_a_minute_and_then_take_effect() -> None:
    application, go = TwoTypes(), asyncio.Event()
    application.acts = {1: lasting_until(go)}
    application.publish(1, 2, 3, 4, 5)
    async with application.running():
        await asyncio.sleep(5)
        go.set()
        await asyncio.sleep(5)
        assert application.effects == [1, 2, 3]
        await application.broker.wait_until_acknowledged("warehouse", 5)
        assert 15 <= now() <= 35
    assert sorted(application.effects) == [1, 2, 3, 4, 5]
    assert sorted(application.attempts) == [(number, 1) for number in range(1, 6)]


@in_virtual_time
async def test_an_event_that_was_handed_back_once_and_then_started_is_not_handed_back_again() -> None:
    application, first, second = TwoTypes(retry_delays=(1.0,)), asyncio.Event(), asyncio.Event()

    async def fail(_event: OrderPlaced) -> None:
        if application.starts[4] == 1:
            application.publish(5, 6, 7)
        raise ValueError

    application.acts = {1: lasting_until(first), 4: fail, 5: lasting_until(second)}
    application.publish(1, 2, 3, 4)
    async with application.running():
        await asyncio.sleep(5)
        first.set()
        await until(application, {1: 1, 2: 1, 3: 1, 4: 1, 5: 1})
        await asyncio.sleep(10)  # event 4 was redelivered and waits together with 6 and 7
        second.set()
        await asyncio.sleep(1)
        assert application.parked() == [("e4", "handler-failed", 2)]
        await application.broker.wait_until_acknowledged("warehouse", 7)
    assert [attempt for number, attempt in application.attempts if number == 4] == [1, 2]
    assert sorted(application.effects) == [1, 2, 3, 5, 6, 7]


@in_virtual_time
async def test_an_event_whose_start_cannot_be_taken_back_stays_in_this_process_and_is_handled() -> None:
    application, go = TwoTypes(), asyncio.Event()
    take_back, failures = application.inbox.take_back, 0

    async def fail(*_: object) -> None:
        nonlocal failures
        failures += 1
        raise OSError("the disk is full")

    application.inbox.take_back = fail  # type: ignore[method-assign]
    application.acts = {1: lasting_until(go)}
    application.publish(1, 2, 3, 4, 5)
    with capture_logs() as logs:
        async with application.running():
            await asyncio.sleep(5)
            go.set()
            await application.settled(5)
            assert now() < 6
            application.inbox.take_back = take_back  # type: ignore[method-assign]
    assert sorted(application.effects) == [1, 2, 3, 4, 5]
    assert [attempt for _, _, attempt in application.deliveries] == [1] * 5
    assert [line["event"] for line in logs].count("delivery not handed back") == failures > 1


@in_virtual_time
async def test_an_event_that_another_process_has_started_is_not_handed_back_again() -> None:
    application, go = TwoTypes(), asyncio.Event()
    application.acts = {1: lasting_until(go)}
    application.publish(1, 2, 3, 4)
    async with application.running():
        await asyncio.sleep(5)  # event 4 was handed back
        await application.inbox.start("warehouse", "shop", "e4", 8)  # started by a process that is killed afterwards
        application.elsewhere[4] = 1
        await asyncio.sleep(40)  # event 4 was redelivered and waits together with 2 and 3
        go.set()
        await asyncio.sleep(1)
        assert [attempt for number, attempt in application.attempts if number == 4] == [2]
    assert [attempt for _, number, attempt in application.deliveries if number == 4] == [1, 3]


async def _nothing(*_: object) -> None:
    """Do nothing; replaces a method of the inbox."""


@in_virtual_time
async def test_a_start_is_taken_back_before_its_event_is_handed_back() -> None:
    application, log = TwoTypes(drain_timeout=0.0), list[str]()
    take_back = application.inbox.take_back

    async def slow(*row: str) -> None:
        await asyncio.sleep(0.5)
        await take_back(*row)
        log.append("written down")

    application.inbox.take_back = slow  # type: ignore[method-assign]
    application.on_nak = lambda _delay: log.append("handed back")
    application.acts = {1: hanging}
    application.publish(1, 2, 3, 4, 5)
    async with application.running():
        await asyncio.sleep(6)
        assert log == ["written down", "handed back"] * 2


@in_virtual_time
async def test_an_event_being_handed_back_when_the_consumer_stops_is_returned_at_once() -> None:
    application, handed_back = TwoTypes(drain_timeout=0.0), list[float]()
    application.on_nak = handed_back.append
    asked = 0

    async def never(*_: object) -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(3600)

    application.inbox.take_back = never  # type: ignore[method-assign]
    application.acts = {1: hanging}
    application.publish(1, 2, 3, 4, 5)
    async with application.running():
        await asyncio.sleep(5)
        assert asked == 1
        application.inbox.take_back = _nothing  # type: ignore[method-assign]
    assert handed_back == [0.0] * 5


@in_virtual_time
async def test_an_event_stays_outstanding_until_a_slow_database_has_taken_its_start_back() -> None:
    application = TwoTypes(drain_timeout=0.0)
    take_back = application.inbox.take_back

    async def slow(*row: str) -> None:
        await asyncio.sleep(20)
        await take_back(*row)

    application.inbox.take_back = slow  # type: ignore[method-assign]
    application.acts = {1: hanging}
    application.publish(1, 2, 3, 4, 5, 6)
    async with application.running():
        await asyncio.sleep(40)
        assert [attempt for _, number, attempt in application.deliveries if number == 4] == [1]
        await asyncio.sleep(25)  # by now event 4 has been handed back too
        application.inbox.take_back = take_back  # type: ignore[method-assign]
    assert [attempt for _, number, attempt in application.deliveries if number == 4] == [1]


@in_virtual_time
async def test_an_event_is_handed_back_for_longer_each_time() -> None:
    application = TwoTypes(drain_timeout=0.0, handler_timeout=3600.0)
    application.acts = {1: hanging}
    application.publish(1, 2, 3, 4)
    pauses: list[float] = []
    application.on_nak = pauses.append
    async with application.running():
        await asyncio.sleep(1500)
    longest = [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    assert len(pauses) > len(longest)
    assert [bound / 2 <= pause <= bound for pause, bound in zip(pauses, longest, strict=False)] == [True] * 6, pauses


@in_virtual_time
async def test_the_memory_of_events_that_were_handed_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediator.distributed.inbox.consumer._MOST_HANDED_BACK", 10)
    application = TwoTypes(drain_timeout=0.0)
    application.acts = {1: hanging}
    application.publish(1, 2, 3)
    async with application.running():
        for number in range(4, 100):
            application.publish(number)
            await asyncio.sleep(4)
            assert len(application.consumer._handed_back) <= 11
        assert len(application.deliveries) > 100


@in_virtual_time
async def test_waiting_events_of_one_type_leave_half_of_the_prefetch_of_a_stream_to_other_types() -> None:
    application, handed_back = ThreeTypes(concurrency=8, prefetch=24, drain_timeout=0.0), list[float]()
    application.acts = dict.fromkeys(range(1, 8), hanging)
    application.publish(*range(1, 25))
    application.on_nak = handed_back.append
    async with application.running():
        await asyncio.sleep(10)
        assert len(application.starts) == 7
        assert len(handed_back) == 24 - 7 - 24 // (2 * 2)


@in_virtual_time
async def test_an_ordered_group_hands_no_event_back_because_each_partition_has_its_own_place() -> None:
    application, handed_back = TwoTypes(ordering="key", drain_timeout=0.0), list[float]()
    application.acts = {1: hanging}
    for number in range(1, 9):
        application.publish(number, key=f"{number}")
    application.on_nak = handed_back.append
    async with application.running():
        await asyncio.sleep(20)
        assert handed_back == []
        assert len(application.deliveries) > 4
