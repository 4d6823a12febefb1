"""RefusedEventsConformance: the promises about events that the broker refuses as test cases."""

import asyncio
from datetime import UTC, datetime

from mediator.distributed.parking import ParkReason
from mediator.distributed.replay import ParkedReplay
from mediator.errors import ParkedEventBlockedError, ParkedEventNotFoundError, SettingError
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.storage import Written
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
