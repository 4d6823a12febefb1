"""The relay publishes waiting events, distinguishes an outage from a refused event, and does not poll needlessly."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
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

AWAY = PublisherUnavailableError("nats://broker", "connection refused")
NO_STREAM = StreamNotFoundError("nats://broker", "not found", "events-billing")
FULL = StreamUnavailableError("nats://broker", "maximum bytes exceeded", "events-billing")


def event(event_id: str, domain: str = "shop", key: str | None = None) -> CloudEvent:
    return CloudEvent(event_id, f"{domain}.changed.v1", datetime.now(UTC), b"{}", partitionkey=key)


class Broker(EventPublisher):
    """A broker that stores events, or returns the errors set by a test and holds back later events of the same key."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.calls = 0
        self.errors: dict[str, Exception] = {}
        self.refused: set[str] = set()
        self.progress = asyncio.Condition()

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        async with self.progress:
            self.calls += 1
            stopped: set[str | None] = set()
            results = [self._publish(each, stopped) for each in events]
            self.progress.notify_all()
            return results

    def _publish(self, each: CloudEvent, stopped: set[str | None]) -> PublishResult:
        error = self.errors.get(each.type.partition(".")[0])
        if error is None and each.id in self.refused:
            error = EventRefusedError(each.id, each.type, "too large")
        if each.partitionkey in stopped:
            error = EventHeldBackError(each.id, each.type)
        if error is None:
            self.stored.append(each.id)
        elif each.partitionkey is not None:
            stopped.add(each.partitionkey)
        return PublishResult(each, error)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.progress:
            await self.progress.wait_for(condition)


@pytest.fixture
def database() -> InMemoryDatabase:
    return InMemoryDatabase()


@pytest.fixture
def broker() -> Broker:
    return Broker()


def put(database: InMemoryDatabase, *events: CloudEvent) -> None:
    database.outbox += events
    database.woken.set()


@asynccontextmanager
async def relaying(database: InMemoryDatabase, broker: EventPublisher, **options: object) -> AsyncIterator[OutboxRelay]:
    relay = OutboxRelay(InMemoryOutbox(database), broker, rng=random.Random(1), **options)  # type: ignore[arg-type]
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        await asyncio.wait((task,))
    assert task.cancelled()


async def test_events_that_the_broker_stores_are_archived_in_order(database: InMemoryDatabase, broker: Broker) -> None:
    put(database, *(event(str(number)) for number in range(25)))
    async with relaying(database, broker, batch_size=10, poll_interval=60):
        await broker.until(lambda: len(broker.stored) == 25)
    assert broker.stored == [str(number) for number in range(25)]
    assert [each.id for each in database.archive] == broker.stored
    assert (database.outbox, broker.calls) == ([], 3)


async def test_duplicates_that_the_broker_reports_are_archived_and_not_sent_again(database: InMemoryDatabase) -> None:
    class Remembering(Broker):
        async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
            results = await super().publish(events)
            return [PublishResult(each.event, duplicate=each.event.id != "3") for each in results]

    outbox, broker = CountingOutbox(database), Remembering()
    put(database, event("1"), event("2"), event("3"))
    running = asyncio.ensure_future(OutboxRelay(outbox, broker).run())
    await outbox.waits_for(1)
    running.cancel()
    await asyncio.wait([running])
    assert [each.id for each in database.archive] == ["1", "2", "3"]
    assert (database.outbox, broker.calls) == ([], 1)


@pytest.mark.parametrize("error", [NO_STREAM, FULL, StreamMismatchError("nats://broker", "", "s", ("max_age",))])
async def test_a_domain_without_a_stream_waits_and_other_domains_are_published(
    database: InMemoryDatabase, broker: Broker, error: Exception
) -> None:
    broker.errors["billing"] = error
    put(database, *(event(f"b{number}", "billing") for number in range(10)), event("s1"))
    with capture_logs() as logs:
        async with relaying(database, broker, batch_size=5, poll_interval=60):
            await broker.until(lambda: broker.stored == ["s1"])
            put(database, event("s2"))
            await broker.until(lambda: broker.stored == ["s1", "s2"])
            assert not InMemoryParking(database).events
            broker.errors.clear()
            await broker.until(lambda: len(broker.stored) == 12)
    assert broker.stored[2:] == [f"b{number}" for number in range(10)]
    waits = [line for line in logs if line["event"] == "context waits"]
    assert [(line["context"], line["error"], line["log_level"]) for line in waits] == [
        ("billing", type(error).__name__, "error")
    ]
    assert [line["context"] for line in logs if line["event"] == "context goes on"] == ["billing"]


async def test_an_outage_of_the_broker_parks_no_event_and_commits_do_not_end_the_pause(
    database: InMemoryDatabase, broker: Broker
) -> None:
    broker.errors |= {"shop": AWAY, "billing": AWAY}
    put(database, event("1"), event("2", "billing"))
    with capture_logs() as logs:
        async with relaying(database, broker, poll_interval=60):
            await broker.until(lambda: broker.calls == 3)
            for number in range(100):
                put(database, event(f"more {number}"))
                await asyncio.sleep(0)
            assert broker.calls == 3
            broker.errors.clear()
            await broker.until(lambda: len(broker.stored) == 102)
    assert not InMemoryParking(database).events
    assert [line["event"] for line in logs if line["event"] in ("relay waits", "relay goes on")] == [
        "relay waits",
        "relay goes on",
    ]


async def test_a_broker_signal_ends_the_pause_and_a_database_error_does_not_wait_for_one(
    database: InMemoryDatabase,
) -> None:
    class Signalling(Broker):
        asked = 0

        async def wait_for_recovery(self, seconds: float, /) -> bool:
            self.asked += 1
            self.errors.clear()
            return True

    class Failing(InMemoryOutbox):
        failures = 2

        async def due_in(self) -> float | None:
            if self.failures:
                self.failures -= 1
                raise OSError("the database is away")
            return await super().due_in()

    broker, outbox = Signalling(), Failing(database)
    task = asyncio.create_task(OutboxRelay(outbox, broker, poll_interval=0.01).run())
    async with asyncio.timeout(10):
        while outbox.failures:
            await asyncio.sleep(0.01)
    assert broker.asked == 0
    broker.errors["shop"] = AWAY
    put(database, event("1"))
    await broker.until(lambda: broker.stored == ["1"])
    assert broker.asked == 1
    task.cancel()
    await asyncio.wait((task,))


async def test_a_refused_event_is_parked_and_its_key_waits_for_a_decision(
    database: InMemoryDatabase, broker: Broker
) -> None:
    broker.refused = {"bad"}
    put(database, event("bad", key="k"), event("good", key="o"))
    parking = InMemoryParking(database)
    with capture_logs() as logs:
        async with relaying(database, broker, poll_interval=60):
            await broker.until(lambda: broker.stored == ["good"])
            put(database, event("next", key="k"), event("other"))
            await broker.until(lambda: broker.stored == ["good", "other"])
            broker.refused.clear()
            [refused] = parking.events
            await parking.release(refused.number)
            await broker.until(lambda: broker.stored == ["good", "other", "bad", "next"])
    [line] = [line for line in logs if line["event"] == "event refused"]
    assert (line["event_id"], line["reason"], line["log_level"]) == ("bad", "too large", "error")


@pytest.mark.thorough("waits in real time, or does much work")
async def test_the_relay_wakes_when_a_delayed_event_is_due(database: InMemoryDatabase, broker: Broker) -> None:
    database.delayed = [(datetime.now(UTC).timestamp() + 1, event("late"))]
    put(database, event("now"))
    async with relaying(database, broker, poll_interval=60):
        await broker.until(lambda: broker.stored == ["now"])
        await broker.until(lambda: broker.stored == ["now", "late"])


async def test_a_publisher_that_never_returns_is_cancelled(database: InMemoryDatabase) -> None:
    class Stuck(Broker):
        async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
            if self.calls == 0:
                self.calls += 1
                await asyncio.Event().wait()
            return await super().publish(events)

    stuck = Stuck()
    put(database, event("1"))
    with capture_logs() as logs:
        async with relaying(database, stuck, batch_timeout=0.05):
            await stuck.until(lambda: stuck.stored == ["1"])
    assert "the publisher did not end within 0.05 s" in next(
        line["reason"] for line in logs if line["event"] == "relay waits"
    )


async def test_one_process_relays_several_databases_independently() -> None:
    databases, brokers = [InMemoryDatabase() for _ in range(3)], [Broker() for _ in range(3)]
    brokers[0].errors["shop"] = AWAY
    for number, each in enumerate(databases):
        put(each, event(str(number)))
    async with (
        relaying(databases[0], brokers[0]),
        relaying(databases[1], brokers[1]),
        relaying(databases[2], brokers[2]),
    ):
        await brokers[1].until(lambda: brokers[1].stored == ["1"])
        await brokers[2].until(lambda: brokers[2].stored == ["2"])
        assert brokers[0].stored == []
        brokers[0].errors.clear()
        await brokers[0].until(lambda: brokers[0].stored == ["0"])


async def test_the_archive_is_cleaned_in_bounded_batches_until_nothing_is_old(
    database: InMemoryDatabase, broker: Broker
) -> None:
    class Archive(InMemoryOutbox):
        left = 12_000
        done = asyncio.Event()

        async def clean(self, limit: int, /) -> int:
            deleted = min(limit, self.left)
            self.left -= deleted
            if deleted < limit:
                self.done.set()
            return deleted

    outbox = Archive(database)
    task = asyncio.create_task(OutboxRelay(outbox, broker, clean_interval=0.01).run())
    async with asyncio.timeout(5):
        await Archive.done.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert outbox.left == 0


@pytest.mark.parametrize("fault", ["fails", "hangs", "cancels itself"])
async def test_a_cleaning_that_fails_or_hangs_delays_no_event(
    database: InMemoryDatabase, broker: Broker, fault: str
) -> None:
    class Archive(InMemoryOutbox):
        cleanings = 0
        cleaned = asyncio.Event()

        async def clean(self, limit: int, /) -> int:
            self.cleanings += 1
            if self.cleanings > 1:
                self.cleaned.set()
            if fault == "hangs":
                self.cleaned.set()
                await asyncio.Event().wait()
            if fault == "cancels itself":
                raise asyncio.CancelledError
            raise OSError("the archive is locked")

    outbox = Archive(database)
    relay = OutboxRelay(outbox, broker, poll_interval=60, clean_interval=0)
    with capture_logs() as logs:
        task = asyncio.create_task(relay.run())
        async with asyncio.timeout(5):
            await outbox.cleaned.wait()
            for number in range(20):
                put(database, event(f"{number}"))
                await broker.until(lambda number=number: len(broker.stored) == number + 1)
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait((task,))
    assert not [line for line in logs if line["event"] == "relay waits"]
    told = {line["error"] for line in logs if line["event"] == "archive not cleaned"}
    assert told == {"fails": {"OSError"}, "hangs": set(), "cancels itself": {"CancelledError"}}[fault]


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
async def test_an_unanswered_domain_that_fills_whole_batches_delays_no_other_domain(
    database: InMemoryDatabase, broker: Broker, hangs: bool
) -> None:
    class Silent(Broker):
        async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
            if hangs and any(each.type.startswith("billing.") for each in events):
                await asyncio.Event().wait()
            return await super().publish(events)

    broker = Silent()
    broker.errors["billing"] = AWAY
    put(database, *(event(f"b{number}", "billing") for number in range(30)), *(event(f"s{n}") for n in range(10)))
    async with relaying(database, broker, batch_size=5, batch_timeout=0.1, poll_interval=60):
        async with asyncio.timeout(5):
            await broker.until(lambda: len(broker.stored) == 10)
        assert {each[0] for each in broker.stored} == {"s"}
        broker.errors.clear()
        hangs = False
        await broker.until(lambda: len(broker.stored) == 40)
    assert [each for each in broker.stored if each[0] == "b"] == [f"b{number}" for number in range(30)]


# The results of one call.


CONTEXTS = st.sampled_from(["shop", "billing", "stock"])
HELD_BACK = EventHeldBackError("1", "a.b.v1")
ERRORS = st.sampled_from([None, AWAY, NO_STREAM, FULL, EventRefusedError("1", "a.b.v1", "too large"), HELD_BACK])


@given(st.lists(st.tuples(CONTEXTS, ERRORS), min_size=1))
def test_only_domains_with_an_error_wait_unless_the_broker_answered_nothing(
    outcomes: list[tuple[str, Exception | None]],
) -> None:
    outages = Outages(random.Random(1), lambda: 0.0)
    error = outages.note([PublishResult(event("1", domain), error) for domain, error in outcomes])
    answered = any(error is None or isinstance(error, EventRefusedError) for _, error in outcomes)
    away = {domain for domain, error in outcomes if isinstance(error, PublisherUnavailableError)}
    if error is None:
        assert outages.domains() == away
    else:
        assert error is AWAY
        assert not answered
        assert outages.domains() == away
        assert outages.retry_suspects()
        assert outages.domains() == frozenset()
        assert not outages.retry_suspects()


def test_a_domain_is_retried_after_growing_pauses_until_it_answers() -> None:
    now = 0.0
    outages = Outages(random.Random(1), lambda: now)
    pauses = []
    for _ in range(12):
        outages.note([PublishResult(event("1", "billing"), NO_STREAM)])
        pause = outages.next_try()
        assert pause is not None
        assert outages.domains() == {"billing"}
        now += pause
        assert outages.domains() == frozenset()
        pauses.append(pause)
    assert 0.05 <= pauses[0] <= 0.1
    assert 7.5 <= pauses[-1] <= 15
    outages.note([PublishResult(event("1", "billing"))])
    assert outages.next_try() is None


def test_only_outages_without_events_in_a_complete_claim_are_forgotten() -> None:
    now = 0.0
    outages = Outages(random.Random(1), lambda: now)
    results = [PublishResult(event("1", domain), NO_STREAM) for domain in ("billing", "shop", "stock")]
    outages.note(results)
    outages.forget(left_out=frozenset(), results=results)
    assert outages.domains() == {"billing", "shop", "stock"}
    outages.forget(left_out=frozenset({"billing"}), results=results[1:2])
    assert outages.domains() == {"billing", "shop"}
    assert outages.next_try() is not None
    outages.forget(left_out=frozenset(), results=())
    assert outages.next_try() is None


async def test_events_of_an_outage_that_another_relay_has_sent_are_not_queried_repeatedly(database, broker):
    now = 0.0
    outbox = CountingOutbox(database)
    broker.errors["billing"] = NO_STREAM
    put(database, event("1", "billing"))
    running = asyncio.ensure_future(OutboxRelay(outbox, broker, poll_interval=7, clock=lambda: now).run())
    await outbox.waits_for(1)
    database.outbox.clear()
    now += 20
    database.woken.set()
    await outbox.waits_for(2)
    running.cancel()
    await asyncio.wait([running])
    assert (outbox.waits[-1], broker.calls) == (7, 1)


async def test_events_behind_a_refused_event_are_no_outage_of_their_domain(database, broker):
    """The other events of the domain are published at once, however many of its events are refused."""
    now = 0.0
    outbox = CountingOutbox(database)
    broker.refused = {f"bad {number}" for number in range(8)}
    for number in range(8):
        database.outbox += [event(f"bad {number}", key=f"{number}"), event(f"next {number}", key=f"{number}")]
        database.outbox += [event(f"good {number}")]
    with capture_logs() as logs:
        relay = OutboxRelay(outbox, broker, batch_size=3, poll_interval=7, clock=lambda: now)
        running = asyncio.ensure_future(relay.run())
        await outbox.waits_for(1)
        running.cancel()
        await asyncio.wait([running])
    assert broker.stored == [f"good {number}" for number in range(8)]
    assert (outbox.waits, broker.calls) == ([7], 8)
    assert [each.id for each in database.outbox] == [f"next {number}" for number in range(8)]
    assert not [line for line in logs if "waits" in line["event"]]


async def test_a_publisher_that_only_holds_events_back_is_not_called_again_at_once(database):
    class Holding(Broker):
        async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
            self.calls += 1
            return [PublishResult(each, EventHeldBackError(each.id, each.type)) for each in events]

    outbox, holding = CountingOutbox(database), Holding()
    put(database, event("1"), event("2"))
    running = asyncio.ensure_future(OutboxRelay(outbox, holding, batch_size=1).run())
    await outbox.waits_for(1)
    running.cancel()
    await asyncio.wait([running])
    assert (outbox.waits, holding.calls) == ([0.05], 1)


async def test_a_due_event_that_a_claim_missed_is_claimed_after_a_pause_or_a_wake_up(database, broker):
    class Locked(CountingOutbox):
        async def due_in(self) -> float | None:
            return 0.0

    outbox = Locked(database)
    put(database, event("1"))
    running = asyncio.ensure_future(OutboxRelay(outbox, broker).run())
    await outbox.waits_for(1)
    assert (outbox.claims, outbox.waits) == (2, [0.05])  # after a claim with an event, more events may be due
    put(database, event("2"))
    await broker.until(lambda: broker.stored == ["1", "2"])
    running.cancel()
    await asyncio.wait([running])


class CountingOutbox(InMemoryOutbox):
    """An outbox that counts claims and records the waiting time after each empty claim."""

    def __init__(self, database: InMemoryDatabase) -> None:
        super().__init__(database)
        self.claims = 0
        self.waits: list[float] = []
        self.progress = asyncio.Condition()

    @asynccontextmanager
    async def claim(self, limit, /, *, without=()):
        self.claims += 1
        async with super().claim(limit, without=without) as batch:
            yield batch

    async def wait(self, seconds, /):
        async with self.progress:
            self.waits.append(seconds)
            self.progress.notify_all()
        await super().wait(60)

    async def waits_for(self, number: int) -> None:
        """Return when the relay has started to wait `number` times."""
        async with asyncio.timeout(10), self.progress:
            await self.progress.wait_for(lambda: len(self.waits) >= number)


async def test_a_relay_does_not_spin_on_a_due_event_while_another_relay_has_everything(database, broker):
    outbox = CountingOutbox(database)
    database.delayed.append((0.0, event("due")))
    async with InMemoryOutbox.claim(outbox, 10):
        database.delayed.append((0.0, event("due as well")))
        running = asyncio.ensure_future(OutboxRelay(outbox, broker).run())
        await outbox.waits_for(1)
        running.cancel()
        await asyncio.wait([running])
    assert outbox.claims == 1
    assert 0 < outbox.waits[0] < 1


async def test_a_publisher_that_cancels_its_own_task_does_not_stop_the_relay(database: InMemoryDatabase) -> None:
    class Leaving(Broker):
        async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
            task = asyncio.current_task()
            if not self.calls and task is not None:
                self.calls += 1
                task.cancel()
                await asyncio.sleep(0)
            return await super().publish(events)

    broker = Leaving()
    put(database, event("e1"))
    with capture_logs() as logs:
        async with relaying(database, broker):
            await broker.until(lambda: broker.stored == ["e1"])
    assert {"event": "relay waits", "error": "CancelledError"}.items() <= logs[1].items()
