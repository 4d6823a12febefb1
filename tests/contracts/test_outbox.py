"""Delayed and refused events, back-pressure and erasure: the same promises in memory, in SQLite and in PostgreSQL."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from mediator import DistributedEvent, DistributedEventBroker, TransactionMode
from mediator.distributed.outbox import Erased
from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason
from mediator.distributed.replay import ParkedReplay
from mediator.errors import (
    ClaimLostError,
    DeliveryTimeError,
    EventNotSerializableError,
    NoUnitOfWorkError,
    OutboxFullError,
    ParkedEventBlockedError,
    ParkedEventNotFoundError,
    SettingError,
    UnitOfWorkMismatchError,
)
from mediator.testing import InMemoryDatabase, InMemoryUnitOfWork
from tests.contracts.test_storage import Storage, Written, storage

__all__ = ["storage"]

FUTURE = timedelta(hours=1)
OUT = ParkedFilter(direction="out")


@dataclass(frozen=True, slots=True)
class Elsewhere(DistributedEvent):
    event_type: ClassVar[str] = "elsewhere.written"
    text: str


def adding(*events: DistributedEvent, after: timedelta | None = None) -> Callable[[Storage], Any]:
    async def action(storage: Storage) -> list[str]:
        deliver_at = None if after is None else datetime.now(UTC) + after
        broker = DistributedEventBroker(storage.unit_of_work)
        return [broker.add(event, deliver_at=deliver_at) for event in events]

    return action


async def add(storage: Storage, *events: DistributedEvent, after: timedelta | None = None) -> list[str]:
    ids: list[str] = await storage.do(adding(*events, after=after))
    return ids


async def waiting(storage: Storage, **options: Any) -> list[str]:
    async with storage.outbox.claim(100, **options) as batch:
        return [event.data.decode().split('"')[3] for event in batch.events]


async def park_first(storage: Storage) -> ParkedEvent:
    async with storage.outbox.claim(1) as batch:
        await batch.park(batch.events[0], ParkReason.REFUSED, "too large")
    [refused] = await storage.parking.find(OUT)
    return refused


# Numbers.


async def test_many_events_of_one_command_keep_the_order_in_which_they_were_added(storage: Storage):
    await add(storage, *(Written(str(number), "k" if number % 2 else None) for number in range(2500)))
    async with storage.outbox.claim(2499) as batch:
        assert [event.data.decode().split('"')[3] for event in batch.events] == [str(n) for n in range(2499)]
        assert batch.look_again == 0
    async with storage.outbox.claim(5000) as batch:
        assert batch.look_again is None


@pytest.mark.parametrize("event_id", ["", "x" * 65, "a\0b", "\ud800"])
async def test_an_id_that_no_database_can_store_fails_the_command(storage: Storage, event_id: str):
    async def action(storage: Storage) -> None:
        await storage.write("a")
        DistributedEventBroker(storage.unit_of_work, ids=lambda: event_id).add(Written("a"))

    with pytest.raises(EventNotSerializableError, match="its id is empty, longer than 64"):
        await storage.do(action)
    assert (await waiting(storage), await storage.read()) == ([], [])


async def test_an_id_of_64_characters_of_any_kind_is_kept(storage: Storage):
    async def action(storage: Storage) -> None:
        DistributedEventBroker(storage.unit_of_work, ids=lambda: "\u20ac" * 64).add(Written("a"))

    await storage.do(action)
    async with storage.outbox.claim(1) as batch:
        assert [event.id for event in batch.events] == ["\u20ac" * 64]


@pytest.mark.parametrize("text", ["x" * 300, "a\0b", "\ud800"])
async def test_what_no_event_is_called_is_neither_cancelled_nor_erased(storage: Storage, text: str):
    await add(storage, Written("a", "k"))
    assert await storage.outbox.cancel(text) is False
    assert await storage.outbox.erase(text) == Erased(archived=0, parked=0, pending=0)


async def test_contexts_are_left_out(storage: Storage):
    await add(storage, Elsewhere("a"), Written("b"), Elsewhere("c"))
    assert await waiting(storage, without={"elsewhere"}) == ["b"]
    assert await waiting(storage, without={"elsewhere", "contract"}) == []
    assert await waiting(storage, without={"else"}) == ["a", "b", "c"]


# Delayed events.


async def test_a_delayed_event_is_published_when_it_is_due_and_not_before(storage: Storage):
    await add(storage, Written("late"), after=timedelta(seconds=0.3))
    await add(storage, Written("now"))
    assert await waiting(storage) == ["now"]
    async with asyncio.timeout(10):
        while pause := await storage.outbox.due_in():
            assert pause <= 0.3
            await asyncio.sleep(pause)
    assert sorted(await waiting(storage)) == ["late", "now"]
    assert await storage.outbox.due_in() is None


async def test_a_delayed_event_does_not_hold_its_key_back(storage: Storage):
    await add(storage, Written("late", "k"), after=FUTURE)
    await add(storage, Written("now", "k"))
    assert await waiting(storage) == ["now"]


async def test_a_time_in_the_past_means_at_once(storage: Storage):
    await add(storage, Written("a"), after=-FUTURE)
    assert await storage.outbox.due_in() == 0
    assert await waiting(storage) == ["a"]


async def test_the_next_due_time_is_that_of_the_earliest_event(storage: Storage):
    assert await storage.outbox.due_in() is None
    await add(storage, Written("b"), after=2 * FUTURE)
    await add(storage, Written("a"), after=FUTURE)
    assert 3500 < (await storage.outbox.due_in() or 0) <= 3600


async def test_a_delayed_event_can_be_cancelled_until_it_is_due(storage: Storage):
    [cancelled] = await add(storage, Written("a"), after=timedelta(seconds=0.05))
    [kept] = await add(storage, Written("b"), after=timedelta(seconds=0.05))
    [undelayed] = await add(storage, Written("c"))
    assert await storage.outbox.cancel(cancelled) is True
    assert await storage.outbox.cancel(cancelled) is False
    await asyncio.sleep(0.05)
    assert sorted(await waiting(storage)) == ["b", "c"]
    assert await storage.outbox.cancel(kept) is False
    assert await storage.outbox.cancel(undelayed) is False
    assert sorted(await waiting(storage)) == ["b", "c"]


async def test_a_transaction_cancels_if_it_commits(storage: Storage):
    [event_id] = await add(storage, Written("a"), after=FUTURE)

    async def cancel(storage: Storage) -> bool:
        return await storage.outbox.cancel(event_id, unit_of_work=storage.unit_of_work)

    async def cancel_and_fail(storage: Storage) -> None:
        assert await cancel(storage)
        raise LookupError

    async def cancel_inside_a_savepoint(storage: Storage) -> None:
        with pytest.raises(LookupError):
            await storage.do(cancel_and_fail, mode=TransactionMode.NESTED)

    with pytest.raises(LookupError):
        await storage.do(cancel_and_fail)
    await storage.do(cancel_inside_a_savepoint)
    assert await storage.outbox.due_in() is not None
    assert await storage.do(cancel) is True
    assert await storage.outbox.due_in() is None
    assert await storage.do(cancel) is False


async def test_a_transaction_of_another_database_cancels_nothing(storage: Storage):
    [event_id] = await add(storage, Written("a"), after=FUTURE)
    with pytest.raises(UnitOfWorkMismatchError):
        await storage.outbox.cancel(event_id, unit_of_work=InMemoryUnitOfWork(InMemoryDatabase()))


async def test_a_unit_of_work_that_does_not_run_cancels_nothing(storage: Storage):
    [event_id] = await add(storage, Written("a"), after=FUTURE)
    async with storage.mediator.scope():
        with pytest.raises(NoUnitOfWorkError):
            await storage.outbox.cancel(event_id, unit_of_work=storage.unit_of_work)


@pytest.mark.parametrize("time", [datetime(2026, 1, 1), "tomorrow", 3600])  # noqa: DTZ001
async def test_a_time_without_a_zone_is_refused_when_the_event_is_added(storage: Storage, time: Any):
    async def action(storage: Storage) -> None:
        with pytest.raises(DeliveryTimeError, match="timezone-aware"):
            DistributedEventBroker(storage.unit_of_work).add(Written("a"), deliver_at=time)

    await storage.do(action)
    assert await waiting(storage) == []


# Refused events.


async def test_a_refused_event_holds_back_its_key_and_nothing_else(storage: Storage):
    await add(storage, Written("bad", "k"), Written("next", "k"), Written("other", "o"), Written("none"))
    refused = await park_first(storage)
    await add(storage, Written("later", "k"))
    assert await waiting(storage) == ["other", "none"]
    assert await storage.parking.find(OUT) == [refused]
    assert (refused.direction, refused.consumer, refused.reason, refused.error) == ("out", "", "refused", "too large")
    assert (refused.type, refused.partition_key, refused.headers) == ("contract.written.v1", "k", {})
    assert refused.data.decode() == '{"text":"bad","key":"k"}'
    assert abs(datetime.now(UTC).timestamp() - refused.parked_at) < 60


async def test_a_refused_event_without_a_key_holds_nothing_back(storage: Storage):
    await add(storage, Written("bad"), Written("good"))
    await park_first(storage)
    assert await waiting(storage) == ["good"]


async def test_a_released_event_is_the_same_and_comes_before_its_successors(storage: Storage):
    await add(storage, Written("before", "o"), Written("bad", "k"), Written("next", "k"))
    async with storage.outbox.claim(10) as batch:
        bad = batch.events[1]
        await batch.park(bad, ParkReason.REFUSED, "too large")
    [refused] = await storage.parking.find(OUT)
    await storage.outbox.wait(0.01)
    assert await storage.parking.release(refused.number) == refused
    async with asyncio.timeout(5):
        await storage.outbox.wait(60)
    async with storage.outbox.claim(10) as batch:
        assert batch.events[1] == bad
    assert await waiting(storage) == ["before", "bad", "next"]
    assert await storage.parking.find(OUT) == []
    with pytest.raises(ParkedEventNotFoundError):
        await storage.parking.release(refused.number)


async def test_the_refused_events_of_a_key_go_out_in_their_order(storage: Storage):
    await add(storage, Written("1", "k"), Written("2", "k"), Written("3", "k"))
    async with storage.outbox.claim(10) as batch:
        for event in batch.events[:2]:
            await batch.park(event, ParkReason.REFUSED, "too large")
    first, second = await storage.parking.find(OUT)
    with pytest.raises(ParkedEventBlockedError):
        await storage.parking.release(second.number)
    replay = ParkedReplay(storage.parking, [])
    assert [result.outcome async for result in replay.run(OUT)] == ["replayed", "replayed"]
    assert await waiting(storage) == ["1", "2", "3"]
    assert first.number < second.number


async def test_what_is_wrong_with_a_refused_event_can_be_corrected(storage: Storage):
    await add(storage, Written("bad", "k"))
    refused = await park_first(storage)
    with pytest.raises(SettingError, match="headers"):
        await storage.parking.edit(refused.number, headers={"a": "b"})
    edited = await storage.parking.edit(refused.number, data=b'{"text":"good","key":"k"}')
    assert await storage.parking.release(refused.number) == edited
    assert await waiting(storage) == ["good"]


async def test_an_event_that_is_refused_again_is_set_aside_again(storage: Storage):
    await add(storage, Written("bad", "k"))
    await storage.parking.release((await park_first(storage)).number)
    await storage.parking.release((await park_first(storage)).number)
    assert await waiting(storage) == ["bad"]


async def test_the_successors_of_a_discarded_event_go_on(storage: Storage):
    await add(storage, Written("bad", "k"), Written("next", "k"))
    refused = await park_first(storage)
    await storage.outbox.wait(0.01)
    assert await storage.parking.discard(refused.number) == refused
    async with asyncio.timeout(5):
        await storage.outbox.wait(60)
    assert await waiting(storage) == ["next"]
    with pytest.raises(ParkedEventNotFoundError):
        await storage.parking.discard(refused.number)


async def test_settling_and_parking_go_together(storage: Storage):
    await add(storage, Written("a", "1"), Written("b", "2"), Written("c", "3"))
    async with storage.outbox.claim(10) as batch:
        await batch.settle([batch.events[0].id])
        await batch.park(batch.events[1], ParkReason.REFUSED, "x" * 50 + "\0\ud800" + "x" * 5000)
    assert await waiting(storage) == ["c"]
    [refused] = await storage.parking.find(OUT)
    assert len(refused.error) == 4096


# Claims.


async def test_a_batch_that_was_left_changes_nothing_any_more(storage: Storage):
    await add(storage, Written("a"))
    async with storage.outbox.claim(10) as batch:
        pass
    with pytest.raises(ClaimLostError, match="Nothing was changed"):
        await batch.settle([batch.events[0].id])
    with pytest.raises(ClaimLostError):
        await batch.park(batch.events[0], ParkReason.REFUSED, "")
    assert await waiting(storage) == ["a"]


async def test_whoever_finds_everything_claimed_is_told_to_look_again_soon(storage: Storage):
    await add(storage, Written("a"))
    async with storage.outbox.claim(10), storage.outbox.claim(10) as theirs:
        assert theirs.look_again is not None
        assert 0 < theirs.look_again < 1


# Back-pressure.


async def test_a_command_that_would_overfill_the_outbox_fails_and_leaves_nothing(storage: Storage):
    async def write(*rows: str) -> None:
        async with storage.mediator.scope():
            unit_of_work = storage.make(max_pending=3)
            async with unit_of_work:
                await storage.write(rows[0])
                for row in rows:
                    DistributedEventBroker(unit_of_work).add(Written(row))

    await write("a", "b")
    with pytest.raises(OutboxFullError, match="max_pending is 3") as caught:
        await write("c", "d")
    assert (caught.value.pending, caught.value.max_pending) == (2, 3)
    await write("e")
    with pytest.raises(OutboxFullError):
        await write("f")
    assert await storage.read() == ["a", "e"]
    async with storage.outbox.claim(10) as batch:
        assert len(batch.events) == 3
        await batch.settle([event.id for event in batch.events])
    async with asyncio.timeout(10):
        while await waiting(storage) != ["g"]:  # a count that took long is repeated later
            with contextlib.suppress(OutboxFullError):
                await write("g")


async def test_delayed_events_do_not_fill_the_outbox(storage: Storage):
    await add(storage, *(Written(str(number)) for number in range(5)), after=FUTURE)
    async with storage.mediator.scope():
        unit_of_work = storage.make(max_pending=1)
        async with unit_of_work:
            DistributedEventBroker(unit_of_work).add(Written("a"))
    assert await waiting(storage) == ["a"]


# Erasure.


async def test_erasing_a_key_deletes_what_was_sent_and_refused_and_leaves_what_waits(storage: Storage):
    await add(storage, Written("sent", "k"), Written("kept", "o"), Written("bad", "k"), Written("waits", "k"))
    async with storage.outbox.claim(3) as batch:
        await batch.settle([event.id for event in batch.events[:2]])
        await batch.park(batch.events[2], ParkReason.REFUSED, "")
    assert await storage.outbox.erase("k") == Erased(archived=1, parked=1, pending=1)
    assert await storage.parking.find(OUT) == []
    assert await waiting(storage) == ["waits"]
    assert await storage.outbox.erase("k") == Erased(archived=0, parked=0, pending=1)
    assert await storage.outbox.erase("o") == Erased(archived=1, parked=0, pending=0)
