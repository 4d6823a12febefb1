"""Republishing and verification with fakes: batches, rates and outcomes."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import HeldStream, OutboxFilter, PublishResult, Republishing, Verification
from mediator.distributed.throttle import BATCH, Throttle
from mediator.errors import (
    EventHeldBackError,
    EventRefusedError,
    PublisherUnavailableError,
    SettingError,
    StreamMismatchError,
)
from mediator.testing import InMemoryBroker, InMemoryDatabase, InMemoryEventPublisher, InMemoryOutbox
from mediator.testing.memory.broker import InMemoryStreamContents

ALL = OutboxFilter("archived")


def event(number: int, key: str | None = None) -> CloudEvent:
    return CloudEvent(str(number), "shop.order-placed.v1", datetime.now(UTC), b"{}", partitionkey=key)


class Application:
    """An archive, and a broker that may have lost some of its events."""

    def __init__(self, events: int, publisher: type[InMemoryEventPublisher] = InMemoryEventPublisher) -> None:
        self.database = InMemoryDatabase()
        self.broker = InMemoryBroker()
        self.outbox = InMemoryOutbox(self.database, application="shop")
        self.publisher = publisher(self.broker, application="shop")
        self.archive(*(event(number, f"k{number % 3}") for number in range(1, events + 1)))

    def archive(self, *events: CloudEvent, at: float | None = None) -> None:
        for each in events:
            self.database.archive.append(each)
            number = next(self.database.numbers)
            self.database.archived[each.id] = (number, datetime.now(UTC).timestamp() if at is None else at)

    async def publish(self) -> None:
        await self.publisher.publish(self.database.archive)

    def republishing(self, **options: Any) -> Republishing:
        return Republishing(CountedContents(self.outbox.contents), self.publisher, **options)  # type: ignore[arg-type]

    def verification(self, *, refills: bool = False, **options: Any) -> Verification:
        republishing = self.republishing() if refills else None
        contents: Any = CountedContents(self.outbox.contents)
        return Verification(contents, self.publisher.contents, republishing=republishing, **options)

    async def verify(self, **options: Any) -> list[tuple[int, str]]:
        return [(int(each.record.id), each.outcome) async for each in self.verification(**options).run(ALL)]

    @property
    def held(self) -> list[int]:
        return [int(each.id) for each in self.broker.events]


class CountedContents:
    """The contents of an outbox. Reading them without end fails."""

    def __init__(self, contents: Any) -> None:
        self._contents = contents
        self.finds = 0

    async def find(self, *arguments: Any, **options: Any) -> Any:
        self.finds += 1
        assert self.finds < 5000, "the contents are read endlessly"
        return await self._contents.find(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._contents, name)


class FlakyBroker(InMemoryEventPublisher):
    """A broker that stores only one event of each call."""

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        taken = await super().publish(events[:1])
        return [*taken, *(PublishResult(each, PublisherUnavailableError("flaky", "x")) for each in events[1:])]

    async def wait_for_recovery(self, seconds: float, /) -> bool:
        await asyncio.sleep(0)
        return True


class RefusingBroker(InMemoryEventPublisher):
    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        error = EventRefusedError("2", "shop.order-placed.v1", "too large")
        taken = {each.event.id: each for each in await super().publish([each for each in events if each.id != "2"])}
        return [taken.get(each.id, PublishResult(each, error)) for each in events]


class HoldingBackBroker(InMemoryEventPublisher):
    """A broker that refuses the second event, and therefore holds back the third one."""

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        held = {"3": EventHeldBackError("3", "shop.order-placed.v1")} if "2" in (each.id for each in events) else {}
        results = await RefusingBroker(self._broker, application="shop").publish(
            [e for e in events if e.id not in held]
        )
        return [*results, *(PublishResult(each, held[each.id]) for each in events if each.id in held)]

    async def wait_for_recovery(self, seconds: float, /) -> bool:
        raise AssertionError("nothing has to recover")


class MismatchingBroker(InMemoryEventPublisher):
    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        return [PublishResult(each, StreamMismatchError("b", "x", "events-shop", ["y"])) for each in events]


async def test_archived_events_are_published_in_ordered_batches_and_stay_in_the_archive():
    application = Application(BATCH + 3)
    batches = [batch async for batch in application.republishing().run(ALL)]
    assert [batch.stored for batch in batches] == [BATCH, 3]
    assert application.held == list(range(1, BATCH + 4))
    assert len(application.database.archive) == BATCH + 3
    assert [batch.duplicates async for batch in application.republishing().run(ALL)] == [BATCH, 3]


async def test_a_run_continues_after_the_last_batch_of_another_run():
    application = Application(5)
    run = application.republishing(throttle=Throttle(2, clock=lambda: 0, sleep=lambda _: asyncio.sleep(0))).run(ALL)
    first = await anext(run)
    await run.aclose()
    assert application.held == [1, 2]
    assert [batch.stored async for batch in application.republishing().run(ALL, after=first.last)] == [3]
    assert application.held == [1, 2, 3, 4, 5]


async def test_events_that_an_unavailable_broker_did_not_store_are_sent_again():
    application = Application(5, FlakyBroker)
    [batch] = [batch async for batch in application.republishing().run(ALL)]
    assert (batch.stored, application.held) == (5, [1, 2, 3, 4, 5])


async def test_a_broker_that_stays_unavailable_ends_a_run():
    times = iter(range(100))
    application = Application(5)
    application.broker.available = False
    application.publisher.wait_for_recovery = lambda _: asyncio.sleep(0)  # type: ignore[method-assign,assignment,return-value]
    run = application.republishing(patience=3, clock=lambda: next(times)).run(ALL)
    with pytest.raises(PublisherUnavailableError):
        await anext(run)


async def test_a_permanent_error_ends_a_run_at_once():
    with pytest.raises(StreamMismatchError):
        await anext(Application(1, MismatchingBroker).republishing(clock=lambda: 0).run(ALL))


async def test_a_refused_event_is_reported_and_the_other_events_are_published():
    application = Application(3, RefusingBroker)
    [batch] = [batch async for batch in application.republishing().run(ALL)]
    assert [error.event_id for error in batch.refused] == ["2"]
    assert (batch.stored, application.held) == (2, [1, 3])


async def test_events_held_back_behind_a_refused_event_are_sent_without_a_pause():
    application = Application(4, HoldingBackBroker)
    [batch] = [batch async for batch in application.republishing().run(ALL)]
    assert [error.event_id for error in batch.refused] == ["2"]
    assert (batch.stored, application.held) == (3, [1, 4, 3])


async def test_events_that_the_archive_deletes_during_a_run_are_counted_as_gone():
    application = Application(3)
    page = await application.outbox.contents.find(ALL)
    await application.outbox.erase("k1")
    done = await application.republishing().publish(page)
    assert (done.stored, done.gone, done.last) == (2, 1, page[-1].sequence)


async def test_a_throttle_waits_as_long_as_its_rate_demands():
    now, pauses = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(seconds)
        now += seconds

    pace = Throttle(10, clock=lambda: now, sleep=sleep)
    assert pace.batch == 10
    for _ in range(3):
        await pace.wait(10)
    assert pauses == [1, 1]
    assert (Throttle(0.5).batch, Throttle(100_000).batch, Throttle(None).batch) == (1, BATCH, BATCH)
    for rate in (0, -1, float("nan")):
        with pytest.raises(SettingError):
            Throttle(rate)


async def test_unused_time_of_a_throttle_is_not_saved_up():
    now, pauses = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(round(seconds, 3))
        now += seconds

    pace = Throttle(10, clock=lambda: now, sleep=sleep)
    for _ in range(2):
        now += 1000
        pauses.clear()
        for _ in range(4):
            await pace.wait(1)
        await pace.wait(5)
        await pace.wait(1)
        assert pauses == [0.1, 0.1, 0.1, 0.1, 0.5]


@settings(max_examples=60)
@given(st.integers(0, 12), st.data())
def test_exactly_the_lost_events_are_missing_and_refilled_for_any_chunk_size(events: int, data: st.DataObject):
    lost = data.draw(st.sets(st.integers(1, max(events, 1))))
    remembered, chunk = data.draw(st.booleans()), data.draw(st.integers(1, 5))

    async def check() -> None:
        application = Application(events)
        await application.publish()
        application.broker.lose(*map(str, lost), remember=remembered)
        missing = sorted(number for number in lost if number <= events)
        assert await application.verify(chunk=chunk) == [(number, "missing") for number in missing]
        found = await application.verify(chunk=chunk, refills=True)
        assert found == [(number, "refilled") for number in missing]
        assert sorted(application.held) == list(range(1, events + 1))
        assert [number for number in application.held if number in lost] == missing
        assert await application.verify(chunk=chunk) == []

    asyncio.run(asyncio.wait_for(check(), 20))


async def test_the_number_of_compared_events_is_reported():
    application = Application(7)
    await application.publish()
    verification = application.verification(chunk=3)
    assert [each async for each in verification.run(ALL)] == []
    assert verification.checked == 7


async def test_only_events_that_match_the_filter_are_compared():
    application = Application(7)
    verification = application.verification()
    assert [each.record.id async for each in verification.run(replace(ALL, key="k1"))] == ["1", "4", "7"]


class LimitedStreams(InMemoryStreamContents):
    """A stream with limits."""

    limits: tuple[float | None, bool] = (None, False)

    async def state(self, context: str, /) -> HeldStream | None:
        found = await super().state(context)
        age, drops = self.limits
        return found and replace(found, max_age=age, drops_oldest=drops)


async def outcomes(age: float | None, *, drops: bool, holds: bool = True) -> list[tuple[int, str]]:
    """Return the outcomes of events that were archived an hour ago, two minutes ago and just now."""
    application = Application(0)
    now = datetime.now(UTC)
    for number, ago in ((1, 3600.0), (2, 120.0), (3, 0.0)):
        old = replace(event(number), time=now - timedelta(seconds=ago))
        application.archive(old, at=old.time.timestamp())
    held = [(9, now - timedelta(seconds=90), replace(event(9), source="shop"))] if holds else []
    streams = LimitedStreams(lambda: held)
    streams.limits = (age, drops)
    run = Verification(application.outbox.contents, streams).run(ALL)
    return [(int(each.record.id), each.outcome) async for each in run]


async def test_an_event_older_than_the_age_limit_of_its_stream_is_expired_and_not_missing():
    assert await outcomes(1800, drops=False) == [(1, "expired"), (2, "missing"), (3, "missing")]
    assert await outcomes(None, drops=False) == [(1, "missing"), (2, "missing"), (3, "missing")]


async def test_an_event_older_than_the_oldest_event_of_a_stream_that_discards_old_ones_is_dropped():
    assert await outcomes(None, drops=True) == [(1, "dropped"), (2, "dropped"), (3, "missing")]
    assert await outcomes(None, drops=True, holds=False) == [(1, "missing"), (2, "missing"), (3, "missing")]


async def verified(*events: tuple[int, float, float, float | None], age: float | None = None) -> list[tuple[int, str]]:
    """Return the outcomes of events, each given by the seconds since it was raised, archived and stored (or `None`)."""
    application, held, now = Application(0), [], datetime.now(UTC)
    for number, raised, archived, stored in events:
        made = replace(event(number), time=now - timedelta(seconds=raised))
        application.archive(made, at=now.timestamp() - archived)
        if stored is not None:
            held.append((number, now - timedelta(seconds=stored), replace(made, source="shop")))
    streams = LimitedStreams(lambda: sorted(held, key=lambda each: each[1]))
    streams.limits = (age, False)
    run = Verification(application.outbox.contents, streams).run(ALL)
    return [(int(each.record.id), each.outcome) async for each in run]


HOUR = 3600.0


@pytest.mark.parametrize("chunk", [1, 3, 5, 100])
async def test_an_archive_is_read_page_by_page_to_its_end(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mediator.distributed.outbox.verification._PAGE", 2)
    application = Application(11)
    await application.publish()
    application.broker.lose("1", "4", "11")
    verification = application.verification(chunk=chunk)
    assert [int(each.record.id) async for each in verification.run(ALL)] == [1, 4, 11]
    assert verification.checked == 11
    assert await application.verify(chunk=chunk, refills=True) == [(1, "refilled"), (4, "refilled"), (11, "refilled")]


async def test_a_stream_is_read_once_for_all_pages_of_a_chunk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mediator.distributed.outbox.verification._PAGE", 2)
    readings = 0

    class Noting(InMemoryStreamContents):
        async def ids(self, context: str, /, *, since: datetime | None = None, after: int = 0) -> Any:
            nonlocal readings
            readings += 1
            async for page in super().ids(context, since=since, after=after):
                yield page

    application = Application(11)
    await application.publish()
    streams = Noting(lambda: application.broker.held)
    for chunk, expected in ((11, 1), (5, 3)):
        readings = 0
        verification = Verification(application.outbox.contents, streams, chunk=chunk)
        assert [each async for each in verification.run(ALL)] == []
        assert readings == expected


async def test_an_expired_event_is_not_published_again():
    application, now = Application(0), datetime.now(UTC)
    for number, ago in ((1, 5000.0), (2, 10.0)):
        made = replace(event(number), time=now - timedelta(seconds=ago))
        application.archive(made, at=made.time.timestamp())
    streams = LimitedStreams(lambda: application.broker.held)
    streams.limits = (1800.0, False)
    run = Verification(application.outbox.contents, streams, republishing=application.republishing()).run(ALL)
    assert [(int(each.record.id), each.outcome) async for each in run] == [(1, "expired"), (2, "refilled")]
    assert application.held == [2]


async def test_a_stream_is_read_from_the_earliest_possible_position_of_the_oldest_event_of_a_chunk():
    assert await verified((1, 10 * HOUR, 10 * HOUR, 10 * HOUR), (2, 0, 0, 0)) == []
    assert await verified((1, 0, 0, 0), (2, 10 * HOUR, 10 * HOUR, 10 * HOUR), (3, 0, 0, 0)) == []
    assert await verified((1, 10 * HOUR, 0, 9 * HOUR)) == []  # the relay was frozen before it archived the event
    assert await verified((1, 0, 10 * HOUR, 10 * HOUR)) == []  # the caller set the time


async def test_an_event_within_a_minute_of_its_expiry_counts_as_expired():
    for stored, outcome in ((1741, "expired"), (1799, "expired"), (1801, "expired"), (1730, "missing")):
        assert await verified((1, stored, stored, None), age=1800) == [(1, outcome)]


async def test_the_age_of_an_event_in_its_stream_counts_from_its_archiving():
    assert await verified((1, 10 * HOUR, 10, None), age=1800) == [(1, "missing")]
    assert await verified((1, 0, 10 * HOUR, None), age=1800) == [(1, "expired")]


async def test_the_state_of_a_stream_is_fetched_before_reading_and_after_a_refill_only_new_messages_are_read():
    calls: list[str] = []
    read: list[int] = []

    class Noting(InMemoryStreamContents):
        async def state(self, context: str, /) -> HeldStream | None:
            calls.append("state")
            return await super().state(context)

        async def ids(self, context: str, /, *, since: datetime | None = None, after: int = 0) -> Any:
            calls.append("ids")
            async for page in super().ids(context, since=since, after=after):
                read.append(len(page))
                yield page

    application = Application(20)
    await application.publish()
    application.broker.lose("3")
    streams = Noting(lambda: application.broker.held)
    run = Verification(application.outbox.contents, streams, republishing=application.republishing())
    assert [each.outcome async for each in run.run(ALL)] == ["refilled"]
    assert calls == ["state", "ids", "ids"]
    assert read == [19, 1]


async def test_an_event_that_the_broker_acknowledged_and_does_not_hold_has_failed():
    class Forgetting(InMemoryEventPublisher):
        async def refill(self, events: Sequence[CloudEvent], /, *, mark: str = "") -> Sequence[PublishResult]:
            return [PublishResult(each) for each in events]

    assert await Application(2, Forgetting).verify(refills=True) == [(1, "failed"), (2, "failed")]


async def test_a_stream_is_read_no_further_than_the_last_event_to_find():
    read = 0

    class Paged(InMemoryStreamContents):
        async def ids(
            self, context: str, /, *, since: datetime | None = None, after: int = 0
        ) -> AsyncGenerator[Sequence[tuple[str, str]]]:
            nonlocal read
            async for page in super().ids(context, since=since, after=after):
                for each in page:
                    read += 1
                    yield [each]

    application = Application(9)
    await application.publish()
    streams = Paged(lambda: application.broker.held)
    verification = Verification(application.outbox.contents, streams, chunk=3)
    assert [each async for each in verification.run(ALL)] == []
    assert read == 3 + 6 + 9  # no event younger than an hour is skipped
    read = 0
    application.broker.lose("1")
    verification = Verification(application.outbox.contents, streams, chunk=3)
    assert [each.record.id async for each in verification.run(ALL)] == ["1"]
    assert read == 8 + 5 + 8
