"""RefusedEventsConformance: the promises about events that the broker refuses as test cases."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from mediator.distributed.broker import DistributedEventBroker
from mediator.distributed.outbox import Erased
from mediator.distributed.parking import ParkedEvent, ParkReason
from mediator.distributed.replay import ParkedReplay
from mediator.errors import ParkedEventBlockedError, ParkedEventConflictError, ParkedEventNotFoundError, SettingError
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.storage import StorageUnderTest, Written, text_of
from mediator.testing.conformance.storage_steps import OUT, add, park_first
from mediator.testing.conformance.storage_suite import StorageSuite


class RefusedEventsConformance(StorageSuite):
    """What becomes of an event that can never be published."""

    async def test_a_refused_event_holds_back_its_key_and_nothing_else(self) -> None:
        """A refused event holds back its key and nothing else."""
        async with self.opened() as storage:
            await add(storage, Written("bad", "k"), Written("next", "k"), Written("other", "o"), Written("none"))
            refused = await park_first(storage)
            await add(storage, Written("later", "k"))
            assert await storage.waiting() == ["other", "none"]
            assert await storage.parking.find(OUT) == [refused]
            assert (refused.direction, refused.consumer) == ("out", "")
            assert (refused.reason, refused.error) == ("refused", "too large")
            assert (refused.type, refused.partition_key, refused.headers) == ("contract.written.v1", "k", {})
            assert refused.data.decode() == '{"text":"bad","key":"k"}'
            assert abs(datetime.now(UTC).timestamp() - refused.parked_at) < 60

    async def test_a_refused_event_without_a_key_holds_nothing_back(self) -> None:
        """A refused event without a key holds nothing back."""
        async with self.opened() as storage:
            await add(storage, Written("bad"), Written("good"))
            await park_first(storage)
            assert await storage.waiting() == ["good"]

    async def test_a_released_event_is_the_same_and_comes_before_its_successors(self) -> None:
        """A released event is the same and comes before its successors."""
        async with self.opened() as storage:
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
            assert await storage.waiting() == ["before", "bad", "next"]
            assert await storage.parking.find(OUT) == []
            with failing(ParkedEventNotFoundError):
                await storage.parking.release(refused.number)

    async def test_the_refused_events_of_a_key_go_out_in_their_order(self) -> None:
        """The refused events of a key go out in their order."""
        async with self.opened() as storage:
            await add(storage, Written("1", "k"), Written("2", "k"), Written("3", "k"))
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
        """What is wrong with a refused event can be corrected."""
        async with self.opened() as storage:
            await add(storage, Written("bad", "k"))
            refused = await park_first(storage)
            with failing(SettingError):
                await storage.parking.edit(refused.number, headers={"a": "b"})
            edited = await storage.parking.edit(refused.number, data=b'{"text":"good","key":"k"}')
            assert await storage.parking.release(refused.number) == edited
            assert await storage.waiting() == ["good"]

    async def test_an_event_that_is_refused_again_is_set_aside_again(self) -> None:
        """An event that is refused again is set aside again."""
        async with self.opened() as storage:
            await add(storage, Written("bad", "k"))
            await storage.parking.release((await park_first(storage)).number)
            await storage.parking.release((await park_first(storage)).number)
            assert await storage.waiting() == ["bad"]

    async def test_an_event_whose_id_waits_in_the_outbox_is_not_put_back_beside_it(self) -> None:
        """An event whose id waits in the outbox is not put back beside it, and stays parked until it is discarded."""
        async with self.opened() as storage:
            await add(storage, Written("first", "k"), Written("other", "o"))
            refused = await park_first(storage)
            await storage.parking.release(refused.number)
            again = await _append(storage, replace(refused, sequence=refused.sequence + 1000))
            error = await _not_released(storage, again)
            assert (error.number, error.event_id, error.waiting_id) == (again.number, again.event_id, again.event_id)
            assert "Discard the parked one" in str(error)
            await storage.parking.discard(again.number)
            assert await storage.waiting() == ["first", "other"]

    async def test_an_event_whose_place_in_the_outbox_another_one_has_is_put_back_when_that_one_is_sent(self) -> None:
        """An event whose place in the outbox another one has is put back when that one is sent."""
        async with self.opened() as storage:
            await add(storage, Written("first", "k"))
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
        """An event whose place a later one of its key has makes way when it is discarded: that one waits for it."""
        async with self.opened() as storage:
            await add(storage, Written("later", "k"))
            refused = await park_first(storage)
            await storage.parking.release(refused.number)
            earlier = await _append(storage, replace(refused, event_id="another"))
            assert (await _not_released(storage, earlier)).has_same_key
            assert await storage.waiting() == []
            await storage.parking.discard(earlier.number)
            assert await storage.waiting() == ["later"]

    async def test_a_replay_goes_on_past_an_event_that_cannot_be_put_back(self) -> None:
        """A replay goes on past an event that cannot be put back."""
        async with self.opened() as storage:
            await add(storage, Written("first", "k"))
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
        """Of two refused events with one id the first stays parked, and neither waits."""
        async with self.opened() as storage:
            for text in ("first", "second"):
                async with storage.transaction() as unit_of_work:
                    DistributedEventBroker(unit_of_work, ids=lambda: "order-1").add(Written(text))
                refused = await park_first(storage)
                assert text_of(refused.data) == "first"
                assert await storage.waiting() == []

    async def test_the_successors_of_an_erased_refused_event_go_on(self) -> None:
        """The successors of an erased refused event go on, and who waits is woken for them."""
        async with self.opened() as storage:
            await add(storage, Written("bad", "k"), Written("next", "k"))
            await park_first(storage)
            await storage.outbox.wait(0.01)
            assert await storage.outbox.erase("k") == Erased(archived=0, parked=1, pending=1)
            async with asyncio.timeout(5):
                await storage.outbox.wait(60)
            assert await storage.waiting() == ["next"]

    async def test_the_successors_of_a_discarded_event_go_on(self) -> None:
        """The successors of a discarded event go on."""
        async with self.opened() as storage:
            await add(storage, Written("bad", "k"), Written("next", "k"))
            refused = await park_first(storage)
            await storage.outbox.wait(0.01)
            assert await storage.parking.discard(refused.number) == refused
            async with asyncio.timeout(5):
                await storage.outbox.wait(60)
            assert await storage.waiting() == ["next"]
            with failing(ParkedEventNotFoundError):
                await storage.parking.discard(refused.number)


async def _append(storage: StorageUnderTest, event: ParkedEvent) -> ParkedEvent:
    """Set one more event aside."""
    async with storage.transaction() as unit_of_work:
        await storage.parking.append(unit_of_work, replace(event, number=0))
    return (await storage.parking.find(OUT))[-1]


async def _not_released(storage: StorageUnderTest, event: ParkedEvent) -> ParkedEventConflictError:
    """Why an event is not put back; it is parked as before."""
    try:
        await storage.parking.release(event.number)
    except ParkedEventConflictError as error:
        assert await storage.parking.get(event.number) == event
        return error
    raise AssertionError(f"the event {event.event_id} was put back")
