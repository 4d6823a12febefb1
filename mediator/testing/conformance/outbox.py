"""OutboxConformance: the promises of `Outbox` as test cases, including delayed events and refused events."""

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
        """A claim returns the oldest events first. `look_again` is 0 if more events wait than the claim may return."""
        sent = [Written(str(number), "k" if number % 2 else None) for number in range(2500)]
        async with self.holding(*sent) as storage:
            async with storage.outbox.claim(2499) as batch:
                assert [text_of(event.data) for event in batch.events] == [each.text for each in sent[:-1]]
                assert batch.look_again == 0
            async with storage.outbox.claim(5000) as batch:
                assert batch.look_again is None

    async def test_an_event_gets_its_source_before_publishing_and_keeps_the_source(self) -> None:
        """The source is the application's name. Parked, released and archived events keep their source."""
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

    async def test_an_empty_partition_key_is_refused(self) -> None:
        """An event with an empty key fails its command, and `erase` refuses an empty key."""
        async with self.opened() as storage:
            with failing(EventNotSerializableError):
                await add(storage, Written("a", ""))
            assert await storage.waiting() == []
            with failing(SettingError):
                await storage.outbox.erase("")

    async def test_a_filter_with_an_empty_list_finds_no_events(self) -> None:
        """`None` means all events, but an empty list of ids or numbers means no events."""
        async with self.holding(Written("a")) as storage:
            contents = storage.outbox.contents
            assert [record.id for record in await contents.find(OutboxFilter("waiting", ids=()))] == []
            assert (await contents.count(OutboxFilter("waiting", ids=()))).events == 0
            assert (await contents.count(OutboxFilter("waiting"))).events == 1
            assert await storage.parking.find(ParkedFilter(numbers=())) == []

    async def test_a_claim_leaves_out_the_excluded_domains(self) -> None:
        """`without` contains complete names of domains. A part of a name excludes no domain."""
        async with self.holding(Elsewhere("a"), Written("b"), Elsewhere("c")) as storage:
            assert await storage.waiting(without=frozenset({"elsewhere"})) == ["b"]
            assert await storage.waiting(without=frozenset({"elsewhere", "contract"})) == []
            assert await storage.waiting(without=frozenset({"else"})) == ["a", "b", "c"]

    async def test_a_claim_returns_the_oldest_events_and_settling_removes_them(self) -> None:
        """Claimed events that are not settled stay in the outbox."""
        async with self.opened() as storage:
            for row in "abc":
                await storage.do(writing(row))
            async with storage.outbox.claim(2) as batch:
                assert [text_of(event.data) for event in batch.events] == ["a", "b"]
                await batch.settle([batch.events[0].id])
            assert await storage.waiting() == ["b", "c"]

    async def test_two_concurrent_claims_never_return_the_same_event(self) -> None:
        """The second claim does not return the events of the first claim."""
        async with self.opened() as storage:
            await storage.do(writing("a"))
            async with storage.outbox.claim(10) as mine, storage.outbox.claim(10) as theirs:
                assert len(mine.events) == 1
                assert len(theirs.events) == 0
            assert await storage.waiting() == ["a"]

    async def test_a_commit_with_events_wakes_a_waiting_relay(self) -> None:
        """`wake` also wakes a waiting relay. Without a commit or `wake`, `wait` returns after the given seconds."""
        async with self.opened() as storage:
            await storage.outbox.wait(0.01)
            await storage.do(writing("a"))
            async with asyncio.timeout(5):
                await storage.outbox.wait(60)
                storage.outbox.wake()
                await storage.outbox.wait(60)

    async def test_a_batch_cannot_be_changed_after_its_claim_ended(self) -> None:
        """After the end of a claim, `settle` and `park` raise `ClaimLostError`, and the events stay in the outbox."""
        async with self.holding(Written("a")) as storage:
            async with storage.outbox.claim(10) as batch:
                pass
            with failing(ClaimLostError):
                await batch.settle([batch.events[0].id])
            with failing(ClaimLostError):
                await batch.park(batch.events[0], ParkReason.REFUSED, "")
            assert await storage.waiting() == ["a"]

    async def test_a_relay_that_finds_all_events_claimed_looks_again_soon(self) -> None:
        """The relay gets an empty batch, whose `look_again` is less than a second."""
        async with self.holding(Written("a")) as storage, storage.outbox.claim(10), storage.outbox.claim(10) as theirs:
            assert theirs.look_again is not None
            assert 0 < theirs.look_again < 1

    async def test_one_batch_may_settle_some_events_and_park_others(self) -> None:
        """The error text of a parked event is cut to 4096 characters."""
        async with self.holding(Written("a", "1"), Written("b", "2"), Written("c", "3")) as storage:
            async with storage.outbox.claim(10) as batch:
                await batch.settle([batch.events[0].id])
                await batch.park(batch.events[1], ParkReason.REFUSED, "x" * 50 + "\0\ud800" + "x" * 5000)
            assert await storage.waiting() == ["c"]
            [refused] = await storage.parking.find(OUT)
            assert len(refused.error) == 4096

    async def test_erasing_a_key_deletes_its_sent_and_refused_events_but_not_its_waiting_ones(self) -> None:
        """`erase` returns the number of deleted events and the number of events that still wait."""
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

    async def test_outgoing_events_are_independent_of_parked_incoming_events(self) -> None:
        """A parked incoming event does not block outgoing events of the same key. `erase` keeps the incoming event."""
        async with self.opened() as storage:
            await park(storage, parked_event("1", key="k"))
            await add(storage, Written("a", "k"))
            assert await storage.waiting() == ["a"]
            assert await storage.outbox.erase("k") == Erased(archived=0, parked=0, pending=1)
            assert await ids(storage) == ["1"]

    async def test_an_id_that_was_sent_before_can_be_sent_again(self) -> None:
        """The second event is sent and settled. Only the first event with the id is in the archive."""
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

    async def test_cancel_and_erase_accept_texts_that_no_event_can_have(self) -> None:
        """For an impossible id, `cancel` returns False. For an impossible key, `erase` counts no events."""
        for text in ("x" * 300, "a\0b", "\ud800"):
            async with self.opened() as storage:
                await add(storage, Written("a", "k"))
                assert await storage.outbox.cancel(text) is False
                assert await storage.outbox.erase(text) == Erased(archived=0, parked=0, pending=0)


async def _add_as(event_id: str, event: DistributedEvent, storage: StorageUnderTest) -> None:
    DistributedEventBroker(storage.unit_of_work, ids=lambda: event_id).add(event)


class DelayedEventsConformance(StorageSuite):
    """The promises about `deliver_at` and `cancel`."""

    async def test_a_delayed_event_is_published_when_it_is_due_and_not_before(self) -> None:
        """No claim returns a delayed event before the event is due. `due_in` returns the remaining seconds."""
        async with self.holding(Written("now")) as storage:
            await add(storage, Written("late"), after=timedelta(seconds=2))
            assert await storage.waiting() == ["now"]
            async with asyncio.timeout(10):
                while pause := await storage.outbox.due_in():
                    assert pause <= 2
                    await asyncio.sleep(pause)
            assert sorted(await storage.waiting()) == ["late", "now"]
            assert await storage.outbox.due_in() is None

    async def test_a_delayed_event_does_not_block_its_key(self) -> None:
        """A later event of the same key is published while the delayed event is not due."""
        async with self.holding(Written("late", "k"), after=FUTURE) as storage:
            await add(storage, Written("now", "k"))
            assert await storage.waiting() == ["now"]

    async def test_an_event_that_is_delayed_to_a_time_in_the_past_is_due_at_once(self) -> None:
        """`due_in` returns 0, and a claim returns the event."""
        async with self.holding(Written("a"), after=-FUTURE) as storage:
            assert await storage.outbox.due_in() == 0
            assert await storage.waiting() == ["a"]

    async def test_due_in_refers_to_the_earliest_delayed_event(self) -> None:
        """`due_in` returns the seconds until the earliest delayed event is due, or `None` if no event is delayed."""
        async with self.opened() as storage:
            assert await storage.outbox.due_in() is None
            await add(storage, Written("b"), after=2 * FUTURE)
            await add(storage, Written("a"), after=FUTURE)
            assert 3500 < (await storage.outbox.due_in() or 0) <= 3600

    async def test_a_delayed_event_can_be_cancelled_until_it_is_due(self) -> None:
        """`cancel` returns False for an event that is already cancelled, is due, or was never delayed."""
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

    async def test_a_transaction_cancels_a_delayed_event_only_if_the_transaction_commits(self) -> None:
        """A rollback of the transaction, or a rollback to a savepoint, restores the cancelled event."""
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
        """`cancel` raises `MisuseError` for a unit of work on another database."""
        async with self.opened() as storage:
            [event_id] = await add(storage, Written("a"), after=FUTURE)
            with failing(MisuseError, text="belongs to another unit of work or database"):
                await storage.outbox.cancel(event_id, unit_of_work=InMemoryUnitOfWork(InMemoryDatabase()))

    async def test_a_unit_of_work_that_has_not_begun_cancels_nothing(self) -> None:
        """`cancel` raises `NoUnitOfWorkError` for a unit of work without a running transaction."""
        async with self.opened() as storage:
            [event_id] = await add(storage, Written("a"), after=FUTURE)
            async with storage.mediator.scope():
                with failing(NoUnitOfWorkError):
                    await storage.outbox.cancel(event_id, unit_of_work=storage.unit_of_work)

    async def test_a_time_without_a_zone_is_refused_when_the_event_is_added(self) -> None:
        """`deliver_at` must be a timezone-aware datetime; anything else raises `MisuseError`."""
        times: list[Any] = [datetime(2026, 1, 1), "tomorrow", 3600]  # noqa: DTZ001  (the case needs a time without a zone)
        async with self.opened() as storage:
            async with storage.transaction() as unit_of_work:
                for time in times:
                    with failing(MisuseError, text="cannot be delayed"):
                        DistributedEventBroker(unit_of_work).add(Written("a"), deliver_at=time)
            assert await storage.waiting() == []


class RefusedEventsConformance(StorageSuite):
    """The promises about events that the broker has refused. The place of an event is its sequence in the outbox."""

    async def test_a_refused_event_blocks_only_later_events_of_its_key(self) -> None:
        """The refused event is parked with its reason and error. Events of other keys or without keys are published."""
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

    async def test_a_refused_event_without_a_key_blocks_no_events(self) -> None:
        """All other events are published."""
        async with self.holding(Written("bad"), Written("good")) as storage:
            await park_first(storage)
            assert await storage.waiting() == ["good"]

    async def test_a_released_event_returns_unchanged_to_its_place_in_the_outbox(self) -> None:
        """The released event precedes the later events of its key again. The release wakes a waiting relay."""
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

    async def test_the_refused_events_of_a_key_are_released_in_order(self) -> None:
        """`release` raises `ParkedEventBlockedError` for all events but the first. A replay releases all events in order."""
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

    async def test_the_body_of_a_refused_event_can_be_edited(self) -> None:
        """The headers cannot be edited, because an event gets headers only when it is published."""
        async with self.holding(Written("bad", "k")) as storage:
            refused = await park_first(storage)
            with failing(SettingError):
                await storage.parking.edit(refused.number, headers={"a": "b"})
            edited = await storage.parking.edit(refused.number, data=b'{"text":"good","key":"k"}')
            assert await storage.parking.release(refused.number) == edited
            assert await storage.waiting() == ["good"]

    async def test_an_event_that_is_refused_again_is_parked_again(self) -> None:
        """An event can be parked and released several times."""
        async with self.holding(Written("bad", "k")) as storage:
            await storage.parking.release((await park_first(storage)).number)
            await storage.parking.release((await park_first(storage)).number)
            assert await storage.waiting() == ["bad"]

    async def test_an_event_is_not_released_while_its_id_is_in_the_outbox(self) -> None:
        """The event stays parked. The text of the error says to discard the event."""
        async with self.holding(Written("first", "k"), Written("other", "o")) as storage:
            refused = await park_first(storage)
            await storage.parking.release(refused.number)
            again = await _append(storage, replace(refused, sequence=refused.sequence + 1000))
            error = await _not_released(storage, again)
            assert (error.number, error.event_id, error.waiting_id) == (again.number, again.event_id, again.event_id)
            assert "Discard the parked event" in str(error)
            await storage.parking.discard(again.number)
            assert await storage.waiting() == ["first", "other"]

    async def test_an_event_is_not_released_while_its_place_in_the_outbox_is_taken(self) -> None:
        """`release` raises `ParkedEventConflictError` as long as another event has the place."""
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

    async def test_an_event_whose_place_is_taken_blocks_its_key_until_it_is_discarded(self) -> None:
        """A later event of the key has taken the place, and is published only after the parked event was discarded."""
        async with self.holding(Written("later", "k")) as storage:
            refused = await park_first(storage)
            await storage.parking.release(refused.number)
            earlier = await _append(storage, replace(refused, event_id="another"))
            assert (await _not_released(storage, earlier)).has_same_key
            assert await storage.waiting() == []
            await storage.parking.discard(earlier.number)
            assert await storage.waiting() == ["later"]

    async def test_a_replay_continues_after_an_event_that_cannot_be_released(self) -> None:
        """The replay stores the error in the parked event, and releases the events of other keys."""
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

    async def test_only_the_first_of_two_refused_events_with_the_same_id_is_parked(self) -> None:
        """The second event is dropped, so no event is left in the outbox."""
        async with self.opened() as storage:
            for text in ("first", "second"):
                await storage.do(partial(_add_as, "order-1", Written(text)))
                refused = await park_first(storage)
                assert text_of(refused.data) == "first"
                assert await storage.waiting() == []

    async def test_erasing_a_refused_event_unblocks_its_key(self) -> None:
        """A waiting relay is woken, and can publish the later events of the key."""
        async with self.holding(Written("bad", "k"), Written("next", "k")) as storage:
            await park_first(storage)
            await storage.outbox.wait(0.01)
            assert await storage.outbox.erase("k") == Erased(archived=0, parked=1, pending=1)
            async with asyncio.timeout(5):
                await storage.outbox.wait(60)
            assert await storage.waiting() == ["next"]

    async def test_discarding_a_refused_event_unblocks_its_key(self) -> None:
        """A waiting relay is woken, and can publish the later events of the key."""
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
    """Park an event in a new transaction, and return the parked event."""
    async with storage.transaction() as unit_of_work:
        await storage.parking.append(unit_of_work, replace(event, number=0))
    return (await storage.parking.find(OUT))[-1]


async def _not_released(storage: StorageUnderTest, event: ParkedEvent) -> ParkedEventConflictError:
    """Check that an event cannot be released and stays parked, and return the error."""
    with failing(ParkedEventConflictError) as caught:
        await storage.parking.release(event.number)
    assert await storage.parking.get(event.number) == event
    return caught[0]
