"""ParkingConformance: the promises of `Parking` as test cases."""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from mediator.distributed.inbox import Admission
from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason
from mediator.errors import ParkedEventBlockedError, ParkedEventNotFoundError, UnitOfWorkMismatchError
from mediator.mediator import Mediator
from mediator.registry import Registry
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.storage import StorageUnderTest
from mediator.testing.conformance.storage_steps import ALL, GROUP, ids, insert, park, parked_event, take
from mediator.testing.conformance.storage_suite import StorageSuite
from mediator.testing.database import InMemoryDatabase, InMemoryUnitOfWork


class ParkingConformance(StorageSuite):
    """What sets events aside, and gives them back in order."""

    async def test_a_parked_event_comes_back_as_it_was(self) -> None:
        """A parked event comes back as it was."""
        async with self.opened() as storage:
            parked = parked_event("1")
            (number,) = await park(storage, parked)
            assert await storage.parking.get(number) == replace(parked, number=number)
            assert await storage.parking.find(ALL) == [replace(parked, number=number)]

    async def test_parking_records_the_event_in_the_inbox_and_ends_its_count(self) -> None:
        """Parking records the event in the inbox and ends its count."""
        async with self.opened() as storage:
            await storage.inbox.start(GROUP, "shop", "1", 8, alone=True)
            await park(storage, parked_event("1"))
            assert await storage.inbox.contains(GROUP, "shop", "1")
            assert (await storage.inbox.start(GROUP, "shop", "1", 8)).taken
            await storage.parking.discard((await storage.parking.find(ALL))[0].number)
            assert await insert(storage, "1") is Admission.DUPLICATE

    async def test_what_has_taken_effect_or_is_parked_is_not_parked(self) -> None:
        """What has taken effect or is parked is not parked."""
        async with self.opened() as storage:
            await insert(storage, "1")
            assert not await storage.parking.park(parked_event("1"))
            await park(storage, parked_event("2"))
            assert not await storage.parking.park(parked_event("2"))
            assert await ids(storage) == ["2"]

    async def test_an_event_is_appended_with_the_transaction_or_not_at_all(self) -> None:
        """An event is appended with the transaction or not at all."""
        async with self.opened() as storage:
            await park(storage, parked_event("1"))
            with failing(LookupError):
                async with storage.transaction() as unit_of_work:
                    await storage.inbox.insert(unit_of_work, GROUP, "shop", "2", key="k")
                    await storage.parking.append(unit_of_work, parked_event("2", reason=ParkReason.KEY_PARKED))
                    raise LookupError
            assert await ids(storage) == ["1"]
            async with storage.transaction() as unit_of_work:
                assert await storage.inbox.insert(unit_of_work, GROUP, "shop", "2", key="k") is Admission.KEY_PARKED
                await storage.parking.append(unit_of_work, parked_event("2", reason=ParkReason.KEY_PARKED))
            assert await ids(storage) == ["1", "2"]

    async def test_the_parking_of_another_database_is_refused(self) -> None:
        """The parking of another database is refused."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            async with Mediator(Registry()).scope():
                foreign = InMemoryUnitOfWork(InMemoryDatabase())
                async with foreign:
                    with failing(UnitOfWorkMismatchError):
                        await storage.parking.append(foreign, parked_event("2"))
                    with failing(UnitOfWorkMismatchError):
                        await storage.parking.take(foreign, number)

    async def test_events_are_found_by_what_they_are_in_the_order_of_their_numbers(self) -> None:
        """Events are found by what they are in the order of their numbers."""
        async with self.opened() as storage:
            numbers = await park(
                storage,
                parked_event("1"),
                parked_event("2", key=None, type="shop.order-lost.v2", parked_at=2000.0),
                parked_event("3", consumer="other", reason=ParkReason.UNDECODABLE),
                parked_event("4", key="other"),
            )
            assert numbers == sorted(numbers)
            assert await ids(storage) == ["1", "2", "3", "4"]
            assert await ids(storage, ParkedFilter(consumer=GROUP)) == ["1", "2", "4"]
            assert await ids(storage, ParkedFilter(type="shop.order-lost.v2")) == ["2"]
            assert await ids(storage, ParkedFilter(key="k", consumer=GROUP)) == ["1"]
            assert await ids(storage, ParkedFilter(reason="undecodable")) == ["3"]
            assert await ids(storage, ParkedFilter(since=1500.0)) == ["2"]
            assert await ids(storage, ParkedFilter(direction="out")) == []
            assert await ids(storage, ParkedFilter(numbers=(numbers[0], numbers[3]))) == ["1", "4"]
            assert await ids(storage, after=numbers[0], limit=2) == ["2", "3"]
            assert await storage.parking.count(ALL) == 4
            assert await storage.parking.count(ParkedFilter(consumer=GROUP, direction="in")) == 3

    async def test_the_head_is_the_first_of_a_consumers_key(self) -> None:
        """The head is the first of a consumers key."""
        async with self.opened() as storage:
            keyless, other = parked_event("3", key=None), parked_event("4", consumer="other")
            await park(storage, parked_event("1"), parked_event("2"), keyless, other)
            first, second, keyless, other = await storage.parking.find(ALL)
            assert await storage.parking.head(second) == first
            assert await storage.parking.head(keyless) == keyless
            assert await storage.parking.head(other) == other
            await storage.parking.discard(first.number)
            assert await storage.parking.head(second) == second

    async def test_an_event_is_taken_out_with_the_transaction_or_not_at_all(self) -> None:
        """An event is taken out with the transaction or not at all."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            with failing(LookupError):
                async with storage.transaction() as unit_of_work:
                    assert (await storage.parking.take(unit_of_work, number)).event_id == "1"
                    raise LookupError
            assert await ids(storage) == ["1"]
            assert await take(storage, number) == parked_event("1", number=number)
            assert await ids(storage) == []
            with failing(ParkedEventNotFoundError):
                await take(storage, number)

    async def test_only_the_first_event_of_a_key_can_be_taken_out(self) -> None:
        """Only the first event of a key can be taken out."""
        async with self.opened() as storage:
            first, second, other = await park(
                storage, parked_event("1"), parked_event("2"), parked_event("3", key=None)
            )
            with failing(ParkedEventBlockedError):
                await take(storage, second)
            await take(storage, other)
            await take(storage, first)
            await take(storage, second)
            assert await ids(storage) == []

    async def test_an_event_that_arrives_while_the_last_of_its_key_is_replayed_waits(self) -> None:
        """An event that arrives while the last of its key is replayed waits for how that ends."""
        for commits in (True, False):
            await self._an_event_that_arrives_while_the_last_of_its_key_is_replayed_waits(commits)

    async def _an_event_that_arrives_while_the_last_of_its_key_is_replayed_waits(self, commits: bool) -> None:
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            arrived = await _during_a_replay(storage, number, insert(storage, "2"), commits=commits)
            assert arrived is (Admission.NEW if commits else Admission.KEY_PARKED)

    async def test_two_replays_of_one_event_have_one_effect(self) -> None:
        """Two replays of one event have one effect."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            results = await asyncio.gather(take(storage, number), take(storage, number), return_exceptions=True)
            assert sorted(type(result).__name__ for result in results) == ["ParkedEvent", "ParkedEventNotFoundError"]

    async def test_a_discard_waits_for_a_replay_that_has_taken_the_event(self) -> None:
        """A discard waits for a replay that has taken the event, and finds none when that commits."""
        for key in ("k", None):
            for commits in (True, False):
                async with self.opened() as storage:
                    (number,) = await park(storage, parked_event("1", key))
                    discarding = storage.parking.discard(number)
                    result = await _during_a_replay(storage, number, discarding, commits=commits)
                    assert isinstance(result, ParkedEventNotFoundError if commits else ParkedEvent), result
                    assert await ids(storage) == []

    async def test_an_edit_waits_for_a_replay_that_has_taken_the_event(self) -> None:
        """An edit waits for a replay that has taken the event, and finds none when that commits."""
        for key in ("k", None):
            for commits in (True, False):
                async with self.opened() as storage:
                    (number,) = await park(storage, parked_event("1", key))
                    editing = storage.parking.edit(number, data=b"new")
                    result = await _during_a_replay(storage, number, editing, commits=commits)
                    assert isinstance(result, ParkedEventNotFoundError if commits else ParkedEvent), result
                    assert await ids(storage) == ([] if commits else ["1"])

    async def test_an_event_is_edited_in_its_place(self) -> None:
        """An event is edited in its place."""
        async with self.opened() as storage:
            first, second = await park(storage, parked_event("1"), parked_event("2"))
            edited = await storage.parking.edit(first, data=b"new")
            assert (edited.data, edited.headers) == (b"new", parked_event("1").headers)
            edited = await storage.parking.edit(first, headers={"a": "b"})
            assert (edited.data, edited.headers) == (b"new", {"a": "b"})
            assert await storage.parking.get(first) == edited
            assert (await storage.parking.get(second)).data == parked_event("2").data

    async def test_the_failure_of_a_replay_is_kept_and_counted(self) -> None:
        """The failure of a replay is kept and counted."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            await storage.parking.note_failure(number, ValueError("\x00" + "x" * 10_000))
            noted = await storage.parking.get(number)
            assert (noted.attempts, noted.error[:13], len(noted.error)) == (9, "ValueError: \\", 4096)
            await storage.parking.note_failure(number + 1, ValueError("nobody"))

    async def test_a_discarded_event_is_gone_and_its_successor_is_first(self) -> None:
        """A discarded event is gone and its successor is first."""
        async with self.opened() as storage:
            first, second = await park(storage, parked_event("1"), parked_event("2"))
            assert (await storage.parking.discard(first)).event_id == "1"
            assert await ids(storage) == ["2"]
            await take(storage, second)

    async def test_what_is_not_parked_is_not_found(self) -> None:
        """What is not parked is not found."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            missing = number + 1
            for asking in (
                storage.parking.get(missing),
                storage.parking.edit(missing, data=b""),
                storage.parking.discard(missing),
                storage.parking.release(missing),
                storage.parking.release(number),  # it came in, and does not go out
                take(storage, missing),
            ):
                with failing(ParkedEventNotFoundError):
                    await asking
            assert await ids(storage) == ["1"]

    async def test_numbers_are_not_used_again(self) -> None:
        """Numbers are not used again."""
        async with self.opened() as storage:
            (first,) = await park(storage, parked_event("1"))
            await storage.parking.discard(first)
            (second,) = await park(storage, parked_event("2"))
            assert second > first

    async def test_texts_of_foreign_producers_fit_into_every_column(self) -> None:
        """Texts of foreign producers fit into every column."""
        async with self.opened() as storage:
            headers, extensions = {"\x00": "\ud800\x00\x1b"}, {"a": "\x00"}
            odd = parked_event("\u20ac" * 255, headers=headers, extensions=extensions, subject="x" * 5000)
            await park(storage, odd)
            (found,) = await storage.parking.find(ALL)
            assert replace(found, number=0) == odd

    async def test_what_no_event_can_have_finds_none_and_is_no_error(self) -> None:
        """What no event can have finds none and is no error: it may have been typed by hand."""
        async with self.opened() as storage:
            await park(storage, parked_event("1"))
            for text in ("a\0b", "\udcff", "x" * 10_000):
                for which in ParkedFilter(consumer=text), ParkedFilter(type=text), ParkedFilter(key=text):
                    assert await storage.parking.find(which) == []
                    assert await storage.parking.count(which) == 0
            for number in (0, -1, 2**63, 10**30):
                assert await storage.parking.find(ParkedFilter(numbers=[number])) == []
                for act in (
                    storage.parking.get,
                    storage.parking.edit,
                    storage.parking.release,
                    storage.parking.discard,
                ):
                    with failing(ParkedEventNotFoundError):
                        await act(number)
            assert await ids(storage) == ["1"]


async def _during_a_replay(
    storage: StorageUnderTest, number: int, act: Coroutine[Any, Any, Any], *, commits: bool
) -> Any:
    """What comes of something that begins when a replay has taken an event: it waits for how that ends."""
    taken, go = asyncio.Event(), asyncio.Event()

    async def replay() -> None:
        with contextlib.suppress(LookupError):
            async with storage.transaction() as unit_of_work:
                await storage.parking.take(unit_of_work, number)
                taken.set()
                await go.wait()
                if not commits:
                    raise LookupError

    async def acted() -> Any:
        try:
            return await act
        except ParkedEventNotFoundError as error:
            return error

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(replay())
        await taken.wait()
        acting = group.create_task(acted())
        await asyncio.wait({acting}, timeout=0.2)
        assert not acting.done()
        go.set()
    return acting.result()
