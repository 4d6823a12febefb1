"""Parking, and what the inbox counts: the same promises in memory, in SQLite and in PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mediator import Mediator, Registry, UnitOfWork
from mediator.distributed.inbox import Admission, Inbox, Start
from mediator.distributed.parking import ParkedEvent, ParkedFilter, Parking, ParkReason
from mediator.errors import (
    ParkedEventBlockedError,
    ParkedEventNotFoundError,
    SettingError,
    UnitOfWorkMismatchError,
)
from mediator.sqlalchemy import (
    SqlAlchemyInbox,
    SqlAlchemyParking,
    SqlAlchemyUnitOfWork,
    create_schema,
    open_engine,
)
from mediator.testing import InMemoryDatabase, InMemoryInbox, InMemoryParking, InMemoryUnitOfWork
from tests.postgres import PostgresServer

GROUP = "advising"
ALL = ParkedFilter()


@dataclass
class Storage:
    make: Callable[[], UnitOfWork]
    inbox: Inbox
    parking: Parking

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[UnitOfWork]:
        async with Mediator(Registry()).scope():
            unit_of_work = self.make()
            try:
                async with unit_of_work:
                    yield unit_of_work
            finally:
                if isinstance(unit_of_work, SqlAlchemyUnitOfWork):
                    await unit_of_work.aclose()

    async def insert(self, event_id: str, key: str | None = "k") -> Admission:
        async with self.transaction() as unit_of_work:
            return await self.inbox.insert(unit_of_work, GROUP, "shop", event_id, key=key)

    async def park(self, *events: ParkedEvent) -> list[int]:
        for event in events:
            assert await self.parking.park(event)
        return [event.number for event in await self.parking.find(ALL)][-len(events) :]

    async def take(self, number: int) -> ParkedEvent:
        async with self.transaction() as unit_of_work:
            return await self.parking.take(unit_of_work, number)

    async def ids(self, which: ParkedFilter = ALL, **options: Any) -> list[str]:
        return [event.event_id for event in await self.parking.find(which, **options)]


@asynccontextmanager
async def in_memory() -> AsyncIterator[Storage]:
    database = InMemoryDatabase()
    yield Storage(lambda: InMemoryUnitOfWork(database), InMemoryInbox(database), InMemoryParking(database))


@asynccontextmanager
async def in_database(url: str) -> AsyncIterator[Storage]:
    async with open_engine(url) as engine:
        await create_schema(engine)
        yield Storage(lambda: SqlAlchemyUnitOfWork(engine), SqlAlchemyInbox(engine), SqlAlchemyParking(engine))


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            opening = in_memory()
        elif request.param == "sqlite":
            opening = in_database(f"sqlite:///{tmp_path}/contract.db")
        else:
            server: PostgresServer = request.getfixturevalue("postgres")
            opening = in_database(await stack.enter_async_context(server.database()))
        yield await stack.enter_async_context(opening)


def event(event_id: str, key: str | None = "k", **changes: Any) -> ParkedEvent:
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


# What the inbox says and counts.


async def test_an_event_behind_a_parked_one_of_its_consumer_and_key_is_told_apart(storage: Storage):
    assert await storage.insert("1") is Admission.NEW
    await storage.park(event("2"))
    assert await storage.insert("2") is Admission.DUPLICATE
    assert await storage.insert("3") is Admission.KEY_PARKED
    assert await storage.insert("3") is Admission.DUPLICATE
    assert await storage.insert("4", key="other") is Admission.NEW
    assert await storage.insert("5", key=None) is Admission.NEW
    async with storage.transaction() as unit_of_work:
        assert await storage.inbox.insert(unit_of_work, "other", "shop", "6", key="k") is Admission.NEW


async def test_the_first_start_is_not_counted_the_later_ones_are_up_to_the_limit(storage: Storage):
    row = (GROUP, "shop", "1")
    assert [await storage.inbox.start(*row, 3, alone=True) for _ in range(2)] == [Start(2), Start(3)]
    assert await storage.inbox.start(*row, 3, alone=True) == Start(3, exhausted=True)
    assert await storage.inbox.start(*row, 3) == Start(3, exhausted=True)
    assert await storage.inbox.start(*row, 4, alone=True) == Start(4)


async def test_an_event_of_whose_last_start_nothing_is_known_is_a_suspect_and_counted_only_when_it_is_alone(
    storage: Storage,
):
    row = (GROUP, "shop", "1")
    assert [await storage.inbox.start(*row, 8) for _ in range(2)] == [Start(1, suspect=True)] * 2
    assert await storage.inbox.start(*row, 8, alone=True) == Start(2)
    assert await storage.inbox.start(*row, 8) == Start(2, suspect=True)


async def test_an_event_whose_last_start_failed_is_no_suspect(storage: Storage):
    row = (GROUP, "shop", "1")
    await storage.inbox.end(*row, 1)
    assert await storage.inbox.start(*row, 8) == Start(2)
    assert await storage.inbox.start(*row, 8) == Start(2, suspect=True)
    await storage.inbox.end(*row, 2)
    assert await storage.inbox.start(*row, 8) == Start(3)
    assert await storage.inbox.start(*row, 8, alone=True) == Start(4)
    await storage.inbox.end(*row, 4)
    assert await storage.inbox.start(*row, 8) == Start(5)


async def test_a_last_start_beside_others_exhausts_no_event(storage: Storage):
    row = (GROUP, "shop", "1")
    await storage.inbox.end(*row, 1)
    assert await storage.inbox.start(*row, 2) == Start(2)
    assert await storage.inbox.start(*row, 2) == Start(2, suspect=True)
    assert await storage.inbox.start(*row, 2, alone=True) == Start(3)
    assert await storage.inbox.start(*row, 2) == Start(3, exhausted=True)


async def test_an_event_without_a_count_may_start_whatever_the_limit(storage: Storage):
    assert await storage.inbox.start(GROUP, "shop", "1", 1, alone=True) == Start(2)
    assert await storage.inbox.start(GROUP, "shop", "1", 1, alone=True) == Start(2, exhausted=True)


async def test_a_start_that_was_taken_back_does_not_count_the_first_one_neither(storage: Storage):
    row = (GROUP, "shop", "1")
    await storage.inbox.take_back(*row)
    assert await storage.inbox.start(*row, 8) == Start(1)
    assert await storage.inbox.start(*row, 8, alone=True) == Start(2)
    for _ in range(3):
        await storage.inbox.take_back(*row)
    assert await storage.inbox.start(*row, 8) == Start(1)


async def test_an_event_that_has_taken_effect_is_not_started_and_its_count_is_gone(storage: Storage):
    row = (GROUP, "shop", "1")
    await storage.inbox.start(*row, 8, alone=True)
    with pytest.raises(LookupError):
        async with storage.transaction() as unit_of_work:
            await storage.inbox.insert(unit_of_work, *row)
            await storage.inbox.forget_starts(unit_of_work, *row)
            raise LookupError
    assert (await storage.inbox.start(*row, 8, alone=True)).attempt == 3
    async with storage.transaction() as unit_of_work:
        await storage.inbox.insert(unit_of_work, *row)
        await storage.inbox.forget_starts(unit_of_work, *row)
    assert (await storage.inbox.start(*row, 8)).taken
    assert await storage.inbox.answers()


@pytest.mark.parametrize("foreign", ["", "a\0b", "x" * 256, "\u20ac" * 1000, "\ud800", "\x1b[2J"])
async def test_whatever_a_foreign_producer_calls_its_events_they_are_told_apart(storage: Storage, foreign: str):
    rows = (GROUP, foreign, "1"), (GROUP, "shop", foreign), (GROUP, "shop", f"{foreign}2")
    for row in rows:
        assert not await storage.inbox.contains(*row)
        await storage.inbox.take_back(*row)
        assert await storage.inbox.start(*row, 8) == Start(1)
        for expected in (Admission.NEW, Admission.DUPLICATE):
            async with storage.transaction() as unit_of_work:
                assert await storage.inbox.insert(unit_of_work, *row, key=foreign) is expected
                await storage.inbox.forget_starts(unit_of_work, *row)
        assert await storage.inbox.contains(*row)
        assert (await storage.inbox.start(*row, 8)).taken


# Setting aside.


async def test_a_parked_event_comes_back_as_it_was(storage: Storage):
    parked = event("1")
    (number,) = await storage.park(parked)
    assert await storage.parking.get(number) == replace(parked, number=number)
    assert await storage.parking.find(ALL) == [replace(parked, number=number)]


async def test_parking_records_the_event_in_the_inbox_and_ends_its_count(storage: Storage):
    await storage.inbox.start(GROUP, "shop", "1", 8, alone=True)
    await storage.park(event("1"))
    assert await storage.inbox.contains(GROUP, "shop", "1")
    assert (await storage.inbox.start(GROUP, "shop", "1", 8)).taken
    await storage.parking.discard((await storage.parking.find(ALL))[0].number)
    assert await storage.insert("1") is Admission.DUPLICATE


async def test_what_has_taken_effect_or_is_parked_is_not_parked(storage: Storage):
    await storage.insert("1")
    assert not await storage.parking.park(event("1"))
    await storage.park(event("2"))
    assert not await storage.parking.park(event("2"))
    assert await storage.ids() == ["2"]


async def test_an_event_is_appended_with_the_transaction_or_not_at_all(storage: Storage):
    await storage.park(event("1"))
    with pytest.raises(LookupError):
        async with storage.transaction() as unit_of_work:
            await storage.inbox.insert(unit_of_work, GROUP, "shop", "2", key="k")
            await storage.parking.append(unit_of_work, event("2", reason=ParkReason.KEY_PARKED))
            raise LookupError
    assert await storage.ids() == ["1"]
    async with storage.transaction() as unit_of_work:
        assert await storage.inbox.insert(unit_of_work, GROUP, "shop", "2", key="k") is Admission.KEY_PARKED
        await storage.parking.append(unit_of_work, event("2", reason=ParkReason.KEY_PARKED))
    assert await storage.ids() == ["1", "2"]


async def test_the_parking_of_another_database_is_refused(storage: Storage):
    (number,) = await storage.park(event("1"))
    async with Mediator(Registry()).scope():
        foreign = InMemoryUnitOfWork(InMemoryDatabase())
        async with foreign:
            with pytest.raises(UnitOfWorkMismatchError):
                await storage.parking.append(foreign, event("2"))
            with pytest.raises(UnitOfWorkMismatchError):
                await storage.parking.take(foreign, number)


# Finding.


async def test_events_are_found_by_what_they_are_in_the_order_of_their_numbers(storage: Storage):
    numbers = await storage.park(
        event("1"),
        event("2", key=None, type="shop.order-lost.v2", parked_at=2000.0),
        event("3", consumer="other", reason=ParkReason.UNDECODABLE),
        event("4", key="other"),
    )
    assert numbers == sorted(numbers)
    assert await storage.ids() == ["1", "2", "3", "4"]
    assert await storage.ids(ParkedFilter(consumer=GROUP)) == ["1", "2", "4"]
    assert await storage.ids(ParkedFilter(type="shop.order-lost.v2")) == ["2"]
    assert await storage.ids(ParkedFilter(key="k", consumer=GROUP)) == ["1"]
    assert await storage.ids(ParkedFilter(reason="undecodable")) == ["3"]
    assert await storage.ids(ParkedFilter(since=1500.0)) == ["2"]
    assert await storage.ids(ParkedFilter(direction="out")) == []
    assert await storage.ids(ParkedFilter(numbers=(numbers[0], numbers[3]))) == ["1", "4"]
    assert await storage.ids(after=numbers[0], limit=2) == ["2", "3"]
    assert await storage.parking.count(ALL) == 4
    assert await storage.parking.count(ParkedFilter(consumer=GROUP, direction="in")) == 3


async def test_the_head_is_the_first_of_a_consumers_key(storage: Storage):
    await storage.park(event("1"), event("2"), event("3", key=None), event("4", consumer="other"))
    first, second, keyless, other = await storage.parking.find(ALL)
    assert await storage.parking.head(second) == first
    assert await storage.parking.head(keyless) == keyless
    assert await storage.parking.head(other) == other
    await storage.parking.discard(first.number)
    assert await storage.parking.head(second) == second


# Taking out.


async def test_an_event_is_taken_out_with_the_transaction_or_not_at_all(storage: Storage):
    (number,) = await storage.park(event("1"))
    with pytest.raises(LookupError):
        async with storage.transaction() as unit_of_work:
            assert (await storage.parking.take(unit_of_work, number)).event_id == "1"
            raise LookupError
    assert await storage.ids() == ["1"]
    assert await storage.take(number) == event("1", number=number)
    assert await storage.ids() == []
    with pytest.raises(ParkedEventNotFoundError):
        await storage.take(number)


async def test_only_the_first_event_of_a_key_can_be_taken_out(storage: Storage):
    first, second, other = await storage.park(event("1"), event("2"), event("3", key=None))
    with pytest.raises(ParkedEventBlockedError, match=str(first)):
        await storage.take(second)
    await storage.take(other)
    await storage.take(first)
    await storage.take(second)
    assert await storage.ids() == []


@pytest.mark.parametrize("commits", [True, False])
async def test_an_event_that_arrives_while_the_last_of_its_key_is_replayed_waits_for_how_that_ends(
    storage: Storage, commits: bool
):
    (number,) = await storage.park(event("1"))
    taken, go = asyncio.Event(), asyncio.Event()

    async def replay() -> None:
        with contextlib.suppress(LookupError):
            async with storage.transaction() as unit_of_work:
                await storage.parking.take(unit_of_work, number)
                taken.set()
                await go.wait()
                if not commits:
                    raise LookupError

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(replay())
        await taken.wait()
        arriving = group.create_task(storage.insert("2"))
        await asyncio.wait({arriving}, timeout=0.2)
        assert not arriving.done()
        go.set()
    assert arriving.result() is (Admission.NEW if commits else Admission.KEY_PARKED)


async def test_two_replays_of_one_event_have_one_effect(storage: Storage):
    (number,) = await storage.park(event("1"))
    results = await asyncio.gather(storage.take(number), storage.take(number), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ParkedEvent", "ParkedEventNotFoundError"]


async def test_an_event_is_edited_in_its_place(storage: Storage):
    first, second = await storage.park(event("1"), event("2"))
    edited = await storage.parking.edit(first, data=b"new")
    assert (edited.data, edited.headers) == (b"new", event("1").headers)
    edited = await storage.parking.edit(first, headers={"a": "b"})
    assert (edited.data, edited.headers) == (b"new", {"a": "b"})
    assert await storage.parking.get(first) == edited
    assert (await storage.parking.get(second)).data == event("2").data


async def test_the_failure_of_a_replay_is_kept_and_counted(storage: Storage):
    (number,) = await storage.park(event("1"))
    await storage.parking.note_failure(number, ValueError("\x00" + "x" * 10_000))
    noted = await storage.parking.get(number)
    assert (noted.attempts, noted.error[:13], len(noted.error)) == (9, "ValueError: \\", 4096)
    await storage.parking.note_failure(number + 1, ValueError("nobody"))


async def test_a_discarded_event_is_gone_and_its_successor_is_first(storage: Storage):
    first, second = await storage.park(event("1"), event("2"))
    assert (await storage.parking.discard(first)).event_id == "1"
    assert await storage.ids() == ["2"]
    await storage.take(second)


async def test_what_is_not_parked_is_not_found(storage: Storage):
    (number,) = await storage.park(event("1"))
    missing = number + 1
    for asking in (
        storage.parking.get(missing),
        storage.parking.edit(missing, data=b""),
        storage.parking.discard(missing),
        storage.parking.release(missing),
        storage.parking.release(number),  # it came in, and does not go out
        storage.take(missing),
    ):
        with pytest.raises(ParkedEventNotFoundError):
            await asking
    assert await storage.ids() == ["1"]


async def test_numbers_are_not_used_again(storage: Storage):
    (first,) = await storage.park(event("1"))
    await storage.parking.discard(first)
    (second,) = await storage.park(event("2"))
    assert second > first


# What only a database has.


async def test_a_consumer_has_a_name_that_fits(tmp_path: Path, postgres_url: str):
    for url in (f"sqlite:///{tmp_path}/names.db", postgres_url):
        async with in_database(url) as storage:
            for consumer in ("x" * 65, "a\0b"):
                with pytest.raises(SettingError, match="consumer"):
                    await storage.inbox.start(consumer, "shop", "1", 8)


async def test_texts_of_foreign_producers_fit_into_every_column(storage: Storage):
    odd = event("\u20ac" * 255, headers={"\x00": "\ud800\x00\x1b"}, extensions={"a": "\x00"}, subject="x" * 5000)
    await storage.park(odd)
    (found,) = await storage.parking.find(ALL)
    assert replace(found, number=0) == odd


async def test_the_inbox_of_another_file_is_refused_before_anything_is_recorded(tmp_path: Path):
    async with in_database(f"sqlite:///{tmp_path}/a.db") as one, in_database(f"sqlite:///{tmp_path}/b.db") as other:
        with pytest.raises(UnitOfWorkMismatchError):
            async with one.transaction() as unit_of_work:
                await other.inbox.insert(unit_of_work, GROUP, "shop", "1")
        assert not await one.inbox.contains(GROUP, "shop", "1")
        assert not await other.inbox.contains(GROUP, "shop", "1")
