"""OutboxConformance: the promises of `Outbox` as test cases, with those about delayed and about refused events."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox import ParkedReplay
from mediator.distributed.outbox import Erased, OutboxFilter
from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason
from mediator.distributed.unit_of_work import DistributedEventBroker
from mediator.errors import (
    ClaimLostError,
    EventNotSerializableError,
    MisuseError,
    NoUnitOfWorkError,
    ParkedEventBlockedError,
    ParkedEventConflictError,
    ParkedEventNotFoundError,
    SettingError,
)
from mediator.testing.conformance.storage import (
    FUTURE,
    OUT,
    Elsewhere,
    StorageSuite,
    StorageUnderTest,
    Written,
    add,
    ids,
    park,
    park_first,
    parked_event,
    text_of,
    writing,
)
from mediator.testing.conformance.suite import failing
from mediator.testing.memory import InMemoryDatabase, InMemoryUnitOfWork
from mediator.transactions import TransactionMode


class OutboxConformance(StorageSuite):
    """The promises that the relay depends on."""

    async def test_many_events_of_one_command_keep_the_order_in_which_they_were_added(self) -> None:
        """A claim returns them in that order, and `look_again` is 0 when it leaves some out."""
        async with self.holding(
            *(Written(str(number), "k" if number % 2 else None) for number in range(2500))
        ) as storage:
            async with storage.outbox.claim(2499) as batch:
                assert [event.data.decode().split('"')[3] for event in batch.events] == [str(n) for n in range(2499)]
                assert batch.look_again == 0
            async with storage.outbox.claim(5000) as batch:
                assert batch.look_again is None

    async def test_an_event_has_a_source_before_it_is_published_and_keeps_it(self) -> None:
        """The source is the application's name. It stays when the event is parked, released and archived."""
        async with self.holding(Written("a")) as storage:
            storage.outbox.use_application("first")
            named = storage.outbox.application
            assert named is not None
            with failing(SettingError):
                storage.outbox.use_application(f"not-{named}")
            async with storage.outbox.claim(10) as batch:
                assert [event.source for event in batch.events] == [named]
                await batch.park(batch.events[0], ParkReason.REFUSED, "too large")
            (refused,) = await storage.parking.find(OUT)
            assert refused.source == named
            await storage.parking.release(refused.number)
            await add(storage, Written("b"))
            async with storage.outbox.claim(10) as batch:
                assert [event.source for event in batch.events] == [named, named]
                await batch.settle([event.id for event in batch.events])
            archived = await storage.outbox.contents.find(OutboxFilter("archived"))
            assert [record.source for record in archived] == [named, named]
            events = await storage.outbox.contents.archived([record.sequence for record in archived])
            assert [event.source for event in events] == [named, named]

    async def test_an_empty_partition_key_is_neither_a_key_nor_none_and_refused(self) -> None:
        """An event with an empty key fails its command, and `erase` refuses an empty key."""
        async with self.opened() as storage:
            with failing(EventNotSerializableError):
                await add(storage, Written("a", ""))
            assert await storage.waiting() == []
            with failing(SettingError):
                await storage.outbox.erase("")

    async def test_a_filter_that_names_no_events_finds_none(self) -> None:
        """An empty list of ids or numbers finds nothing; only `None` finds everything."""
        async with self.holding(Written("a")) as storage:
            contents = storage.outbox.contents
            assert [record.id for record in await contents.find(OutboxFilter("waiting", ids=()))] == []
            assert (await contents.count(OutboxFilter("waiting", ids=()))).events == 0
            assert (await contents.count(OutboxFilter("waiting"))).events == 1
            assert await storage.parking.find(ParkedFilter(numbers=())) == []

    async def test_domains_are_left_out(self) -> None:
        """A claim leaves out the domains in `without`, by their whole names."""
        async with self.holding(Elsewhere("a"), Written("b"), Elsewhere("c")) as storage:
            assert await storage.waiting(without=frozenset({"elsewhere"})) == ["b"]
            assert await storage.waiting(without=frozenset({"elsewhere", "contract"})) == []
            assert await storage.waiting(without=frozenset({"else"})) == ["a", "b", "c"]

    async def test_a_claim_gives_the_oldest_events_and_settling_takes_them_away(self) -> None:
        """Events that were claimed and not settled stay in the outbox."""
        async with self.opened() as storage:
            for row in "abc":
                await storage.do(writing(row))
            async with storage.outbox.claim(2) as batch:
                assert [text_of(event.data) for event in batch.events] == ["a", "b"]
                await batch.settle([batch.events[0].id])
            assert await storage.waiting() == ["b", "c"]

    async def test_two_claims_at_a_time_never_give_one_event_twice(self) -> None:
        """A second claim does not get the events that the first one holds."""
        async with self.opened() as storage:
            await storage.do(writing("a"))
            async with storage.outbox.claim(10) as mine, storage.outbox.claim(10) as theirs:
                assert len(mine.events) == 1
                assert len(theirs.events) == 0
            assert await storage.waiting() == ["a"]

    async def test_a_commit_with_events_wakes_who_waits_and_waiting_has_an_end(self) -> None:
        """A commit wakes a relay that waits, as `wake` does. Otherwise its wait ends after the given time."""
        async with self.opened() as storage:
            await storage.outbox.wait(0.01)
            await storage.do(writing("a"))
            async with asyncio.timeout(5):
                await storage.outbox.wait(60)
                storage.outbox.wake()
                await storage.outbox.wait(60)

    async def test_a_batch_that_was_left_changes_nothing_any_more(self) -> None:
        """Settling and parking then raise `ClaimLostError`."""
        async with self.holding(Written("a")) as storage:
            async with storage.outbox.claim(10) as batch:
                pass
            with failing(ClaimLostError):
                await batch.settle([batch.events[0].id])
            with failing(ClaimLostError):
                await batch.park(batch.events[0], ParkReason.REFUSED, "")
            assert await storage.waiting() == ["a"]

    async def test_whoever_finds_everything_claimed_is_told_to_look_again_soon(self) -> None:
        """`look_again` is less than a second for a relay that finds all events claimed by another one."""
        async with self.holding(Written("a")) as storage, storage.outbox.claim(10), storage.outbox.claim(10) as theirs:
            assert theirs.look_again is not None
            assert 0 < theirs.look_again < 1

    async def test_settling_and_parking_go_together(self) -> None:
        """One batch may settle some events and park others. The text of an error is cut to 4096 characters."""
        async with self.holding(Written("a", "1"), Written("b", "2"), Written("c", "3")) as storage:
            async with storage.outbox.claim(10) as batch:
                await batch.settle([batch.events[0].id])
                await batch.park(batch.events[1], ParkReason.REFUSED, "x" * 50 + "\0\ud800" + "x" * 5000)
            assert await storage.waiting() == ["c"]
            [refused] = await storage.parking.find(OUT)
            assert len(refused.error) == 4096

    async def test_erasing_a_key_deletes_what_was_sent_and_refused_and_leaves_what_waits(self) -> None:
        """`erase` returns how many events it has deleted, and how many still wait."""
        async with self.holding(
            Written("sent", "k"), Written("kept", "o"), Written("bad", "k"), Written("waits", "k")
        ) as storage:
            async with storage.outbox.claim(3) as batch:
                await batch.settle([event.id for event in batch.events[:2]])
                await batch.park(batch.events[2], ParkReason.REFUSED, "")
            assert await storage.outbox.erase("k") == Erased(archived=1, parked=1, pending=1)
            assert await storage.parking.find(OUT) == []
            assert await storage.waiting() == ["waits"]
            assert await storage.outbox.erase("k") == Erased(archived=0, parked=0, pending=1)
            assert await storage.outbox.erase("o") == Erased(archived=1, parked=0, pending=0)

    async def test_what_subscribers_have_parked_holds_up_no_event_and_is_not_erased(self) -> None:
        """Incoming parked events have nothing to do with outgoing events of the same key."""
        async with self.opened() as storage:
            await park(storage, parked_event("1", key="k"))
            await add(storage, Written("a", "k"))
            assert await storage.waiting() == ["a"]
            assert await storage.outbox.erase("k") == Erased(archived=0, parked=0, pending=1)
            assert await ids(storage) == ["1"]

    async def test_an_id_that_was_sent_before_stops_nothing_and_the_archive_keeps_the_first_event_of_it(self) -> None:
        """The second event with the id is sent, settled, and not archived."""
        async with self.opened() as storage:
            for text in ("first", "second"):
                await storage.do(partial(_add_as, "order-1", Written(text)))
                await add(storage, Written(f"beside {text}"))
                async with storage.outbox.claim(10) as batch:
                    assert [text_of(event.data) for event in batch.events] == [text, f"beside {text}"]
                    await batch.settle([event.id for event in batch.events])
            assert await storage.waiting() == []
            assert (await storage.outbox.contents.count(OutboxFilter("archived"))).events == 3
            assert text_of((await storage.outbox.contents.get("order-1"))[1].data) == "first"

    async def test_what_no_event_is_called_is_neither_cancelled_nor_erased(self) -> None:
        """An id or key that no event can have is no error. `cancel` returns False, and `erase` counts nothing."""
        for text in ("x" * 300, "a\0b", "\ud800"):
            async with self.opened() as storage:
                await add(storage, Written("a", "k"))
                assert await storage.outbox.cancel(text) is False
                assert await storage.outbox.erase(text) == Erased(archived=0, parked=0, pending=0)


async def _add_as(event_id: str, event: DistributedEvent, storage: StorageUnderTest) -> None:
    DistributedEventBroker(storage.unit_of_work, ids=lambda: event_id).add(event)


class DelayedEventsConformance(StorageSuite):
    """The promises of `deliver_at` and `cancel`."""

    async def test_a_delayed_event_is_published_when_it_is_due_and_not_before(self) -> None:
        """A relay gets a delayed event only once it is due. Until then, `due_in` returns the seconds that are left."""
        async with self.holding(Written("now")) as storage:
            await add(storage, Written("late"), after=timedelta(seconds=2))
            assert await storage.waiting() == ["now"]
            async with asyncio.timeout(10):
                while pause := await storage.outbox.due_in():
                    assert pause <= 2
                    await asyncio.sleep(pause)
            assert sorted(await storage.waiting()) == ["late", "now"]
            assert await storage.outbox.due_in() is None

    async def test_a_delayed_event_does_not_hold_its_key_back(self) -> None:
        """A later event of the same key is published before a delayed one that is not due."""
        async with self.holding(Written("late", "k"), after=FUTURE) as storage:
            await add(storage, Written("now", "k"))
            assert await storage.waiting() == ["now"]

    async def test_a_time_in_the_past_means_at_once(self) -> None:
        """An event whose `deliver_at` has passed is due at once."""
        async with self.holding(Written("a"), after=-FUTURE) as storage:
            assert await storage.outbox.due_in() == 0
            assert await storage.waiting() == ["a"]

    async def test_the_next_due_time_is_that_of_the_earliest_event(self) -> None:
        """`due_in` returns the seconds until the earliest delayed event is due, or `None` when there is none."""
        async with self.opened() as storage:
            assert await storage.outbox.due_in() is None
            await add(storage, Written("b"), after=2 * FUTURE)
            await add(storage, Written("a"), after=FUTURE)
            assert 3500 < (await storage.outbox.due_in() or 0) <= 3600

    async def test_a_delayed_event_can_be_cancelled_until_it_is_due(self) -> None:
        """`cancel` returns False for an event that is cancelled already, is due, or was never delayed."""
        async with self.opened() as storage:
            [cancelled] = await add(storage, Written("a"), after=timedelta(seconds=1))
            [kept] = await add(storage, Written("b"), after=timedelta(seconds=1))
            [undelayed] = await add(storage, Written("c"))
            assert await storage.outbox.cancel(cancelled) is True
            assert await storage.outbox.cancel(cancelled) is False
            await asyncio.sleep(1)
            assert sorted(await storage.waiting()) == ["b", "c"]
            assert await storage.outbox.cancel(kept) is False
            assert await storage.outbox.cancel(undelayed) is False
            assert sorted(await storage.waiting()) == ["b", "c"]

    async def test_a_transaction_cancels_if_it_commits(self) -> None:
        """A rollback, also to a savepoint, restores the cancelled event."""
        async with self.opened() as storage:
            [event_id] = await add(storage, Written("a"), after=FUTURE)

            async def cancel(storage: StorageUnderTest) -> bool:
                return await storage.outbox.cancel(event_id, unit_of_work=storage.unit_of_work)

            async def cancel_and_fail(storage: StorageUnderTest) -> None:
                assert await cancel(storage)
                raise LookupError

            async def cancel_inside_a_savepoint(storage: StorageUnderTest) -> None:
                with failing(LookupError):
                    await storage.do(cancel_and_fail, mode=TransactionMode.NESTED)

            with failing(LookupError):
                await storage.do(cancel_and_fail)
            await storage.do(cancel_inside_a_savepoint)
            assert await storage.outbox.due_in() is not None
            assert await storage.do(cancel) is True
            assert await storage.outbox.due_in() is None
            assert await storage.do(cancel) is False

    async def test_a_transaction_of_another_database_cancels_nothing(self) -> None:
        """`cancel` raises `MisuseError` for it."""
        async with self.opened() as storage:
            [event_id] = await add(storage, Written("a"), after=FUTURE)
            with failing(MisuseError, text="was given another unit of work"):
                await storage.outbox.cancel(event_id, unit_of_work=InMemoryUnitOfWork(InMemoryDatabase()))

    async def test_a_unit_of_work_that_does_not_run_cancels_nothing(self) -> None:
        """`cancel` raises `NoUnitOfWorkError` for it."""
        async with self.opened() as storage:
            [event_id] = await add(storage, Written("a"), after=FUTURE)
            async with storage.mediator.scope():
                with failing(NoUnitOfWorkError):
                    await storage.outbox.cancel(event_id, unit_of_work=storage.unit_of_work)

    async def test_a_time_without_a_zone_is_refused_when_the_event_is_added(self) -> None:
        """`deliver_at` must be a timezone-aware datetime; anything else raises `MisuseError`."""
        times: list[Any] = [datetime(2026, 1, 1), "tomorrow", 3600]  # noqa: DTZ001  (it must be refused)
        async with self.opened() as storage:
            async with storage.transaction() as unit_of_work:
                for time in times:
                    with failing(MisuseError, text="cannot be delayed"):
                        DistributedEventBroker(unit_of_work).add(Written("a"), deliver_at=time)
            assert await storage.waiting() == []


class RefusedEventsConformance(StorageSuite):
    """The promises about events that can never be published."""

    async def test_a_refused_event_holds_back_its_key_and_nothing_else(self) -> None:
        """It is parked with its reason and error. Later events of its key wait in the outbox, and all others go on."""
        async with self.holding(
            Written("bad", "k"), Written("next", "k"), Written("other", "o"), Written("none")
        ) as storage:
            refused = await park_first(storage)
            await add(storage, Written("later", "k"))
            assert await storage.waiting() == ["other", "none"]
            assert await storage.parking.find(OUT) == [refused]
            assert (refused.direction, refused.consumer) == ("out", "")
            assert (refused.reason, refused.error) == ("refused", "too large")
            assert (refused.type, refused.partition_key, refused.headers) == ("contract.written.v1", "k", {})
            assert refused.data.decode() == '{"text":"bad","key":"k"}'
            assert refused.parked_at is not None
            assert abs(datetime.now(UTC).timestamp() - refused.parked_at) < 60

    async def test_a_refused_event_without_a_key_holds_nothing_back(self) -> None:
        """All other events can be published."""
        async with self.holding(Written("bad"), Written("good")) as storage:
            await park_first(storage)
            assert await storage.waiting() == ["good"]

    async def test_a_released_event_is_the_same_and_comes_before_its_successors(self) -> None:
        """It returns to its old place in the outbox, and a relay that waits is woken."""
        async with self.holding(Written("before", "o"), Written("bad", "k"), Written("next", "k")) as storage:
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
            assert await storage.waiting() == ["before", "bad", "next"]
            assert await storage.parking.find(OUT) == []
            with failing(ParkedEventNotFoundError):
                await storage.parking.release(refused.number)

    async def test_the_refused_events_of_a_key_go_out_in_their_order(self) -> None:
        """A later one cannot be released before an earlier one. A replay releases them in order."""
        async with self.holding(Written("1", "k"), Written("2", "k"), Written("3", "k")) as storage:
            async with storage.outbox.claim(10) as batch:
                for event in batch.events[:2]:
                    await batch.park(event, ParkReason.REFUSED, "too large")
            first, second = await storage.parking.find(OUT)
            with failing(ParkedEventBlockedError):
                await storage.parking.release(second.number)
            replay = ParkedReplay(storage.parking, [])
            assert [result.outcome async for result in replay.run(OUT)] == ["replayed", "replayed"]
            assert await storage.waiting() == ["1", "2", "3"]
            assert first.number < second.number

    async def test_what_is_wrong_with_a_refused_event_can_be_corrected(self) -> None:
        """Its body can be edited before it is released. Its headers cannot, because it has none yet."""
        async with self.holding(Written("bad", "k")) as storage:
            refused = await park_first(storage)
            with failing(SettingError):
                await storage.parking.edit(refused.number, headers={"a": "b"})
            edited = await storage.parking.edit(refused.number, data=b'{"text":"good","key":"k"}')
            assert await storage.parking.release(refused.number) == edited
            assert await storage.waiting() == ["good"]

    async def test_an_event_that_is_refused_again_is_set_aside_again(self) -> None:
        """It can be parked and released again."""
        async with self.holding(Written("bad", "k")) as storage:
            await storage.parking.release((await park_first(storage)).number)
            await storage.parking.release((await park_first(storage)).number)
            assert await storage.waiting() == ["bad"]

    async def test_an_event_whose_id_waits_in_the_outbox_is_not_put_back_beside_it(self) -> None:
        """It stays parked until it is discarded, and the error says so."""
        async with self.holding(Written("first", "k"), Written("other", "o")) as storage:
            refused = await park_first(storage)
            await storage.parking.release(refused.number)
            again = await _append(storage, replace(refused, sequence=refused.sequence + 1000))
            error = await _not_released(storage, again)
            assert (error.number, error.event_id, error.waiting_id) == (again.number, again.event_id, again.event_id)
            assert "Discard the parked one" in str(error)
            await storage.parking.discard(again.number)
            assert await storage.waiting() == ["first", "other"]

    async def test_an_event_whose_place_in_the_outbox_another_one_has_is_put_back_when_that_one_is_sent(self) -> None:
        """Until then `release` raises `ParkedEventConflictError`."""
        async with self.holding(Written("first", "k")) as storage:
            refused = await park_first(storage)
            await storage.parking.release(refused.number)
            text = b'{"text":"second","key":"o"}'
            second = await _append(storage, replace(refused, event_id="another", partition_key="o", data=text))
            error = await _not_released(storage, second)
            assert (error.event_id, error.sequence) == ("another", refused.sequence)
            assert (error.waiting_id, error.has_same_key) == (refused.event_id, False)
            async with storage.outbox.claim(10) as batch:
                await batch.settle([refused.event_id])
            await storage.parking.release(second.number)
            assert await storage.waiting() == ["second"]

    async def test_an_event_whose_place_a_later_one_of_its_key_has_makes_way_when_it_is_discarded(self) -> None:
        """The parked event cannot be released, and the later event waits until the parked one is discarded."""
        async with self.holding(Written("later", "k")) as storage:
            refused = await park_first(storage)
            await storage.parking.release(refused.number)
            earlier = await _append(storage, replace(refused, event_id="another"))
            assert (await _not_released(storage, earlier)).has_same_key
            assert await storage.waiting() == []
            await storage.parking.discard(earlier.number)
            assert await storage.waiting() == ["later"]

    async def test_a_replay_goes_on_past_an_event_that_cannot_be_put_back(self) -> None:
        """The event stays parked with the error noted, and the replay releases the events of other keys."""
        async with self.holding(Written("first", "k")) as storage:
            refused = await park_first(storage)
            await storage.parking.release(refused.number)
            again = await _append(storage, refused)
            text = b'{"text":"other","key":"o"}'
            place = refused.sequence + 1000
            await _append(storage, replace(refused, event_id="o", partition_key="o", data=text, sequence=place))
            results = [result async for result in ParkedReplay(storage.parking, []).run(OUT)]
            assert [result.outcome for result in results] == ["failed", "replayed"]
            assert isinstance(results[0].error, ParkedEventConflictError)
            noted = await storage.parking.get(again.number)
            assert noted.error.startswith("ParkedEventConflictError: ")
            assert noted.attempts == again.attempts + 1

    async def test_of_two_refused_events_with_one_id_the_first_stays_parked(self) -> None:
        """The second one is dropped, and neither waits in the outbox."""
        async with self.opened() as storage:
            for text in ("first", "second"):
                async with storage.transaction() as unit_of_work:
                    DistributedEventBroker(unit_of_work, ids=lambda: "order-1").add(Written(text))
                refused = await park_first(storage)
                assert text_of(refused.data) == "first"
                assert await storage.waiting() == []

    async def test_the_successors_of_an_erased_refused_event_go_on(self) -> None:
        """Erasing the key of the refused event also wakes a relay that waits."""
        async with self.holding(Written("bad", "k"), Written("next", "k")) as storage:
            await park_first(storage)
            await storage.outbox.wait(0.01)
            assert await storage.outbox.erase("k") == Erased(archived=0, parked=1, pending=1)
            async with asyncio.timeout(5):
                await storage.outbox.wait(60)
            assert await storage.waiting() == ["next"]

    async def test_the_successors_of_a_discarded_event_go_on(self) -> None:
        """A discard also wakes a relay that waits."""
        async with self.holding(Written("bad", "k"), Written("next", "k")) as storage:
            refused = await park_first(storage)
            await storage.outbox.wait(0.01)
            assert await storage.parking.discard(refused.number) == refused
            async with asyncio.timeout(5):
                await storage.outbox.wait(60)
            assert await storage.waiting() == ["next"]
            with failing(ParkedEventNotFoundError):
                await storage.parking.discard(refused.number)


async def _append(storage: StorageUnderTest, event: ParkedEvent) -> ParkedEvent:
    """Park one more event, and return it."""
    async with storage.transaction() as unit_of_work:
        await storage.parking.append(unit_of_work, replace(event, number=0))
    return (await storage.parking.find(OUT))[-1]


async def _not_released(storage: StorageUnderTest, event: ParkedEvent) -> ParkedEventConflictError:
    """Return the error with which an event is not released. The event must stay parked as before."""
    with failing(ParkedEventConflictError) as caught:
        await storage.parking.release(event.number)
    assert await storage.parking.get(event.number) == event
    return caught[0]
