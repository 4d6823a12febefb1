"""A relay behaves the same in every outage, after a restart and with an endless backlog."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from structlog.testing import capture_logs

from mediator import OutboxRelay
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import EventPublisher, PublishResult
from mediator.distributed.outbox.outages import Outages
from mediator.errors import (
    EventHeldBackError,
    EventRefusedError,
    PublisherUnavailableError,
    StreamMismatchError,
    StreamNotFoundError,
    StreamUnavailableError,
)
from mediator.testing import InMemoryDatabase, InMemoryOutbox, InMemoryParking
from tests.unit.virtual_time import in_virtual_time, now, settle

AWAY = PublisherUnavailableError("nats://broker", "connection refused")
NO_STREAM = StreamNotFoundError("nats://broker", "not found", "events-billing")
FULL = StreamUnavailableError("nats://broker", "maximum bytes exceeded", "events-billing")


def event(event_id: str, domain: str = "shop", key: str | None = None) -> CloudEvent:
    return CloudEvent(event_id, f"{domain}.changed.v1", datetime.now(UTC), b"{}", partitionkey=key)


def pauses_of(calls: Sequence[tuple[float, object]]) -> list[float]:
    """Return the seconds between each call and the call before it."""
    return [later - earlier for (earlier, _), (later, _) in itertools.pairwise(calls)]


class Broker(EventPublisher):
    """A broker that returns for each event the error set for its domain or id. `calls` has the time and ids of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, list[str]]] = []
        self.errors: dict[str, Exception] = {}
        self.stored: list[str] = []
        self.asked: list[float] = []

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        self.calls.append((now(), [each.id for each in events]))
        results = [
            PublishResult(each, self.errors.get(each.id) or self.errors.get(each.type.partition(".")[0]))
            for each in events
        ]
        self.stored += [result.event.id for result in results if result.error is None]
        return results

    async def wait_for_recovery(self, seconds: float, /) -> bool:
        self.asked.append(seconds)
        return await super().wait_for_recovery(seconds)

    def pauses(self) -> list[float]:
        """Return the seconds between each call and the call before it."""
        return pauses_of(self.calls)


class Outbox(InMemoryOutbox):
    """An outbox that records the time of each claim, wait and cleaning. The next claims raise the errors in `failures`."""

    def __init__(self, database: InMemoryDatabase) -> None:
        super().__init__(database)
        database.now = now  # type: ignore[method-assign]
        self.database = database
        self.looks: list[float] = []
        self.waits: list[tuple[float, float]] = []
        self.cleaned: list[tuple[float, int]] = []
        self.old = 0
        self.failures: list[Exception] = []

    def put(self, *events: CloudEvent) -> None:
        self.database.outbox += events
        self.wake()

    @asynccontextmanager
    async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncIterator[Any]:
        self.looks.append(now())
        if self.failures:
            raise self.failures.pop(0)
        async with super().claim(limit, without=without) as batch:
            yield batch

    async def wait(self, seconds: float, /) -> None:
        self.waits.append((now(), seconds))
        await super().wait(seconds)

    async def clean(self, limit: int, /) -> int:
        deleted = min(self.old, limit)
        self.old -= deleted
        self.cleaned.append((now(), limit))
        return deleted


@asynccontextmanager
async def relaying(outbox: Outbox, broker: Broker, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    relay = OutboxRelay(outbox, broker, rng=random.Random(1), **{"clock": now, **options})
    task = asyncio.create_task(relay.run())
    await settle()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def until(condition: Callable[[], bool], seconds: float = 1000) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def logged(logs: Sequence[Any], *events: str) -> list[tuple[Any, ...]]:
    fields = ("event", "context", "error", "after", "events")
    return [tuple(line[name] for name in fields if name in line) for line in logs if line["event"] in events]


# Outages of the broker.


@in_virtual_time
async def test_each_outage_is_logged_once_and_retried_after_pauses_that_grow_to_fifteen_seconds() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    with capture_logs() as logs:
        async with relaying(outbox, broker):
            for outage in range(3):
                broker.errors["shop"] = AWAY
                broker.calls.clear()
                outbox.put(event(f"{outage} first"), event(f"{outage} second"))
                await asyncio.sleep(600)
                pauses = broker.pauses()
                assert 0.05 <= pauses[0] <= 0.1
                assert all(later <= 2.0 * 2.0 * earlier for earlier, later in itertools.pairwise(pauses))
                assert 7.5 <= max(pauses) <= 15.0
                assert 600 / 15 <= len(broker.calls) <= 600 / 7.5 + 10
                broker.errors.clear()
                await until(lambda: not outbox.pending, 15.1)
                await settle()
    assert (
        logged(logs, "relay waits", "relay goes on")
        == [("relay waits", "PublisherUnavailableError"), ("relay goes on", "PublisherUnavailableError", 2)] * 3
    )


@in_virtual_time
async def test_a_signal_of_the_broker_resets_the_pauses() -> None:
    class Signalling(Broker):
        signs = 0

        async def wait_for_recovery(self, seconds: float, /) -> bool:
            await super().wait_for_recovery(seconds)
            self.signs -= 1
            return self.signs == 0

    outbox, broker = Outbox(InMemoryDatabase()), Signalling()
    broker.signs, broker.errors["shop"] = 12, AWAY
    outbox.put(event("1"))
    async with relaying(outbox, broker):
        await until(lambda: len(broker.asked) == 15)
    assert broker.asked[11] >= 7.5
    assert broker.asked[12] <= 0.1
    assert broker.asked[13] <= 0.2


@in_virtual_time
async def test_a_signal_of_the_broker_clears_domains_that_failed_only_because_of_the_broker() -> None:
    class Signalling(Broker):
        async def wait_for_recovery(self, seconds: float, /) -> bool:
            await super().wait_for_recovery(seconds)
            self.errors.clear()
            return True

    outbox, broker = Outbox(InMemoryDatabase()), Signalling()
    with capture_logs() as logs:
        async with relaying(outbox, broker, batch_size=1):
            for outage in range(3):
                broker.stored.clear()
                broker.errors = {"billing": AWAY, "shop": AWAY}
                outbox.put(event(f"{outage} first", "billing"), event(f"{outage} second", "shop"))
                await until(lambda: len(broker.stored) == 2)
                assert broker.stored == [f"{outage} first", f"{outage} second"]
    assert logged(logs, "context waits") == []


@in_virtual_time
async def test_the_relay_waits_for_a_signal_of_the_broker_only_during_an_outage_of_the_broker() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    broker.errors["shop"] = AWAY
    with capture_logs() as logs:
        async with relaying(outbox, broker):
            outbox.put(event("1"))
            await until(lambda: len(broker.asked) == 3)
            outbox.failures = [OSError("the database is away")] * 4
            await until(lambda: len(outbox.failures) == 3)
            asked = len(broker.asked)
            broker.errors.clear()
            await until(lambda: broker.stored == ["1"])
    assert len(broker.asked) == asked
    assert logged(logs, "relay waits", "relay goes on") == [
        ("relay waits", "PublisherUnavailableError"),
        ("relay waits", "OSError"),
        ("relay goes on", "OSError", 1),
    ]


@in_virtual_time
async def test_commits_do_not_shorten_the_pauses_of_an_outage_of_the_database() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    outbox.failures = [OSError("the database is away")] * 1000
    async with relaying(outbox, broker):
        for _ in range(1000):
            outbox.wake()
            await asyncio.sleep(0.06)
    assert 4 <= len(outbox.looks) <= 60 / 7.5 + 8


@in_virtual_time
async def test_each_publish_that_cancels_its_own_task_counts_as_an_outage() -> None:
    class Leaving(Broker):
        async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
            if len(self.calls) < 2:
                self.calls.append((now(), []))
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            return await super().publish(events)

    outbox, broker = Outbox(InMemoryDatabase()), Leaving()
    outbox.put(event("1"))
    async with relaying(outbox, broker):
        await until(lambda: broker.stored == ["1"])


# Outages of domains.


@in_virtual_time
async def test_any_number_of_unanswered_domains_that_fill_whole_batches_delays_no_other_domain() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    broker.errors = dict.fromkeys(("billing", "parcels", "stock"), AWAY)
    async with relaying(outbox, broker, batch_size=2, poll_interval=60):
        outbox.put(*(event(f"{domain} {number}", domain) for domain in broker.errors for number in range(4)))
        outbox.put(event("shop"))
        await until(lambda: broker.stored == ["shop"], 5)


@in_virtual_time
async def test_each_outage_of_a_domain_is_logged_once_and_begins_with_a_short_pause() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    with capture_logs() as logs:
        async with relaying(outbox, broker, poll_interval=60):
            for outage in range(3):
                broker.errors["billing"] = NO_STREAM
                broker.calls.clear()
                outbox.put(event(f"billing {outage}", "billing"))
                await asyncio.sleep(600)
                pauses = broker.pauses()
                assert 0.05 <= pauses[0] <= 0.11
                assert 7.5 <= max(pauses) <= 15.1
                assert 600 / 15.1 <= len(broker.calls) <= 600 / 7.5 + 10
                broker.errors.clear()
                await until(lambda: not outbox.pending, 15.1)
                await settle()
    assert (
        logged(logs, "context waits", "context goes on", "relay waits")
        == [("context waits", "billing", "StreamNotFoundError"), ("context goes on", "billing", "StreamNotFoundError")]
        * 3
    )


@in_virtual_time
async def test_unavailable_domains_are_retried_independently_and_each_change_of_error_is_logged() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    broker.errors["billing"] = NO_STREAM
    with capture_logs() as logs:
        async with relaying(outbox, broker, poll_interval=60):
            outbox.put(event("b", "billing"))
            await asyncio.sleep(120)
            broker.errors["stock"] = FULL
            broker.calls.clear()
            outbox.put(event("s", "stock"))
            await until(lambda: sum("s" in ids for _, ids in broker.calls) == 4, 1.0)
            broker.errors["billing"] = FULL
            await asyncio.sleep(60)
            broker.errors.clear()
            await until(lambda: not outbox.pending, 15.1)
    assert sorted(logged(logs, "context waits")) == [
        ("context waits", "billing", "StreamNotFoundError"),
        ("context waits", "billing", "StreamUnavailableError"),
        ("context waits", "stock", "StreamUnavailableError"),
    ]


@in_virtual_time
async def test_an_unavailable_domain_is_not_claimed_during_its_pause_even_when_other_events_arrive() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    broker.errors["billing"] = FULL
    async with relaying(outbox, broker, poll_interval=1):
        outbox.put(event("b", "billing"))
        await asyncio.sleep(120)
        broker.calls.clear()
        for number in range(100):
            outbox.put(event(f"{number}"))
            await asyncio.sleep(0.1)
        tries = sum("b" in ids for _, ids in broker.calls)
        assert tries <= 2
        assert len(broker.stored) == 100


@in_virtual_time
async def test_an_endless_backlog_delays_neither_a_recovered_domain_nor_cleaning() -> None:
    class Endless(Outbox):
        number = 0

        @asynccontextmanager
        async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncIterator[Any]:
            for _ in range(limit):
                self.number += 1
                self.database.outbox.append(event(f"e{self.number}"))
            await asyncio.sleep(0.1)
            async with super().claim(limit, without=without) as batch:
                yield batch

    outbox, broker = Endless(InMemoryDatabase()), Broker()
    broker.errors["billing"] = NO_STREAM
    outbox.put(event("b", "billing"))
    async with relaying(outbox, broker, batch_size=5, clean_interval=10):
        await asyncio.sleep(30)
        broker.errors.clear()
        await until(lambda: "b" in broker.stored, 15.2)
    assert not outbox.waits
    assert len(outbox.cleaned) in (3, 4)


@in_virtual_time
async def test_the_outage_of_a_domain_is_remembered_although_a_backlog_hides_its_events() -> None:
    """A domain stays unavailable if a full batch leaves out its events when they are due."""

    class Before(Outbox):
        number = 0

        @asynccontextmanager
        async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncIterator[Any]:
            await asyncio.sleep(0.05)
            self.number += 1
            if self.number % 10:
                self.database.outbox[:0] = [event(f"{self.number}.{each}") for each in range(limit)]
            async with super().claim(limit, without=without) as batch:
                yield batch

    outbox, broker = Before(InMemoryDatabase()), Broker()
    broker.errors["billing"] = NO_STREAM
    outbox.put(*(event(f"b{number}", "billing") for number in range(5)))
    with capture_logs() as logs:
        async with relaying(outbox, broker, batch_size=2):
            await asyncio.sleep(300)
    assert logged(logs, "context waits", "context goes on") == [("context waits", "billing", "StreamNotFoundError")]
    assert sum("b0" in ids for _, ids in broker.calls) <= 300 / 7.5 + 12


@in_virtual_time
async def test_an_outage_is_remembered_although_another_relay_has_claimed_its_events() -> None:
    """An empty claim proves that no event waits only if no other relay has claimed events."""

    class Shared(Outbox):
        others = False

        @asynccontextmanager
        async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncIterator[Any]:
            self.others = not self.others
            if self.others:
                async with InMemoryOutbox.claim(self, limit), super().claim(limit, without=without) as batch:
                    yield batch
            else:
                async with super().claim(limit, without=without) as batch:
                    yield batch

    outbox, broker = Shared(InMemoryDatabase()), Broker()
    broker.errors["billing"] = NO_STREAM
    outbox.put(event("b", "billing"))
    with capture_logs() as logs:
        async with relaying(outbox, broker):
            await asyncio.sleep(300)
    assert logged(logs, "context waits", "context goes on") == [("context waits", "billing", "StreamNotFoundError")]
    assert len(broker.calls) <= 300 / 7.5 + 12


# The results of one batch.


@in_virtual_time
async def test_stored_events_are_archived_although_parking_fails_and_the_refusal_is_logged_once_parked() -> None:
    class Full(Outbox):
        refusing = True

        @asynccontextmanager
        async def claim(self, limit: int, /, *, without: Collection[str] = ()) -> AsyncIterator[Any]:
            async with super().claim(limit, without=without) as batch:
                park = batch.park

                async def refuse(*arguments: Any) -> None:
                    if self.refusing:
                        raise OSError("no space left")
                    await park(*arguments)

                batch.park = refuse
                yield batch

    outbox, broker = Full(InMemoryDatabase()), Broker()
    broker.errors["bad"] = EventRefusedError("bad", "shop.changed.v1", "too large")
    outbox.put(event("bad"), event("good"))
    with capture_logs() as logs:
        async with relaying(outbox, broker):
            await asyncio.sleep(5)
            assert [each.id for each in outbox.database.archive] == ["good"]
            assert broker.stored == ["good"]
            assert logged(logs, "event refused") == []
            outbox.refusing = False
            await until(lambda: not outbox.pending)
            await settle()
    assert len(logged(logs, "event refused")) == 1


@in_virtual_time
async def test_all_events_that_one_call_refuses_are_parked_after_that_call() -> None:
    database = InMemoryDatabase()
    outbox, broker = Outbox(database), Broker()
    for number in range(4):
        broker.errors[f"{number}"] = EventRefusedError(f"{number}", "shop.changed.v1", "too large")
    outbox.put(*(event(f"{number}") for number in range(5)))
    async with relaying(outbox, broker):
        await asyncio.sleep(5)
    assert [ids for _, ids in broker.calls] == [["0", "1", "2", "3", "4"]]
    assert [each.event_id for each in InMemoryParking(database).events] == ["0", "1", "2", "3"]


@in_virtual_time
async def test_the_stored_events_of_a_partly_failing_domain_are_archived_and_the_rest_wait() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    broker.errors["2"] = FULL
    outbox.put(event("1"), event("2"), event("3"))
    with capture_logs() as logs:
        async with relaying(outbox, broker):
            await settle()
            assert [each.id for each in outbox.database.archive] == ["1", "3"]
            broker.errors.clear()
            await until(lambda: broker.stored == ["1", "3", "2"], 0.2)
            await settle()
    assert logged(logs, "context waits", "context goes on") == [
        ("context waits", "shop", "StreamUnavailableError"),
        ("context goes on", "shop", "StreamUnavailableError"),
    ]


@in_virtual_time
async def test_a_domain_is_unavailable_for_as_long_as_one_of_its_events_fails() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    broker.errors["bad"] = FULL
    outbox.put(event("bad"))
    with capture_logs() as logs:
        async with relaying(outbox, broker, poll_interval=60):
            for number in range(300):
                outbox.put(event(f"{number}"))
                await asyncio.sleep(1)
            assert sum("bad" in ids for _, ids in broker.calls) <= 300 / 7.5 + 12
            broker.errors.clear()
            await until(lambda: not outbox.pending, 15.1)
            await settle()
    assert logged(logs, "context waits", "context goes on") == [
        ("context waits", "shop", "StreamUnavailableError"),
        ("context goes on", "shop", "StreamUnavailableError"),
    ]


@in_virtual_time
async def test_the_log_line_after_an_outage_has_the_number_of_stored_events() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    broker.errors["shop"] = AWAY
    outbox.put(event("1"), event("2"), event("3"))
    with capture_logs() as logs:
        async with relaying(outbox, broker):
            await asyncio.sleep(1)
            broker.errors = {
                "1": EventRefusedError("1", "shop.changed.v1", "x"),
                "2": EventHeldBackError("2", "shop.changed.v1"),
            }
            await until(lambda: broker.stored == ["3"], 15.1)
            await settle()
    assert logged(logs, "relay goes on") == [("relay goes on", "PublisherUnavailableError", 1)]


@in_virtual_time
async def test_a_held_back_event_stays_in_the_outbox_and_is_no_outage() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    broker.errors["2"] = EventHeldBackError("2", "shop.changed.v1")
    outbox.put(event("1"), event("2"))
    with capture_logs() as logs:
        async with relaying(outbox, broker):
            await settle()
            assert [each.id for each in outbox.pending] == ["2"]
            broker.errors.clear()
            await until(lambda: broker.stored == ["1", "2"], 1.1)
    assert logged(logs, "context waits", "relay waits") == []


# Pauses, cleaning and stopping.


@in_virtual_time
async def test_an_idle_relay_claims_after_each_interval_and_when_a_delayed_event_is_due() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    async with relaying(outbox, broker, poll_interval=7):
        await asyncio.sleep(70)
        assert 10 <= len(outbox.looks) <= 12
        for due in (75.0, 78.5):
            outbox.database.delayed.append((due, event(f"{due}")))
        await asyncio.sleep(30)
    assert [(round(at, 1), ids) for at, ids in broker.calls] in (
        [(77.0, ["75.0"]), (78.5, ["78.5"])],  # events of another process are found only by polling
        [(75.0, ["75.0"]), (78.5, ["78.5"])],
    )


@in_virtual_time
async def test_an_empty_outbox_does_not_slow_down_a_relay_that_polls_often() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    async with relaying(outbox, broker, poll_interval=0.01):
        await asyncio.sleep(1)
    assert 90 <= len(outbox.looks) <= 110


@in_virtual_time
async def test_the_archive_is_cleaned_once_each_interval_and_again_at_once_while_more_remains() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    async with relaying(outbox, broker, clean_interval=60):
        await asyncio.sleep(200)
        assert [round(at / 60) for at, _ in outbox.cleaned] == [1, 2, 3]
        outbox.cleaned.clear()
        outbox.old = 3 * 5000 + 1
        await asyncio.sleep(120)
        times = [at for at, _ in outbox.cleaned]
        assert outbox.old == 0
        assert times[3] - times[0] <= 5
        assert len(times) in (4, 5)
    assert {limit for _, limit in outbox.cleaned} == {5000}


@in_virtual_time
async def test_a_failed_cleaning_with_more_to_delete_is_retried_after_the_interval() -> None:
    class Failing(Outbox):
        async def clean(self, limit: int, /) -> int:
            deleted = await super().clean(limit)
            if deleted == 0:
                raise OSError
            return deleted

    outbox, broker = Failing(InMemoryDatabase()), Broker()
    async with relaying(outbox, broker, clean_interval=60):
        for _ in range(2):
            outbox.cleaned.clear()
            outbox.old = 5000
            await asyncio.sleep(190)
            assert [round(pause) for pause in pauses_of(outbox.cleaned)] == [1, 60, 60]


@in_virtual_time
async def test_a_stopped_relay_ends_its_batch_and_waits_for_a_hanging_publisher_no_longer_than_its_bound() -> None:
    class Slow(Broker):
        seconds = 3.0

        async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
            await asyncio.sleep(self.seconds)
            return await super().publish(events)

    outbox, broker = Outbox(InMemoryDatabase()), Slow()
    outbox.put(event("1"))
    async with relaying(outbox, broker, drain_timeout=4):
        await settle()
    assert now() == 3.0
    assert [each.id for each in outbox.database.archive] == ["1"]
    broker.seconds = 7.0
    outbox.put(event("2"))
    async with relaying(outbox, broker, drain_timeout=4):
        await settle()
    assert now() == 7.0
    assert [each.id for each in outbox.pending] == ["2"]


@in_virtual_time
async def test_a_relay_stops_although_its_cleaning_ignores_interruptions() -> None:
    class Deaf(Outbox):
        answers = asyncio.Event()

        async def clean(self, limit: int, /) -> int:
            while not self.answers.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.answers.wait()
            return await super().clean(limit)

    outbox = Deaf(InMemoryDatabase())
    with capture_logs() as logs:
        async with relaying(outbox, Broker(), clean_interval=5, drain_timeout=4):
            await asyncio.sleep(6)
    assert now() == 10.0
    assert [line["event"] for line in logs][-2:] == ["cleaning not ended", "relay stopped"]
    outbox.answers.set()
    await settle()


@in_virtual_time
async def test_a_publisher_without_a_bound_is_cancelled_each_time_it_hangs() -> None:
    class Stuck(Broker):
        stuck = 3

        async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
            if self.stuck:
                self.stuck -= 1
                await asyncio.Event().wait()
            return await super().publish(events)

    outbox, broker = Outbox(InMemoryDatabase()), Stuck()
    outbox.put(event("1"))
    async with relaying(outbox, broker):
        await until(lambda: broker.stored == ["1"], 3 * 8 + 1)


# `Outages` alone.


def results(*outcomes: tuple[str, Exception | None]) -> list[PublishResult]:
    return [PublishResult(event(f"{number}", domain), error) for number, (domain, error) in enumerate(outcomes)]


def test_the_domain_that_is_due_first_is_retried_first() -> None:
    time = 0.0
    outages = Outages(random.Random(1), lambda: time)
    for _ in range(10):
        outages.note(results(("billing", NO_STREAM)))
    time = 100.0
    outages.note(results(("billing", NO_STREAM)))
    outages.note(results(("stock", NO_STREAM)))
    first = outages.next_try()
    assert first is not None
    assert first <= 0.1
    time += first
    assert outages.domains() == {"billing"}
    assert outages.next_try() == 0.0
    time += 3600
    assert outages.next_try() == 0.0


def test_a_partly_answered_domain_is_unavailable_when_one_of_its_events_failed() -> None:
    outages = Outages(random.Random(1), lambda: 0.0)
    assert outages.note(results(("billing", None), ("billing", FULL), ("shop", None))) is None
    assert outages.domains() == {"billing"}


def test_an_answer_of_one_domain_limits_the_error_of_another_domain_to_that_domain() -> None:
    outages = Outages(random.Random(1), lambda: 0.0)
    refused = EventRefusedError("1", "shop.changed.v1", "too large")
    assert outages.note(results(("shop", refused), ("billing", AWAY))) is None
    assert outages.domains() == {"billing"}


def test_the_first_error_is_reported() -> None:
    later = PublisherUnavailableError("nats://broker", "no acknowledgement")
    outages = Outages(random.Random(1), lambda: 0.0)
    assert outages.note(results(("shop", AWAY), ("shop", later), ("billing", later))) is AWAY
    assert outages.domains() == {"billing", "shop"}


def test_a_stream_error_does_not_limit_a_broker_error_to_its_domain() -> None:
    outages = Outages(random.Random(1), lambda: 0.0)
    assert outages.note(results(("billing", NO_STREAM), ("shop", AWAY))) is AWAY
    for error in (NO_STREAM, FULL, StreamMismatchError("nats://broker", "", "s", ("max_age",))):
        assert outages.note(results(("billing", error))) is None


def test_a_suspected_domain_becomes_unavailable_when_another_answers_and_is_retried_normally() -> None:
    time = 0.0
    outages = Outages(random.Random(1), lambda: time)
    for _ in range(2):
        assert outages.note(results(("shop", AWAY))) is AWAY
        assert outages.note(results(("billing", None))) is None
        assert outages.domains() == {"shop"}
        pause = outages.next_try()
        assert pause is not None
        time += pause
        assert outages.domains() == frozenset()
        assert outages.note(results(("shop", None), ("billing", None))) is None
        assert outages.next_try() is None


@in_virtual_time
async def test_a_stopped_relay_leaves_no_task_behind_and_no_longer_cleans() -> None:
    outbox, broker = Outbox(InMemoryDatabase()), Broker()
    before = asyncio.all_tasks()
    for _ in range(2):
        async with relaying(outbox, broker, clean_interval=10):
            await asyncio.sleep(25)
        assert asyncio.all_tasks() == before
    cleaned = len(outbox.cleaned)
    await asyncio.sleep(100)
    assert len(outbox.cleaned) == cleaned == 4


@in_virtual_time
async def test_a_relay_stops_only_after_its_interrupted_cleaning_has_returned_its_connection() -> None:
    """The database is closed right after the relay has stopped."""

    class Slow(Outbox):
        given_back: float | None = None

        async def clean(self, limit: int, /) -> int:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(3)  # like a rollback
                self.given_back = now()
            return limit

    outbox = Slow(InMemoryDatabase())
    async with relaying(outbox, Broker(), clean_interval=10):
        await asyncio.sleep(12)
    assert outbox.given_back == now() == 15.0
