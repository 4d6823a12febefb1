"""The conformance suites for parked events: ParkingConformance, LaterTriesConformance and HeldEventsConformance."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from mediator.blocks import asynccontextmanager
from mediator.distributed.inbox import Admission
from mediator.distributed.parking import CLAIM_SECONDS, ParkedEvent, ParkedFilter, ParkReason
from mediator.distributed.starts import LastStart, Start
from mediator.errors import ClaimLostError, MisuseError, ParkedEventBlockedError, ParkedEventNotFoundError
from mediator.mediator import Mediator
from mediator.registry import Registry
from mediator.testing.conformance.storage import (
    ALL,
    GROUP,
    StorageCapability,
    StorageSuite,
    StorageUnderTest,
    ids,
    insert,
    park,
    parked_event,
    take,
)
from mediator.testing.conformance.suite import failing, needs
from mediator.testing.memory import InMemoryDatabase, InMemoryUnitOfWork

HANDLER = "app.handlers.Charge"
"""The handler whose circuit is open."""


class ParkingConformance(StorageSuite):
    """The promises about parked events. A replay reserves an event, runs its handlers, and removes the event."""

    async def test_a_parked_event_is_stored_unchanged(self) -> None:
        """Parking changes only the number of the event."""
        async with self.opened() as storage:
            parked = [
                parked_event("1"),
                parked_event("2", ordered=False, due_at=2000.5, tries=3, last_start=LastStart.ALONE, claim=4),
                _held_event("3", held_by="h\u20ac" * 200),
            ]
            numbers = await park(storage, *parked)
            stored = [replace(event, number=number) for event, number in zip(parked, numbers, strict=True)]
            assert [await storage.parking.get(number) for number in numbers] == stored
            assert await storage.parking.find(ALL) == stored

    async def test_events_can_be_found_without_their_bodies(self) -> None:
        """With `bodies=False`, `find` returns events with empty `data`."""
        async with self.opened() as storage:
            parked = parked_event("1")
            (number,) = await park(storage, parked)
            assert await storage.parking.find(ALL, bodies=False) == [replace(parked, number=number, data=b"")]

    async def test_parking_records_the_event_in_the_inbox(self) -> None:
        """A redelivery of a parked or discarded event is a duplicate, for which no handler is started."""
        async with self.opened() as storage:
            await storage.inbox.start(GROUP, "shop", "1", 8, alone=True)
            await park(storage, parked_event("1"))
            assert await storage.inbox.contains(GROUP, "shop", "1")
            assert (await storage.inbox.start(GROUP, "shop", "1", 8)).taken
            await storage.parking.discard((await storage.parking.find(ALL))[0].number)
            assert await insert(storage, "1") is Admission.DUPLICATE

    async def test_an_event_that_took_effect_or_is_parked_is_not_parked_again(self) -> None:
        """`park` returns False for the event."""
        async with self.opened() as storage:
            await insert(storage, "1")
            assert not await storage.parking.park(parked_event("1"))
            await park(storage, parked_event("2"))
            assert not await storage.parking.park(parked_event("2"))
            assert await ids(storage) == ["2"]

    async def test_an_event_is_appended_only_if_the_transaction_commits(self) -> None:
        """A rollback leaves neither the parked event nor its record in the inbox."""
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
        """`append` and `take` raise `MisuseError` for a unit of work on another database."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            async with Mediator(Registry()).scope():
                foreign = InMemoryUnitOfWork(InMemoryDatabase())
                async with foreign:
                    with failing(MisuseError, text="belongs to another unit of work or database"):
                        await storage.parking.append(foreign, parked_event("2"))
                    with failing(MisuseError, text="belongs to another unit of work or database"):
                        await storage.parking.take(foreign, number)

    async def test_a_filter_finds_events_in_the_order_of_their_numbers(self) -> None:
        """`find` and `count` apply every field of the filter. `after` and `limit` page through the events."""
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
            assert await ids(storage, ParkedFilter(since=2000.0)) == ["2"]
            assert await ids(storage, ParkedFilter(direction="out")) == []
            assert await ids(storage, ParkedFilter(numbers=(numbers[0], numbers[3]))) == ["1", "4"]
            assert await ids(storage, after=numbers[0], limit=2) == ["2", "3"]
            assert await storage.parking.count(ALL) == 4
            assert await storage.parking.count(ParkedFilter(consumer=GROUP, direction="in")) == 3

    async def test_head_returns_the_first_parked_event_of_the_same_consumer_and_key(self) -> None:
        """For an event without a key, `head` returns the event itself."""
        async with self.opened() as storage:
            keyless, other = parked_event("3", key=None), parked_event("4", consumer="other")
            await park(storage, parked_event("1"), parked_event("2"), keyless, other)
            first, second, keyless, other = await storage.parking.find(ALL)
            assert await storage.parking.head(second) == first
            assert await storage.parking.head(keyless) == keyless
            assert await storage.parking.head(other) == other
            await storage.parking.discard(first.number)
            assert await storage.parking.head(second) == second

    async def test_outgoing_and_incoming_events_do_not_wait_for_each_other(self) -> None:
        """Even an outgoing and an incoming event of the same consumer and key are independent."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            async with storage.transaction() as unit_of_work:
                await storage.parking.append(unit_of_work, parked_event("2", direction="out"))
            came, goes = await storage.parking.find(ALL)
            assert await storage.parking.head(goes) == goes
            assert await storage.parking.head(came) == came
            assert await insert(storage, "3") is Admission.KEY_PARKED
            await storage.parking.discard(number)
            assert await insert(storage, "4") is Admission.NEW

    async def test_an_event_is_taken_only_if_the_transaction_commits(self) -> None:
        """After a rollback, the event is parked as before. After a commit, the event is no longer found."""
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

    async def test_only_the_first_event_of_a_key_can_be_taken(self) -> None:
        """`take` raises `ParkedEventBlockedError` for later events. An event without a key can always be taken."""
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

    async def test_an_arriving_event_waits_while_the_last_parked_event_of_its_key_is_replayed(self) -> None:
        """The arriving event is `NEW` if the replay commits, and `KEY_PARKED` if the replay rolls back."""
        for commits in (True, False):
            async with self.opened() as storage:
                (number,) = await park(storage, parked_event("1"))
                arrived = await _during_a_replay(storage, number, insert(storage, "2"), commits=commits)
                assert arrived is (Admission.NEW if commits else Admission.KEY_PARKED)

    @needs(StorageCapability.SEVERAL_WRITERS)
    async def test_an_arriving_event_is_parked_at_once_while_an_event_of_its_key_is_reserved(self) -> None:
        """The arriving event does not wait for the handlers of the reserved event, and stays parked after the replay."""
        for commits in (True, False):
            async with self.opened() as storage:
                (number,) = await park(storage, parked_event("1"))
                async with _paused(partial(_replay, storage, number, reserves=True, commits=commits)):
                    await _arrive(storage, partial(asyncio.sleep, 0))
                assert await ids(storage) == (["2"] if commits else ["1", "2"])

    async def test_only_one_of_two_concurrent_replays_takes_the_event(self) -> None:
        """The other replay raises `ParkedEventNotFoundError`."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            results = await asyncio.gather(take(storage, number), take(storage, number), return_exceptions=True)
            assert sorted(type(result).__name__ for result in results) == ["ParkedEvent", "ParkedEventNotFoundError"]

    async def test_a_replay_waits_for_another_one_that_has_reserved_the_event(self) -> None:
        """The second replay takes the event only if the first replay rolls back. The two replays never deadlock."""
        for commits in (True, False):
            async with self.opened() as storage:
                (number,) = await park(storage, parked_event("1"))
                second = take(storage, number)
                result = await _during_a_replay(storage, number, second, reserves=True, commits=commits)
                assert isinstance(result, ParkedEventNotFoundError if commits else ParkedEvent), result
                assert await ids(storage) == []

    async def test_removing_an_event_waits_for_an_event_that_is_being_parked_behind_it(self) -> None:
        """If the removal did not wait, a third event of the key would overtake the second event."""
        for takes in (True, False):
            async with self.opened() as storage:
                (number,) = await park(storage, parked_event("1"))
                going = take(storage, number) if takes else storage.parking.discard(number)
                await _after(partial(_arrive, storage), going)
                assert await ids(storage) == ["2"]
                assert await insert(storage, "3") is Admission.KEY_PARKED

    @needs(StorageCapability.SEVERAL_WRITERS)
    async def test_consumers_do_not_share_keys(self) -> None:
        """A replay for one consumer does not block the events of another consumer, even events with the same key."""
        async with self.opened() as storage:
            first, _ = await park(storage, parked_event("1"), parked_event("2", consumer="other"))
            async with asyncio.timeout(20), storage.transaction() as unit_of_work:
                await storage.parking.take(unit_of_work, first)
                assert await storage.parking.park(parked_event("3", consumer="other"))
            assert await ids(storage) == ["2", "3"]

    async def test_a_discard_waits_for_a_replay_that_has_reserved_or_taken_the_event(self) -> None:
        """If the replay commits, the discard finds no event. If the replay rolls back, the discard deletes the event."""
        for (key, commits), reserves in product(_KEYS_AND_ENDS, (True, False)):
            async with self.opened() as storage:
                (number,) = await park(storage, parked_event("1", key))
                discarding = storage.parking.discard(number)
                result = await _during_a_replay(storage, number, discarding, reserves=reserves, commits=commits)
                assert isinstance(result, ParkedEventNotFoundError if commits else ParkedEvent), result
                assert await ids(storage) == []

    async def test_an_edit_waits_for_a_replay_that_has_taken_the_event(self) -> None:
        """If the replay commits, the edit finds no event. If the replay rolls back, the edit changes the event."""
        for key, commits in _KEYS_AND_ENDS:
            async with self.opened() as storage:
                (number,) = await park(storage, parked_event("1", key))
                editing = storage.parking.edit(number, data=b"new")
                result = await _during_a_replay(storage, number, editing, commits=commits)
                assert isinstance(result, ParkedEventNotFoundError if commits else ParkedEvent), result
                assert await ids(storage) == ([] if commits else ["1"])

    async def test_the_body_and_the_headers_of_an_event_can_be_edited(self) -> None:
        """The body and the headers can be replaced separately. Other events are not changed."""
        async with self.opened() as storage:
            first, second = await park(storage, parked_event("1"), parked_event("2"))
            edited = await storage.parking.edit(first, data=b"new")
            assert (edited.data, edited.headers) == (b"new", parked_event("1").headers)
            edited = await storage.parking.edit(first, headers={"a": "b"})
            assert (edited.data, edited.headers) == (b"new", {"a": "b"})
            assert await storage.parking.get(first) == edited
            assert (await storage.parking.get(second)).data == parked_event("2").data

    async def test_the_failure_of_a_replay_is_stored_and_counted(self) -> None:
        """The text of the error is cut to 4096 characters. `note_failure` ignores unknown numbers."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            await storage.parking.note_failure(number, ValueError("\x00" + "x" * 10_000))
            noted = await storage.parking.get(number)
            assert (noted.attempts, noted.error[:13], len(noted.error)) == (9, "ValueError: \\", 4096)
            await storage.parking.note_failure(number + 1, ValueError("nobody"))

    async def test_the_next_event_of_a_key_can_be_taken_after_a_discard(self) -> None:
        """The discarded event is deleted."""
        async with self.opened() as storage:
            first, second = await park(storage, parked_event("1"), parked_event("2"))
            assert (await storage.parking.discard(first)).event_id == "1"
            assert await ids(storage) == ["2"]
            await take(storage, second)

    async def test_a_number_that_is_not_parked_is_not_found(self) -> None:
        """The methods that return an event raise `ParkedEventNotFoundError`. `release` also refuses incoming events."""
        async with self.opened() as storage:
            (number,) = await park(storage, parked_event("1"))
            missing = number + 1
            for asking in (
                storage.parking.get(missing),
                storage.parking.edit(missing, data=b""),
                storage.parking.discard(missing),
                storage.parking.release(missing),
                storage.parking.release(number),  # an incoming event
                take(storage, missing),
            ):
                with failing(ParkedEventNotFoundError):
                    await asking
            assert await ids(storage) == ["1"]

    async def test_numbers_are_not_reused(self) -> None:
        """A later event gets a higher number, even after the earlier event was discarded."""
        async with self.opened() as storage:
            (first,) = await park(storage, parked_event("1"))
            await storage.parking.discard(first)
            (second,) = await park(storage, parked_event("2"))
            assert second > first

    async def test_any_text_of_a_foreign_producer_is_stored_unchanged(self) -> None:
        """Ids, headers, extensions and subjects may be long and contain control characters."""
        async with self.opened() as storage:
            headers, extensions = {"\x00": "\ud800\x00\x1b"}, {"a": "\x00"}
            odd = parked_event("\u20ac" * 255, headers=headers, extensions=extensions, subject="x" * 5000)
            await park(storage, odd)
            (found,) = await storage.parking.find(ALL)
            assert replace(found, number=0) == odd

    async def test_a_filter_with_impossible_values_finds_no_event_and_is_no_error(self) -> None:
        """An operator may mistype a text or a number."""
        async with self.opened() as storage:
            await park(storage, parked_event("1"))
            for text in ("a\0b", "\udcff", "x" * 10_000):
                texts = ParkedFilter(consumer=text), ParkedFilter(type=text), ParkedFilter(key=text)
                for which in (*texts, ParkedFilter(held_by=text)):
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


class LaterTriesConformance(StorageSuite):
    """The promises about parked events that their consumer tries again by itself, when they are due."""

    async def test_due_events_are_claimed_in_the_order_of_their_times(self) -> None:
        """If two times are equal, the event with the smaller number comes first. Each consumer claims its own events."""
        async with self.opened() as storage:
            times = {"1": 3000.0, "2": 1000.0, "3": 2000.0, "4": 1000.0}
            await park(storage, *(_waiting_event(event_id, due_at=at) for event_id, at in times.items()))
            await park(storage, _waiting_event("5", consumer="other"), parked_event("6"))
            assert [(await _claim(storage)).event_id for _ in times] == ["2", "4", "3", "1"]
            assert await storage.parking.claim(GROUP) is None

    async def test_an_event_is_claimed_when_it_is_due_and_not_before(self) -> None:
        """`park(due_in=...)` sets the time. `due_in` returns the seconds until the event is due."""
        async with self.opened() as storage:
            assert await storage.parking.park(_waiting_event("1", due_at=None), due_in=2)
            assert await storage.parking.claim(GROUP) is None
            async with asyncio.timeout(10):
                while pause := await storage.parking.due_in(GROUP):
                    assert pause <= 2
                    await asyncio.sleep(pause)
            assert (await _claim(storage)).event_id == "1"

    async def test_due_in_refers_to_the_event_of_the_consumer_that_is_due_first(self) -> None:
        """`due_in` returns 0 if an event is already due, and `None` if no event waits for a later try."""
        async with self.opened() as storage:
            await park(storage, parked_event("1"), _waiting_event("2", consumer="other"))
            assert await storage.parking.due_in(GROUP) is None
            for event_id, seconds in (("3", 7200), ("4", 3600), ("5", 5400)):
                assert await storage.parking.park(parked_event(event_id, None), due_in=seconds)
            assert 3500 < (await storage.parking.due_in(GROUP) or 0) <= 3600
            await park(storage, _waiting_event("6"))
            assert await storage.parking.due_in(GROUP) == 0

    async def test_a_claimed_event_is_not_claimed_again_for_some_time(self) -> None:
        """The event is due again after `CLAIM_SECONDS`, in case the process dies. Each claim has a new number."""
        async with self.opened() as storage:
            await park(storage, _waiting_event("1"))
            first = await _claim(storage)
            assert await storage.parking.get(first.number) == first
            assert await storage.parking.claim(GROUP) is None
            assert CLAIM_SECONDS - 30 < (await storage.parking.due_in(GROUP) or 0) <= CLAIM_SECONDS
            await storage.parking.postpone(first, due_in=0)
            assert (first.claim, (await _claim(storage)).claim) == (1, 2)

    async def test_the_time_at_which_the_handlers_first_asked_for_a_later_call_is_kept(self) -> None:
        """`park` and `postpone` with `asked=True` set `asked_at` to the current time. A later `postpone` keeps this time."""
        async with self.opened() as storage:
            await park(storage, _waiting_event("1"))
            event = await _claim(storage)
            await storage.parking.postpone(event, due_in=0)
            event = await _claim(storage)
            assert event.asked_at is None
            await storage.parking.postpone(event, due_in=0, asked=True)
            event = await _claim(storage)
            asked_at = event.asked_at
            assert asked_at is not None
            assert CLAIM_SECONDS - 30 < (event.due_at or 0) - asked_at <= CLAIM_SECONDS + 30
            for asked in (True, False):
                await storage.parking.postpone(event, due_in=0, asked=asked)
                event = await _claim(storage)
                assert event.asked_at == asked_at
            await storage.parking.park(_waiting_event("2"), asked=True)
            (second,) = [each for each in await storage.parking.find(ALL) if each.event_id == "2"]
            assert asked_at <= (second.asked_at or 0) <= asked_at + 60

    async def test_two_claims_at_the_same_time_return_different_events(self) -> None:
        """The second claim returns another event, and does not wait until the first event is due again."""
        async with self.opened() as storage:
            await park(storage, _waiting_event("1"), _waiting_event("2"))
            claimed = await asyncio.gather(_claim(storage), _claim(storage))
            assert sorted(event.event_id for event in claimed) == ["1", "2"]

    @needs(StorageCapability.SEVERAL_WRITERS)
    async def test_a_reserved_event_is_not_claimed(self) -> None:
        """A claim returns the next due event at once. After a rollback, the reserved event can be claimed."""
        for commits in (True, False):
            async with self.opened() as storage:
                number, _ = await park(storage, _waiting_event("1", due_at=1000.0), _waiting_event("2", due_at=2000.0))
                async with _paused(partial(_replay, storage, number, reserves=True, commits=commits)):
                    assert (await _claim(storage)).event_id == "2"
                    assert await storage.parking.claim(GROUP) is None
                claimed = await storage.parking.claim(GROUP)
                assert [claimed and claimed.event_id] == [None if commits else "1"]

    async def test_the_starts_of_later_tries_are_counted_up_to_the_limit(self) -> None:
        """`attempts` includes the starts before the event was parked."""
        async with self.opened() as storage:
            await park(storage, _waiting_event("1", attempts=3))
            event = await _claim(storage)
            assert await storage.parking.start(event, 8) == Start(4)
            assert await _stored(storage, event) == (4, LastStart.BESIDE)
            assert await storage.parking.start(event, 5, alone=True) == Start(5)
            assert await storage.parking.start(event, 5, alone=True) == Start(5, exhausted=True)
            assert await storage.parking.start(event, 5) == Start(5, exhausted=True)
            assert await _stored(storage, event) == (5, LastStart.ALONE)

    async def test_a_later_try_whose_last_start_has_no_known_end_may_start_only_alone(self) -> None:
        """While other events are handled, `start` reports the event as a suspect, and counts no start."""
        async with self.opened() as storage:
            await park(storage, _waiting_event("1", attempts=3))
            event = await _claim(storage)
            await storage.parking.start(event, 8)
            assert [await storage.parking.start(event, 8) for _ in range(2)] == [Start(4, suspect=True)] * 2
            assert await storage.parking.start(event, 8, alone=True) == Start(5)
            assert await storage.parking.start(event, 8) == Start(5, suspect=True)
            assert await _stored(storage, event) == (5, LastStart.ALONE)
            await storage.parking.postpone(event, due_in=0)
            assert await storage.parking.start(await _claim(storage), 8) == Start(6)

    async def test_a_suspect_that_is_given_back_before_its_handlers_start_stays_a_suspect(self) -> None:
        """`postpone` with `ended=False` does not change `last_start`."""
        async with self.opened() as storage:
            await park(storage, _waiting_event("1", attempts=3))
            event = await _claim(storage)
            await storage.parking.start(event, 8)
            await storage.parking.postpone(event, due_in=0, failed=False, ended=False)
            assert await storage.parking.start(await _claim(storage), 8) == Start(4, suspect=True)

    async def test_a_lost_claim_changes_nothing(self) -> None:
        """`start`, `postpone` and `reserve` raise `ClaimLostError` after another claim of the event."""
        async with self.opened() as storage:
            (number,) = await park(storage, _waiting_event("1"))
            lost = await _claim(storage)
            await storage.parking.postpone(lost, due_in=0)
            event = await _claim(storage)
            with failing(ClaimLostError):
                await storage.parking.start(lost, 8)
            with failing(ClaimLostError):
                await storage.parking.postpone(lost, due_in=0)
            with failing(ClaimLostError):
                await _reserve(storage, lost)
            assert await storage.parking.get(number) == event
            assert await _reserve(storage, event) == event
            assert await storage.parking.start(event, 8) == Start(event.attempts + 1)

    async def test_the_claim_of_an_event_that_is_no_longer_parked_is_lost(self) -> None:
        """`start` and `postpone` raise `ClaimLostError`. `reserve` raises `ParkedEventNotFoundError`, as for a replay."""
        async with self.opened() as storage:
            await park(storage, _waiting_event("1"))
            event = await _claim(storage)
            await storage.parking.discard(event.number)
            with failing(ClaimLostError):
                await storage.parking.start(event, 8)
            with failing(ClaimLostError):
                await storage.parking.postpone(event, due_in=0)
            with failing(ParkedEventNotFoundError):
                await _reserve(storage, event)

    async def test_a_failed_later_try_is_postponed(self) -> None:
        """The try and its start count, the new text of the error is stored, and the event is due again later."""
        async with self.opened() as storage:
            event = await _postpone(storage, due_in=3600, error="ValueError: again")
            assert (event.reason, event.error) == (ParkReason.WAITING, "ValueError: again")
            assert (event.attempts, event.tries, event.last_start) == (4, 1, LastStart.ENDED)
            assert 3500 < (await storage.parking.due_in(GROUP) or 0) <= 3600
            assert await storage.parking.claim(GROUP) is None

    async def test_an_event_whose_later_tries_are_used_up_waits_for_a_person(self) -> None:
        """With `due_in=None` no consumer claims the event. The event gets the given reason, and keeps its last error."""
        async with self.opened() as storage:
            event = await _postpone(storage, due_in=None, reason=ParkReason.FATAL_ERROR)
            assert (event.reason, event.error, event.due_at) == (ParkReason.FATAL_ERROR, "ValueError: no", None)
            assert (event.attempts, event.tries, event.last_start) == (4, 1, LastStart.ENDED)
            assert await storage.parking.due_in(GROUP) is None

    async def test_a_later_try_that_did_not_fail_is_not_counted(self) -> None:
        """With `started=False` the start is taken back. With `failed=False` the later try does not count."""
        for started, failed in product((True, False), (True, False)):
            async with self.opened() as storage:
                event = await _postpone(storage, due_in=0, started=started, failed=failed)
                assert (event.attempts, event.tries, event.last_start) == (3 + started, failed, LastStart.ENDED)
                assert (await _claim(storage)).number == event.number

    async def test_the_text_of_the_error_of_a_later_try_is_bounded(self) -> None:
        """The text is cut to 4096 characters. Control characters that a database cannot store are escaped."""
        async with self.opened() as storage:
            event = await _postpone(storage, due_in=0, error="\0\ud800" + "x" * 10_000)
            assert (event.error[:12], len(event.error)) == ("\\x00\\ud800xx", 4096)

    async def test_the_next_event_of_the_key_is_due_when_its_predecessor_is_taken(self) -> None:
        """`take` with `release_next=True` makes only the next event due, and only if the transaction commits."""
        for releases, commits in product((True, False), (True, False)):
            async with self.opened() as storage:
                first, *_ = await park(
                    storage, parked_event("1"), *map(_key_parked, "23"), _key_parked("4", key="other")
                )
                await park(storage, _key_parked("5", consumer="other"), _key_parked("6", key=None))
                with suppress(LookupError):
                    async with storage.transaction() as unit_of_work:
                        await storage.parking.take(unit_of_work, first, release_next=releases)
                        if not commits:
                            raise LookupError
                claimed = await storage.parking.claim(GROUP)
                assert (claimed and claimed.event_id) == ("2" if releases and commits else None)
                assert await storage.parking.claim(GROUP) is None
                assert await storage.parking.due_in("other") is None

    async def test_only_an_event_that_waits_for_its_predecessor_is_released(self) -> None:
        """If the handlers of the next event have failed, or the event has a time (`due_at`), `take` releases no event."""
        for changes in ({"reason": ParkReason.HANDLER_FAILED}, {"due_at": 5e9}):
            async with self.opened() as storage:
                first, *others = await park(
                    storage, parked_event("1"), replace(_key_parked("2"), **changes), _key_parked("3")
                )
                before = [await storage.parking.get(number) for number in others]
                await _take_and_release(storage, first)
                assert await storage.parking.find(ALL) == before

    async def test_an_edit_of_the_next_event_waits_until_the_event_is_released(self) -> None:
        """The edit is kept, and the event is due."""
        async with self.opened() as storage:
            first, second = await park(storage, parked_event("1"), _key_parked("2"))
            editing = storage.parking.edit(second, data=b"new")
            await _after(partial(_replay, storage, first, reserves=False, commits=True, releases=True), editing)
            assert (await _claim(storage)).data == b"new"

    async def test_an_event_of_a_group_without_order_stands_alone(self) -> None:
        """The event and the other parked events of its key do not block each other. Taking the event releases no event."""
        async with self.opened() as storage:
            unordered = partial(parked_event, ordered=False)
            numbers = await park(storage, unordered("1"), parked_event("2"), unordered("3"), _key_parked("4"))
            for event in await storage.parking.find(ALL):
                head = await storage.parking.head(event)
                assert head is not None
                assert head.event_id == ("2" if event.event_id == "4" else event.event_id)
            first, second, third, fourth = numbers
            async with storage.transaction() as unit_of_work:
                assert (await storage.parking.reserve(unit_of_work, third)).number == third
            await _take_and_release(storage, third)
            with failing(ParkedEventBlockedError):
                await take(storage, fourth)
            await storage.parking.discard(second)
            await _take_and_release(storage, first)
            assert await storage.parking.due_in(GROUP) is None
            await take(storage, fourth)

    async def test_a_parked_event_of_a_group_without_order_does_not_block_arriving_events(self) -> None:
        """An arriving event of the same key is admitted as `NEW`."""
        async with self.opened() as storage:
            await park(storage, parked_event("1", ordered=False))
            assert await insert(storage, "2") is Admission.NEW
            await park(storage, parked_event("3"))
            assert await insert(storage, "4") is Admission.KEY_PARKED

    async def test_a_filter_finds_the_events_that_wait_for_a_later_try(self) -> None:
        """`waiting=True` selects the events with a time (`due_at`). `waiting=False` leaves these events out."""
        async with self.opened() as storage:
            await park(storage, parked_event("1"), _waiting_event("2"), _key_parked("3"), _waiting_event("4"))
            assert await ids(storage, ParkedFilter(waiting=True)) == ["2", "4"]
            assert await ids(storage, ParkedFilter(waiting=False)) == ["1", "3"]
            assert await storage.parking.count(ParkedFilter(waiting=True, consumer=GROUP)) == 2


class HeldEventsConformance(StorageSuite):
    """The promises about parked events that the open circuit of a handler holds until a call of the handler succeeds.

    A probe is a held event that its consumer claims to find out whether the calls of the handler succeed again.
    """

    async def test_a_held_event_is_not_due(self) -> None:
        """`claim` without a handler returns no held event, and `due_in` ignores held events."""
        async with self.opened() as storage:
            await park(storage, _held_event("1"))
            (held,) = await storage.parking.find(ALL)
            assert (held.held_by, held.due_at, held.waits) == (HANDLER, None, True)
            assert await storage.parking.claim(GROUP) is None
            assert await storage.parking.due_in(GROUP) is None

    async def test_the_held_event_that_was_claimed_least_is_the_next_probe(self) -> None:
        """Among events that were claimed equally often, the event with the smallest number is claimed."""
        async with self.opened() as storage:
            claims = {"1": 2, "2": 0, "3": 1, "4": 0}
            await park(storage, *(_held_event(event_id, claim=claim) for event_id, claim in claims.items()))
            probes = [await _probe(storage) for _ in range(3)]
            assert [(event.event_id, event.claim) for event in probes] == [("2", 1), ("4", 1), ("3", 2)]
            for event in reversed(probes):
                await _hold(storage, event)
            assert [(await _probe(storage)).event_id for _ in range(4)] == ["2", "4", "1", "3"]
            assert await storage.parking.claim(GROUP, held_by=HANDLER) is None

    async def test_a_probe_is_an_event_of_its_consumer_and_handler(self) -> None:
        """Events of other consumers, events that other circuits hold, and events that no circuit holds are left out."""
        async with self.opened() as storage:
            await park(storage, _waiting_event("1"), parked_event("2", None), _held_event("3", held_by="app.Other"))
            await park(storage, _held_event("4", consumer="other"))
            assert await storage.parking.claim(GROUP, held_by=HANDLER) is None
            await park(storage, _held_event("5"))
            assert (await _probe(storage)).event_id == "5"

    async def test_a_claim_ends_the_hold(self) -> None:
        """The claimed event is due again after `CLAIM_SECONDS`, in case the process dies."""
        async with self.opened() as storage:
            await park(storage, _held_event("1"))
            probe = await _probe(storage)
            assert (probe.held_by, probe.claim, probe.reason) == (None, 1, ParkReason.CIRCUIT_OPEN)
            assert await storage.parking.get(probe.number) == probe
            assert await storage.parking.claim(GROUP, held_by=HANDLER) is None
            assert await storage.parking.claim(GROUP) is None
            assert CLAIM_SECONDS - 30 < (await storage.parking.due_in(GROUP) or 0) <= CLAIM_SECONDS
            assert await storage.parking.let_go(GROUP, HANDLER) == 0

    async def test_two_probes_at_the_same_time_are_different_events(self) -> None:
        """Any number of processes may claim probes."""
        async with self.opened() as storage:
            await park(storage, _held_event("1"), _held_event("2"))
            probes = await asyncio.gather(_probe(storage), _probe(storage))
            assert sorted(event.event_id for event in probes) == ["1", "2"]

    async def test_a_failed_probe_is_held_again(self) -> None:
        """`postpone` with `held_by` holds the event. With `started=False` and `failed=False`, the probe costs no attempt."""
        async with self.opened() as storage:
            await park(storage, _held_event("1", attempts=3))
            probe = await _probe(storage)
            await storage.parking.start(probe, 8)
            await _hold(storage, probe, error="OSError: away")
            held = await storage.parking.get(probe.number)
            assert (held.held_by, held.due_at, held.reason) == (HANDLER, None, ParkReason.CIRCUIT_OPEN)
            assert (held.attempts, held.tries, held.claim, held.error) == (3, 0, 1, "OSError: away")
            assert await storage.parking.claim(GROUP) is None
            assert await storage.parking.due_in(GROUP) is None
            assert (await _probe(storage)).claim == 2

    async def test_an_event_that_came_due_can_be_held(self) -> None:
        """The consumer holds the claimed event. An event that is postponed without `held_by` is not held."""
        async with self.opened() as storage:
            await park(storage, _waiting_event("1"))
            await _hold(storage, await _claim(storage))
            assert await storage.parking.holders(GROUP) == [HANDLER]
            await storage.parking.postpone(await _probe(storage), due_in=0)
            assert await storage.parking.holders(GROUP) == []
            assert (await _claim(storage)).held_by is None

    async def test_a_lost_claim_holds_nothing(self) -> None:
        """`postpone` raises `ClaimLostError`, and the event stays as the later claim has left it."""
        async with self.opened() as storage:
            await park(storage, _held_event("1"))
            lost = await _probe(storage)
            await _hold(storage, lost)
            event = await _probe(storage)
            with failing(ClaimLostError):
                await _hold(storage, lost)
            assert await storage.parking.get(event.number) == event

    async def test_a_held_event_is_parked_behind_an_earlier_event_of_its_key(self) -> None:
        """The event is parked as `KEY_PARKED`, and no circuit holds it."""
        for earlier in _held_event("1", "k"), parked_event("1"):
            async with self.opened() as storage:
                await park(storage, earlier, _held_event("2", "k"))
                first, second = await storage.parking.find(ALL)
                assert first.held_by == earlier.held_by
                assert (second.reason, second.held_by, second.due_at) == (ParkReason.KEY_PARKED, None, None)

    async def test_a_held_event_waits_for_no_event_of_another_ordering_key(self) -> None:
        """The ordering key is direction, consumer and key. An event without a key or order has its own ordering key."""
        async with self.opened() as storage:
            await park(storage, parked_event("1", "other"), parked_event("2", consumer="other"))
            await park(storage, parked_event("3", ordered=False), parked_event("4", None))
            async with storage.transaction() as unit_of_work:
                await storage.parking.append(unit_of_work, parked_event("5", direction="out"))
            await park(storage, _held_event("6", "k"), _held_event("7"), _held_event("8", "k", ordered=False))
            await park(storage, _held_event("9", "other", ordered=False))
            assert await ids(storage, ParkedFilter(held_by=HANDLER)) == ["6", "7", "8", "9"]

    async def test_parking_a_held_event_waits_for_a_replay_of_the_last_event_of_its_key(self) -> None:
        """The event is held if the replay commits, and parked behind its key if the replay rolls back."""
        for commits in (True, False):
            async with self.opened() as storage:
                (number,) = await park(storage, parked_event("1"))
                parking = storage.parking.park(_held_event("2", "k"))
                assert await _during_a_replay(storage, number, parking, commits=commits) is True
                held = (await storage.parking.find(ALL))[-1]
                assert held.event_id == "2"
                assert held.held_by == (HANDLER if commits else None)

    async def test_an_arriving_event_is_parked_behind_a_held_event_of_its_key(self) -> None:
        """When the probe has succeeded, the arriving event is due."""
        async with self.opened() as storage:
            await park(storage, _held_event("1", "k"))
            await _arrive(storage, partial(asyncio.sleep, 0))
            await park(storage, _key_parked("3"))
            probe = await _probe(storage)
            await _take_and_release(storage, probe.number)
            assert (await _claim(storage)).event_id == "2"
            assert await storage.parking.claim(GROUP) is None

    async def test_the_events_that_were_claimed_least_often_are_let_go_first(self) -> None:
        """`let_go` returns how many events it has let go. These events are due at once, and no circuit holds them."""
        async with self.opened() as storage:
            claims = {"1": 1, "2": 0, "3": 2, "4": 0, "5": 0}
            numbers = await park(storage, *(_held_event(event_id, claim=claim) for event_id, claim in claims.items()))
            assert await storage.parking.let_go(GROUP, HANDLER, limit=2) == 2
            assert await ids(storage, ParkedFilter(held_by=HANDLER)) == ["1", "3", "5"]
            assert await storage.parking.due_in(GROUP) == 0
            assert await storage.parking.let_go(GROUP, HANDLER, limit=2) == 2
            assert await ids(storage, ParkedFilter(held_by=HANDLER)) == ["3"]
            assert [await storage.parking.let_go(GROUP, HANDLER, limit=2) for _ in range(2)] == [1, 0]
            assert {(await _claim(storage)).event_id for _ in claims} == set(claims)
            assert [(await storage.parking.get(number)).claim for number in numbers] == [2, 1, 3, 1, 1]

    async def test_only_the_events_that_the_circuit_of_the_handler_holds_are_let_go(self) -> None:
        """Events of other consumers or handlers, and events that wait for a time or for a person, are not changed."""
        async with self.opened() as storage:
            others = _held_event("1", held_by="app.Other"), _held_event("2", consumer="other"), parked_event("3", None)
            await park(storage, *others, _waiting_event("4", due_at=5e9), _key_parked("5"))
            before = await storage.parking.find(ALL)
            await park(storage, _held_event("6"))
            assert await storage.parking.let_go(GROUP, HANDLER) == 1
            assert (await storage.parking.find(ALL))[:-1] == before
            assert (await _claim(storage)).event_id == "6"
            assert await storage.parking.claim(GROUP) is None

    async def test_two_processes_that_let_events_go_at_the_same_time_let_each_event_go_once(self) -> None:
        """The sum of the returned numbers is the number of the events."""
        async with self.opened() as storage:
            await park(storage, *(_held_event(f"{number}") for number in range(6)))
            letting_go = (storage.parking.let_go(GROUP, HANDLER, limit=6) for _ in range(2))
            counts = list(await asyncio.gather(*letting_go))
            while gone := await storage.parking.let_go(GROUP, HANDLER, limit=6):
                counts.append(gone)
            assert sum(counts) == 6
            assert await storage.parking.holders(GROUP) == []

    @needs(StorageCapability.SEVERAL_WRITERS)
    async def test_a_reserved_event_is_neither_probed_nor_let_go(self) -> None:
        """`claim` and `let_go` do not wait for the reserving transaction. After a rollback, the event is still held."""
        for commits in (True, False):
            async with self.opened() as storage:
                reserved, *_ = await park(storage, *map(_held_event, "123"))
                async with _paused(partial(_replay, storage, reserved, reserves=True, commits=commits)):
                    assert (await _probe(storage)).event_id == "2"
                    assert await storage.parking.let_go(GROUP, HANDLER, limit=2) == 1
                    assert (await _claim(storage)).event_id == "3"
                    assert await storage.parking.claim(GROUP, held_by=HANDLER) is None
                assert await storage.parking.let_go(GROUP, HANDLER) == (0 if commits else 1)

    async def test_the_holders_are_the_handlers_whose_circuits_hold_events_of_the_consumer(self) -> None:
        """The names are sorted, and each name is returned once."""
        async with self.opened() as storage:
            assert await storage.parking.holders(GROUP) == []
            names = ("b.B", "a.A", "B", "b.B", "a.A", "a_a", "\u00e4")
            await park(storage, *(_held_event(f"{number}", held_by=name) for number, name in enumerate(names)))
            await park(storage, _held_event("x", held_by="x.X", consumer="other"), parked_event("y"))
            assert await storage.parking.holders(GROUP) == sorted(set(names))
            assert await storage.parking.holders("other") == ["x.X"]
            for name in sorted(set(names)):
                await storage.parking.let_go(GROUP, name)
                assert name not in await storage.parking.holders(GROUP)
            assert await storage.parking.holders(GROUP) == []
            await storage.parking.claim("other", held_by="x.X")
            assert await storage.parking.holders("other") == []

    async def test_an_edit_or_a_failed_replay_of_a_held_event_keeps_the_hold(self) -> None:
        """A held event can be replayed and discarded like any other parked event."""
        async with self.opened() as storage:
            edited, discarded, replayed = await park(storage, *map(_held_event, "123"))
            await storage.parking.edit(edited, data=b"new")
            await storage.parking.note_failure(edited, ValueError("no"))
            assert (await storage.parking.discard(discarded)).held_by == HANDLER
            assert (await take(storage, replayed)).held_by == HANDLER
            assert await ids(storage, ParkedFilter(held_by=HANDLER)) == ["1"]
            probe = await _probe(storage)
            assert (probe.number, probe.data) == (edited, b"new")

    async def test_a_filter_finds_held_events(self) -> None:
        """`held_by` selects the events that the circuit of a handler holds. `waiting=True` selects all held events too."""
        async with self.opened() as storage:
            await park(storage, _held_event("1"), parked_event("2"), _held_event("3", held_by="app.Other"))
            await park(storage, _waiting_event("4"), _held_event("5", consumer="other"))
            assert await ids(storage, ParkedFilter(held_by=HANDLER)) == ["1", "5"]
            assert await ids(storage, ParkedFilter(held_by=HANDLER, consumer=GROUP)) == ["1"]
            assert await storage.parking.count(ParkedFilter(held_by="app.Other")) == 1
            assert await ids(storage, ParkedFilter(waiting=True)) == ["1", "3", "4", "5"]
            assert await ids(storage, ParkedFilter(waiting=False)) == ["2"]
            assert await storage.parking.count(ParkedFilter(held_by=HANDLER, waiting=False)) == 0


def _held_event(event_id: str, key: str | None = None, *, held_by: str = HANDLER, **changes: Any) -> ParkedEvent:
    """Return a parked event that the circuit of a handler holds."""
    return parked_event(event_id, key, reason=ParkReason.CIRCUIT_OPEN, held_by=held_by, **changes)


async def _probe(storage: StorageUnderTest) -> ParkedEvent:
    claimed = await storage.parking.claim(GROUP, held_by=HANDLER)
    assert claimed is not None
    return claimed


async def _hold(storage: StorageUnderTest, event: ParkedEvent, *, error: str | None = None) -> None:
    """Let the circuit hold a claimed event, as after a probe that failed."""
    open_circuit = ParkReason.CIRCUIT_OPEN
    await storage.parking.postpone(
        event, due_in=None, reason=open_circuit, error=error, started=False, failed=False, held_by=HANDLER
    )


def _waiting_event(event_id: str, *, due_at: float | None = 1000.0, **changes: Any) -> ParkedEvent:
    """Return a parked event without a key, which is due since `due_at`."""
    return parked_event(event_id, None, reason=ParkReason.WAITING, due_at=due_at, **changes)


def _key_parked(event_id: str, **changes: Any) -> ParkedEvent:
    """Return an event that was parked only because of an earlier event of its key."""
    return parked_event(event_id, reason=ParkReason.KEY_PARKED, **changes)


async def _claim(storage: StorageUnderTest) -> ParkedEvent:
    claimed = await storage.parking.claim(GROUP)
    assert claimed is not None
    return claimed


async def _reserve(storage: StorageUnderTest, event: ParkedEvent) -> ParkedEvent:
    async with storage.transaction() as unit_of_work:
        return await storage.parking.reserve(unit_of_work, event.number, claim=event.claim)


async def _stored(storage: StorageUnderTest, event: ParkedEvent) -> tuple[int, LastStart]:
    """Return how often the handlers of an event were started, and the state of the last start."""
    stored = await storage.parking.get(event.number)
    return stored.attempts, stored.last_start


async def _postpone(storage: StorageUnderTest, **options: Any) -> ParkedEvent:
    """Park an event after 3 starts, claim, start and postpone the event, and return the event as it is stored."""
    await park(storage, _waiting_event("1", attempts=3))
    event = await _claim(storage)
    await storage.parking.start(event, 8, alone=True)
    await storage.parking.postpone(event, **options)
    return await storage.parking.get(event.number)


async def _take_and_release(storage: StorageUnderTest, number: int) -> None:
    async with storage.transaction() as unit_of_work:
        await storage.parking.take(unit_of_work, number, release_next=True)


_KEYS_AND_ENDS = list(product(("k", None), (True, False)))
"""Pairs such as `("k", True)`: the replayed event has the key "k", and the replay commits."""

Pause = Callable[[], Awaitable[object]]


async def _replay(
    storage: StorageUnderTest, number: int, pause: Pause, *, reserves: bool, commits: bool, releases: bool = False
) -> None:
    """Replay an event. With `reserves`, pause after `Parking.reserve`. Without `reserves`, pause after `Parking.take`."""
    with suppress(LookupError):
        async with storage.transaction() as unit_of_work:
            if reserves:
                assert (await storage.parking.reserve(unit_of_work, number)).number == number
                await pause()
            await storage.parking.take(unit_of_work, number, release_next=releases)
            if not reserves:
                await pause()
            if not commits:
                raise LookupError


async def _arrive(storage: StorageUnderTest, pause: Pause) -> None:
    """Record event 2 in the inbox, pause, and park event 2 behind an event of the same key."""
    async with storage.transaction() as unit_of_work:
        admission = await storage.inbox.insert(unit_of_work, GROUP, "shop", "2", key="k")
        assert admission is Admission.KEY_PARKED
        await pause()
        await storage.parking.append(unit_of_work, parked_event("2", reason=ParkReason.KEY_PARKED))


@asynccontextmanager
async def _paused(act: Callable[[Pause], Coroutine[Any, Any, None]]) -> AsyncGenerator[None]:
    """Run `act`, and run the body of the context while `act` pauses."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        reached.set()
        await go.wait()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(act(pause))
        await reached.wait()
        yield
        go.set()


async def _after(earlier: Callable[[Pause], Coroutine[Any, Any, None]], act: Coroutine[Any, Any, Any]) -> Any:
    """Check that `act` does not end while `earlier` pauses. Then let `earlier` end, and return the result of `act`."""
    async with _paused(earlier):
        acting = asyncio.gather(act, return_exceptions=True)
        await asyncio.wait({acting}, timeout=0.2)
        assert not acting.done()
    async with asyncio.timeout(20):
        return (await acting)[0]


async def _during_a_replay(
    storage: StorageUnderTest, number: int, act: Coroutine[Any, Any, Any], *, commits: bool, reserves: bool = False
) -> Any:
    return await _after(partial(_replay, storage, number, reserves=reserves, commits=commits), act)
