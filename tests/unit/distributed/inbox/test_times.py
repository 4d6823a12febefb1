"""The times of a consumer: heartbeats, pauses, cleaning and limits. The tests count deliveries, not only effects."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from mediator import EventConsumer, current_scope
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Deliveries, Delivery, Ordering
from mediator.distributed.inbox.retries import ENDLESS_DELAYS, QUICK_DELAYS
from mediator.errors import (
    DatabaseUnavailableError,
    DatabaseWriteError,
    FatalEventError,
    MessageTimeoutError,
    SettingError,
)
from mediator.testing import InMemoryEventSubscription
from tests.unit.distributed.inbox.application import Application, OrderPlaced, failing, hanging
from tests.unit.virtual_time import in_virtual_time, now, settle


class Timed(Application):
    """An application on the clock of the loop. It records the time of every delivery, heartbeat and cleaning."""

    def __init__(self, options: dict[str, Any] | None = None, **others: Any) -> None:
        super().__init__(options or {}, **others)
        self.began = time.time()
        self.deliveries: list[tuple[float, int, int]] = []
        self.beats: list[float] = []
        self.lost_beats = 0
        self.beat_seconds = 0.0
        self.prefetches: list[int] = []
        self.cleaned: list[tuple[float, int]] = []
        self.old = 0
        self.cleaning_fails = 0
        self.failing_acks = 0
        self.elsewhere: Counter[int] = Counter()
        """For each order, the number of deliveries to other processes so far."""
        self.ended: list[tuple[int, str]] = []
        self.on_nak: Callable[[float], None] = lambda _delay: None
        self.inbox.clean = self._clean  # type: ignore[method-assign]

    def consuming(self, **options: Any) -> EventConsumer:
        given = {
            "parking": self.parking,
            "later_delays": (),
            "now": lambda: self.began + now(),
            **self.options,
            **options,
        }
        subscription = ObservedSubscription(self)
        return EventConsumer(subscription, self.inbox, self.unit_of_work, self.mediator, **given)

    async def _clean(self, limit: int) -> int:
        self.cleaned.append((now(), limit))
        if self.cleaning_fails:
            self.cleaning_fails -= 1
            raise OSError("the disk is full")
        deleted = min(limit, self.old)
        self.old -= deleted
        return deleted

    async def settled_in(self, seconds: float) -> None:
        """Wait at most `seconds` until the group has settled an event."""
        async with asyncio.timeout(seconds):
            await self.broker.wait_until_acknowledged("warehouse", 1)

    def delivered(self, number: int) -> list[float]:
        """Return the times at which an event was delivered."""
        return [at for at, sequence, _ in self.deliveries if sequence == number]


class ObservedSubscription(InMemoryEventSubscription):
    def __init__(self, application: Timed) -> None:
        super().__init__(application.broker, "warehouse", ack_wait=application.ack_wait)
        self._application = application

    @asynccontextmanager
    async def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AsyncGenerator[Deliveries, None]:
        self._application.prefetches.append(prefetch)
        async with super().open(event_types, prefetch=prefetch, ordering=ordering) as deliveries:
            yield ObservedDeliveries(deliveries, self._application)


class ObservedDeliveries(Deliveries):
    def __init__(self, deliveries: Deliveries, application: Timed) -> None:
        self._deliveries = deliveries
        self._application = application

    async def next(self) -> Delivery:
        delivery = await self._deliveries.next()
        application, beat, beats = self._application, delivery.in_progress, itertools.count(1)
        delivery.attempt += application.elsewhere[delivery.sequence]
        ack, nak = delivery.ack, delivery.nak
        application.deliveries.append((now(), delivery.sequence, delivery.attempt))

        async def in_progress() -> None:
            application.beats.append(now())
            if application.beat_seconds:
                await asyncio.sleep(application.beat_seconds)
            if not application.lost_beats or next(beats) % application.lost_beats:
                await beat()

        async def acknowledge() -> None:
            if application.failing_acks:
                application.failing_acks -= 1
                raise OSError("the connection is closed")
            await ack()

        async def hand_back(delay: float) -> None:
            application.on_nak(delay)
            await nak(delay)

        delivery.in_progress = in_progress  # type: ignore[method-assign]
        term = delivery.term

        async def end(reason: str) -> None:
            application.ended.append((delivery.sequence, reason))
            await term(reason)

        delivery.ack, delivery.nak, delivery.term = acknowledge, hand_back, end  # type: ignore[method-assign]
        return delivery

    def pause(self) -> None:
        self._deliveries.pause()

    def resume(self) -> None:
        self._deliveries.resume()


def lasting(seconds: float) -> Any:
    async def act(_event: OrderPlaced) -> None:
        await asyncio.sleep(seconds)

    return act


# Heartbeats.


@pytest.mark.parametrize("lost_beats", [0, 2])
@pytest.mark.parametrize("ack_wait", [0.9, 30.0])
@in_virtual_time
async def test_a_long_handler_has_one_delivery_although_every_other_heartbeat_is_lost(
    ack_wait: float, lost_beats: int
) -> None:
    application = Timed({"concurrency": 4, "handler_timeout": 3600.0}, ack_wait=ack_wait)
    application.lost_beats = lost_beats
    application.acts = {1: lasting(20 * ack_wait), 2: lasting(7 * ack_wait)}
    application.publish(1, 2)
    async with application.running(), application.running(application.consuming()):
        await asyncio.sleep(30 * ack_wait)
    assert application.effects == [2, 1]
    assert [(sequence, attempt) for _, sequence, attempt in application.deliveries] == [(1, 1), (2, 1)]


@pytest.mark.parametrize("lost_beats", [0, 2])
@pytest.mark.parametrize("ack_wait", [0.9, 30.0])
@in_virtual_time
async def test_an_event_that_waits_for_a_worker_has_one_delivery_although_every_other_heartbeat_is_lost(
    ack_wait: float, lost_beats: int
) -> None:
    application = Timed({"handler_timeout": 3600.0}, ack_wait=ack_wait)
    application.lost_beats = lost_beats
    application.acts = {1: lasting(20 * ack_wait), 2: lasting(7 * ack_wait)}
    async with application.running():
        await asyncio.sleep(ack_wait / 7)
        application.publish(1, 2, 3)
        await asyncio.sleep(30 * ack_wait)
    assert application.effects == [1, 2, 3]
    assert [(sequence, attempt) for _, sequence, attempt in application.deliveries] == [(1, 1), (2, 1), (3, 1)]


@in_virtual_time
async def test_events_that_arrive_and_end_during_the_heartbeats_of_waiting_events_stop_no_heartbeat() -> None:
    application = Timed({"handler_timeout": 3600.0}, ack_wait=30.0)
    application.beat_seconds = 2.0
    application.acts = {1: lasting(11), 2: lasting(200)}
    application.publish(1, 2, 3, 4)
    async with application.running():
        await asyncio.sleep(9)
        for number in range(5, 25):
            application.publish(number)
            await asyncio.sleep(1)
        await asyncio.sleep(250)
    assert application.effects == [*range(1, 25)]


@in_virtual_time
async def test_heartbeats_end_with_the_delivery_and_leave_no_task() -> None:
    application = Timed(ack_wait=3.0)
    application.acts = {1: lasting(10), 2: failing(ValueError(), 1)}
    async with application.running():
        await settle()
        before = asyncio.all_tasks()
        application.publish(1, 2)
        await asyncio.sleep(20)
        assert asyncio.all_tasks() == before
        assert max(application.beats) <= 10
        assert len(application.beats) <= 20


# Pauses.


@in_virtual_time
async def test_a_failing_event_is_retried_after_the_pauses_of_its_schedule_and_then_parked() -> None:
    application = Timed()
    application.acts[1] = failing(ValueError())
    application.publish(1)
    async with application.running():
        await application.settled_in(6)
    assert_jittered(application.delivered(1), QUICK_DELAYS)
    assert [attempt for _, attempt in application.attempts] == [1, 2, 3, 4]
    assert application.parked() == [("e1", "handler-failed", 4)]


@in_virtual_time
async def test_by_default_an_event_without_parking_is_retried_after_growing_pauses() -> None:
    application = Timed({"parking": None})
    application.acts[1] = failing(ValueError(), times=len(ENDLESS_DELAYS))
    application.publish(1)
    async with application.running():
        await application.settled_in(1000)
    assert_jittered(application.delivered(1), ENDLESS_DELAYS)
    assert application.effects == [1]


def assert_jittered(times: list[float], delays: tuple[float, ...]) -> None:
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    for pause, delay in zip(pauses, delays, strict=True):
        assert 0.8 * delay - 0.001 <= pause <= 1.2 * delay + 0.001
    assert len({round(pause / delay, 3) for pause, delay in zip(pauses, delays, strict=True) if delay}) > 1


@in_virtual_time
async def test_pauses_count_the_starts_that_failed_and_not_the_deliveries() -> None:
    application = Timed({"retry_delays": (0.02, 0.2, 2.0), "drain_timeout": 0.0})
    application.acts[1] = hanging
    application.publish(1)
    for _ in range(5):
        async with application.running(application.consuming()):
            await asyncio.sleep(1)
    application.acts[1] = failing(ValueError())
    application.deliveries.clear()
    async with application.running(application.consuming()):
        await application.settled_in(3)
    times = application.delivered(1)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert [round(pause / unit) for pause, unit in zip(pauses, (0.02, 0.2, 2.0), strict=True)] == [1, 1, 1]


@in_virtual_time
async def test_without_parking_a_failing_event_is_redelivered_without_limit_after_the_pause_of_its_delivery() -> None:
    application = Timed({"parking": None, "retry_delays": (1.0, 10.0, 100.0)})
    application.acts[1] = failing(ValueError())
    application.publish(1)
    async with application.running():
        await asyncio.sleep(2000)
    times = application.delivered(1)
    assert 17 <= len(times) <= 26
    assert 80 <= times[-1] - times[-2] <= 120
    assert application.starts[1] == len(times)


@in_virtual_time
async def test_without_parking_an_event_whose_process_died_often_is_started_again() -> None:
    application = Timed({"parking": None, "retry_delays": (0.0,), "drain_timeout": 0.0})
    application.acts[1] = hanging
    take_back, application.inbox.take_back = application.inbox.take_back, _nothing  # type: ignore[method-assign]
    application.publish(1)
    for _ in range(6):
        async with application.running(application.consuming()):
            await asyncio.sleep(1)
    application.inbox.take_back = take_back  # type: ignore[method-assign]
    application.acts.clear()
    async with application.running(application.consuming()):
        await asyncio.sleep(1)
    assert application.effects == [1]


async def _nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize("age", [0.0, 290.0])
@in_virtual_time
async def test_an_event_of_an_unknown_type_is_redelivered_after_growing_pauses_until_its_grace_is_over(
    age: float,
) -> None:
    application = Timed({"unknown_type_grace": 300.0})
    application.began += age
    application.publish(1, version=7)
    async with application.running():
        await application.settled_in(301 - age)
    times = application.delivered(1)
    assert application.parked() == [("e1", "unknown-type", 0)]
    assert 299 - age <= times[-1] <= 301 - age
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 0.5 <= pauses[0] <= 1.0
    assert max(pauses) <= 30
    if not age:
        assert 12 <= len(times) <= 30
        assert max(pauses) >= 15


@in_virtual_time
async def test_a_handler_is_cancelled_at_its_timeout_in_each_attempt() -> None:
    application = Timed({"handler_timeout": 40.0, "retry_delays": (0.0,) * 2})
    application.acts[1] = hanging
    application.publish(1)
    with capture_logs() as logs:
        async with application.running():
            await application.settled_in(121)
    assert now() == pytest.approx(120, abs=0.1)
    assert [line["error"] for line in logs if line["event"] == "delivery failed"] == [MessageTimeoutError.__name__] * 2
    assert application.parked() == [("e1", "handler-failed", 3)]


@in_virtual_time
async def test_a_hanging_authenticator_is_cancelled_at_the_handler_timeout() -> None:
    async def authenticate(_event: CloudEvent) -> None:
        await asyncio.Event().wait()

    application = Timed({"authenticate": authenticate, "handler_timeout": 40.0, "retry_delays": ()})
    application.publish(1)
    async with application.running():
        await application.settled_in(41)
    assert (application.parked(), application.starts) == ([("e1", "handler-failed", 1)], {})


@in_virtual_time
async def test_a_timeout_raised_by_a_handler_is_reported_as_its_own_failure() -> None:
    application = Timed({"handler_timeout": 40.0, "retry_delays": (0.0,)})

    async def own(_event: OrderPlaced) -> None:
        async with asyncio.timeout(3):
            await hanging(_event)

    application.acts[1] = own
    application.publish(1)
    async with application.running():
        await application.settled_in(10)
    [parked] = application.parking.events
    assert parked.error.startswith("TimeoutError")


@in_virtual_time
async def test_a_behavior_that_takes_too_long_after_the_commit_is_logged_and_causes_no_second_effect() -> None:
    application = Timed({"handler_timeout": 40.0, "retry_delays": (0.0,) * 2})

    async def act(_event: OrderPlaced) -> None:
        async def hang() -> None:
            await asyncio.sleep(3600)

        current_scope().on_exit(lambda _error: hang())

    application.acts[1] = act
    application.publish(1)
    with capture_logs() as logs:
        async with application.running():
            await application.settled_in(60)
    assert (application.effects, application.parked(), application.starts) == ([1], [], {1: 1})
    assert "delivery failed after the commit" in [line["event"] for line in logs]


# Stopping.


@in_virtual_time
async def test_a_stopping_consumer_waits_for_its_handlers_no_longer_than_its_drain_timeout() -> None:
    application = Timed({"drain_timeout": 25.0, "concurrency": 2})
    application.acts = {1: lasting(24.0), 2: hanging}
    application.publish(1, 2)
    async with application.running():
        await settle()
    assert now() == pytest.approx(25.0, abs=0.1)
    assert application.effects == [1]


@in_virtual_time
async def test_a_start_is_taken_back_before_another_process_can_have_the_event() -> None:
    application, log = Timed({"drain_timeout": 0.0, "retry_delays": (0.0,)}), list[str]()
    take_back = application.inbox.take_back

    async def slow(*row: str) -> None:
        await asyncio.sleep(0.5)
        await take_back(*row)
        log.append("taken back")

    application.inbox.take_back = slow  # type: ignore[method-assign]
    application.on_nak = lambda delay: log.append(f"handed back for {delay:g} s")
    application.acts[1] = hanging
    application.publish(1)
    for _ in range(2):
        async with application.running(application.consuming()):
            await settle()
    assert log == ["taken back", "handed back for 0 s"] * 2
    application.acts.clear()
    async with application.running(application.consuming()):
        await application.settled_in(1)
    assert application.attempts == [(1, 1)] * 3


@in_virtual_time
async def test_a_failure_is_recorded_once_before_the_redelivery_although_the_database_was_unavailable() -> None:
    application, log = Timed({"retry_delays": (1.0,) * 2}), list[str]()
    end = application.inbox.end

    async def noting(*row: Any) -> None:
        if len(log) in (0, 1):
            log.append("away")
            application.database.available = False
            asyncio.get_running_loop().call_later(7, setattr, application.database, "available", True)
            application.database.check_available()
        await end(*row)
        log.append("written")

    application.inbox.end = noting  # type: ignore[method-assign]
    application.on_nak = lambda _delay: log.append("handed back")
    application.acts[1] = failing(ValueError(), times=1)
    application.publish(1)
    async with application.running():
        await application.settled_in(60)
    assert log == ["away", "away", "written", "handed back"]
    assert application.attempts == [(1, 1), (1, 2)]


@in_virtual_time
async def test_an_acknowledgement_that_fails_ends_no_worker_and_the_event_has_no_second_effect() -> None:
    application = Timed({"retry_delays": (0.0,)}, ack_wait=5.0)
    application.failing_acks = 3
    application.publish(1, 2)
    with capture_logs() as logs:
        async with application.running():
            async with asyncio.timeout(30):
                await application.broker.wait_until_acknowledged("warehouse", 2)
    assert application.starts == {1: 1, 2: 1}
    assert [line["event"] for line in logs].count("delivery not settled") == 3


@in_virtual_time
async def test_a_consumer_stops_within_a_second_although_the_database_takes_no_start_back() -> None:
    application = Timed({"drain_timeout": 0.0})

    async def never(*_: str) -> None:
        await asyncio.sleep(50)

    application.inbox.take_back = never  # type: ignore[method-assign]
    application.acts[1] = hanging
    application.publish(1)
    with capture_logs() as logs:
        async with application.running():
            await settle()
    assert now() < 1.0
    assert [line["event"] for line in logs if line["event"] == "attempt counted"] == ["attempt counted"]
    await asyncio.sleep(60)


@in_virtual_time
async def test_a_consumer_that_waits_for_the_database_is_stopped_at_once_with_all_its_workers() -> None:
    application = Timed({"drain_timeout": 1000.0, "concurrency": 3})
    application.publish(1, 2, 3)
    application.database.available = False
    with capture_logs() as logs:
        async with application.running():
            await asyncio.sleep(30)
            stopped = now()
    assert now() - stopped < 1.0
    assert application.effects == []
    assert [line["event"] for line in logs].count("consumer waits") == 1


@in_virtual_time
async def test_a_parked_event_is_logged_once_parked_and_terminated_at_the_broker_with_the_reason() -> None:
    application = Timed({"ordering": "key", "retry_delays": ()})
    park, refusals = application.parking.park, [1, 2]

    async def away(*arguments: Any, **options: Any) -> bool:
        if refusals:
            refusals.pop()
            application.database.available = False
            asyncio.get_running_loop().call_later(3, setattr, application.database, "available", True)
            application.database.check_available()
        return await park(*arguments, **options)

    application.parking.park = away  # type: ignore[method-assign]
    application.acts[1] = failing(ValueError())
    application.publish(1, 2, key="a")
    application.publish(3, key="b")
    with capture_logs() as logs:
        async with application.running(), asyncio.timeout(60):
            await application.broker.wait_until_acknowledged("warehouse", 3)
    assert [line["event_id"] for line in logs if line["event"] == "event parked"] == ["e1", "e2"]
    assert application.ended == [(1, "parked"), (2, "parked")]
    assert application.starts[1] == 1


# Concurrency and prefetch.


@pytest.mark.parametrize(
    ("options", "running", "prefetch"),
    [
        ({}, 1, 64),
        ({"concurrency": 5}, 5, 64),
        ({"concurrency": 5, "prefetch": 2}, 5, 5),
        ({"concurrency": 5, "prefetch": 100}, 5, 100),
        ({"ordering": "key"}, 16, 64),
        ({"ordering": "key", "concurrency": 3}, 3, 64),
    ],
)
@in_virtual_time
async def test_handlers_run_concurrently_up_to_the_concurrency(
    options: dict[str, Any], running: int, prefetch: int
) -> None:
    application = Timed({**options, "drain_timeout": 0.0})
    application.acts = dict.fromkeys(range(200), hanging)
    for number in range(200):
        application.publish(number, key=f"{number}")
    async with application.running():
        await asyncio.sleep(1)
        assert sum(application.starts.values()) == running
        assert application.prefetches == [prefetch]


# Cleaning.


@in_virtual_time
async def test_the_inbox_is_cleaned_each_interval_sooner_while_more_remains_and_again_after_a_failure() -> None:
    application = Timed({"clean_interval": 60.0})
    async with application.running():
        await asyncio.sleep(190)
        assert [at for at, _ in application.cleaned] == [60, 120, 180]
        application.cleaned.clear()
        application.old = 12_000
        await asyncio.sleep(110)
        assert [at for at, _ in application.cleaned] == [240, 241, 242]
        application.cleaned.clear()
        application.cleaning_fails = 2
        with capture_logs() as logs:
            await asyncio.sleep(240)
        assert [at for at, _ in application.cleaned] == [302, 362, 422, 482]
        assert [line["event"] for line in logs].count("inbox not cleaned") == 2
    assert {limit for _, limit in application.cleaned} == {5000}


# Outages of the database.


@in_virtual_time
async def test_each_database_outage_is_logged_once_and_probed_by_one_worker_after_short_pauses() -> None:
    application = Timed({"concurrency": 4, "retry_delays": (0.0,)})
    asked: list[float] = []
    answers = application.inbox.answers

    async def counting() -> bool:
        asked.append(now())
        return await answers()

    application.inbox.answers = counting  # type: ignore[method-assign]
    with capture_logs() as logs:
        async with application.running():
            for outage in range(3):
                application.database.available = False
                asked.clear()
                application.publish(*range(10 * outage, 10 * outage + 4))
                began = now()
                await asyncio.sleep(100)
                later = [at - began for at in asked if at > began]
                assert later[0] <= 0.1
                assert 100 / 5 <= len(later) <= 100 / 2.5 + 10
                assert max(b - a for a, b in itertools.pairwise(later)) <= 5.0
                application.database.available = True
                await asyncio.sleep(5.1)
                assert len(application.effects) == 4 * (outage + 1)
    events = [line["event"] for line in logs if line["event"] in ("consumer waits", "consumer goes on")]
    assert events == ["consumer waits", "consumer goes on"] * 3


@in_virtual_time
async def test_each_full_outbox_is_logged_once_and_retried_after_pauses_that_start_short() -> None:
    application = Timed({"retry_delays": (0.0,)}, max_pending=1)
    filler = CloudEvent("waits", "warehouse.reserved.v1", datetime(2026, 1, 2, tzinfo=UTC), b"{}")
    with capture_logs() as logs:
        async with application.running():
            for time_of_it in range(2):
                application.database.outbox[:] = [filler]
                application.starts.clear()
                application.publish(time_of_it)
                await asyncio.sleep(0.25)
                assert application.starts[time_of_it] >= 2
                await asyncio.sleep(100)
                assert 100 / 5 <= application.starts[time_of_it] <= 100 / 2.5 + 12
                application.database.outbox.clear()
                await asyncio.sleep(5.1)
                assert len(application.effects) == time_of_it + 1
    told = [(line["event"], line.get("error", line.get("after"))) for line in logs if "consumer" in line["event"]]
    assert [each for each in told if each[1]] == [
        ("consumer waits", "OutboxFullError"),
        ("consumer goes on", "OutboxFullError"),
    ] * 2


@in_virtual_time
async def test_a_full_outbox_is_logged_again_after_a_waiting_event_failed_by_itself() -> None:
    application = Timed({"retry_delays": (0.0,)}, max_pending=1)
    filler = CloudEvent("waits", "warehouse.reserved.v1", datetime(2026, 1, 2, tzinfo=UTC), b"{}")

    async def act(_event: OrderPlaced) -> None:
        if now() >= began + 100:
            raise FatalEventError("it is too late")

    with capture_logs() as logs:
        async with application.running():
            for number in range(2):
                application.database.outbox[:] = [filler]
                application.acts[number] = act
                application.starts.clear()
                began = now()
                application.publish(number)
                await asyncio.sleep(0.25)
                assert application.starts[number] >= 2
                await asyncio.sleep(110)
                assert application.parked()[number] == (f"e{number}", "fatal-error", 1)
    events = [line["event"] for line in logs if line["event"] in ("consumer waits", "consumer goes on")]
    assert events == ["consumer waits", "consumer goes on"] * 2


@in_virtual_time
async def test_an_event_that_needs_no_room_does_not_end_the_log_of_a_full_outbox() -> None:
    application = Timed({"retry_delays": (0.0,), "concurrency": 2}, max_pending=1)
    application.database.put(CloudEvent("waits", "warehouse.reserved.v1", datetime(2026, 1, 2, tzinfo=UTC), b"{}"))
    application.database.inbox |= {("warehouse", "shop", f"e{number}") for number in range(2, 9)}
    application.publish(*range(1, 9))
    with capture_logs() as logs:
        async with application.running():
            await asyncio.sleep(30)
            application.database.outbox.clear()
            async with asyncio.timeout(6):
                await application.broker.wait_until_acknowledged("warehouse", 8)
    events = [line["event"] for line in logs if line["event"] in ("consumer waits", "consumer goes on")]
    assert events == ["consumer waits", "consumer goes on"]


@in_virtual_time
async def test_an_outage_and_a_full_outbox_have_independent_pauses() -> None:
    application = Timed({"parking": None, "later_delays": None, "retry_delays": (0.0,)}, max_pending=1)
    asked: list[float] = []
    answers = application.inbox.answers

    async def counting() -> bool:
        asked.append(now())
        return await answers()

    application.inbox.answers = counting  # type: ignore[method-assign]
    application.database.put(CloudEvent("waits", "warehouse.reserved.v1", datetime(2026, 1, 2, tzinfo=UTC), b"{}"))
    application.publish(1)
    async with application.running():
        await asyncio.sleep(60)
        application.database.available = False
        asked.clear()
        await asyncio.sleep(20)
        assert asked[1] - asked[0] <= 0.1  # pauses start short again, although the outbox was full before the outage
        application.database.available = True
        application.database.outbox.clear()
        await application.settled_in(6)


@in_virtual_time
async def test_an_event_whose_writes_find_no_room_fails_by_itself_after_ten_starts_in_half_a_minute() -> None:
    application = Timed({"concurrency": 2, "retry_delays": ()})
    full = DatabaseWriteError("db", "database or disk is full")
    application.acts = {1: failing(full, times=9), 2: failing(full)}
    application.publish(1, 2)
    async with application.running():
        await asyncio.sleep(12)
        assert (application.effects, application.parked()) == ([], [])
        await asyncio.sleep(20)
    assert (application.effects, application.parked()) == ([1], [("e2", "handler-failed", 1)])
    assert application.starts == {1: 10, 2: 10}


@in_virtual_time
async def test_a_database_that_answers_and_stores_nothing_is_waited_for_without_limit_and_costs_no_attempt() -> None:
    application = Timed({"retry_delays": ()})
    has_room_at = now() + 600

    async def takes_writes() -> bool:
        return now() > has_room_at

    async def act(_event: OrderPlaced) -> None:
        if not await takes_writes():
            raise DatabaseWriteError("db", "database or disk is full")

    application.inbox.takes_writes = takes_writes  # type: ignore[method-assign]
    application.acts[1] = act
    application.publish(1)
    async with application.running():
        await application.settled_in(610)
    assert (application.effects, application.parked(), application.attempts) == ([1], [], [(1, 1)] * 2)


@in_virtual_time
async def test_lost_connections_are_not_added_up_over_deliveries() -> None:
    application = Timed({"retry_delays": (1.0,) * 3})
    errors = [DatabaseUnavailableError("db", "x")] * 2 + [ValueError()] + [DatabaseUnavailableError("db", "x")] * 2

    async def act(_event: OrderPlaced) -> None:
        if errors:
            raise errors.pop(0)

    application.acts[1] = act
    application.publish(1)
    async with application.running():
        await application.settled_in(60)
    assert application.attempts == [(1, 1)] * 3 + [(1, 2)] * 3
    assert application.effects == [1]


@in_virtual_time
async def test_connections_lost_during_a_database_outage_cost_the_handler_no_attempt() -> None:
    application = Timed({"retry_delays": (1.0,) * 3})
    outages = [True, True, True, False, False]

    async def act(_event: OrderPlaced) -> None:
        if outages:
            application.database.available = not outages.pop(0)
            asyncio.get_running_loop().call_later(1, setattr, application.database, "available", True)
            raise DatabaseUnavailableError("db", "x")

    application.acts[1] = act
    application.publish(1)
    with capture_logs() as logs:
        async with application.running():
            await application.settled_in(60)
    assert application.attempts == [(1, 1)] * 6
    assert "delivery failed" not in [line["event"] for line in logs]


# Cancelled handlers.


@in_virtual_time
async def test_each_event_whose_handler_cancels_its_own_task_pauses_for_a_second() -> None:
    application = Timed({"retry_delays": (0.0,) * 2})

    async def act(_event: OrderPlaced) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    application.acts[1] = act
    application.publish(1)
    async with application.running():
        await asyncio.sleep(9.5)
        assert 8 <= application.starts[1] <= 11
        del application.acts[1]
        await application.settled_in(3)


def test_an_inbox_must_keep_ids_for_a_full_day_longer_than_its_stream_keeps_events() -> None:
    application = Application()
    subscription = InMemoryEventSubscription(application.broker, "warehouse")
    subscription.max_age = 1000.0
    for keep, fits in ((1000.0 + 86_399, False), (1000.0 + 86_400, True)):
        application.inbox.keep_seconds = keep
        if fits:
            EventConsumer(subscription, application.inbox, application.unit_of_work, application.mediator)
        else:
            with pytest.raises(SettingError, match="keep_seconds"):
                EventConsumer(subscription, application.inbox, application.unit_of_work, application.mediator)
