"""OutboxConformance: the promises of `Outbox` to the relay as test cases."""

import asyncio
from functools import partial

from mediator.distributed.broker import DistributedEventBroker
from mediator.distributed.events import DistributedEvent
from mediator.distributed.outbox import Erased
from mediator.distributed.outbox_contents import OutboxFilter
from mediator.distributed.parking import ParkReason
from mediator.errors import ClaimLostError
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.storage import Elsewhere, StorageUnderTest, Written, text_of, writing
from mediator.testing.conformance.storage_steps import OUT, add
from mediator.testing.conformance.storage_suite import StorageSuite


class OutboxConformance(StorageSuite):
    """What the relay builds upon."""

    async def test_many_events_of_one_command_keep_the_order_in_which_they_were_added(self) -> None:
        """Many events of one command keep the order in which they were added."""
        async with self.opened() as storage:
            await add(storage, *(Written(str(number), "k" if number % 2 else None) for number in range(2500)))
            async with storage.outbox.claim(2499) as batch:
                assert [event.data.decode().split('"')[3] for event in batch.events] == [str(n) for n in range(2499)]
                assert batch.look_again == 0
            async with storage.outbox.claim(5000) as batch:
                assert batch.look_again is None

    async def test_contexts_are_left_out(self) -> None:
        """Contexts are left out."""
        async with self.opened() as storage:
            await add(storage, Elsewhere("a"), Written("b"), Elsewhere("c"))
            assert await storage.waiting(without=frozenset({"elsewhere"})) == ["b"]
            assert await storage.waiting(without=frozenset({"elsewhere", "contract"})) == []
            assert await storage.waiting(without=frozenset({"else"})) == ["a", "b", "c"]

    async def test_a_claim_gives_the_oldest_events_and_settling_takes_them_away(self) -> None:
        """A claim gives the oldest events and settling takes them away."""
        async with self.opened() as storage:
            for row in "abc":
                await storage.do(writing(row))
            async with storage.outbox.claim(2) as batch:
                assert [text_of(event.data) for event in batch.events] == ["a", "b"]
                await batch.settle([batch.events[0].id])
            assert await storage.waiting() == ["b", "c"]

    async def test_two_claims_at_a_time_never_give_one_event_twice(self) -> None:
        """Two claims at a time never give one event twice."""
        async with self.opened() as storage:
            await storage.do(writing("a"))
            async with storage.outbox.claim(10) as mine, storage.outbox.claim(10) as theirs:
                assert len(mine.events) == 1
                assert len(theirs.events) == 0
            assert await storage.waiting() == ["a"]

    async def test_a_commit_with_events_wakes_who_waits_and_waiting_has_an_end(self) -> None:
        """A commit with events wakes who waits and waiting has an end."""
        async with self.opened() as storage:
            await storage.outbox.wait(0.01)
            await storage.do(writing("a"))
            async with asyncio.timeout(5):
                await storage.outbox.wait(60)
                storage.outbox.wake()
                await storage.outbox.wait(60)

    async def test_a_batch_that_was_left_changes_nothing_any_more(self) -> None:
        """A batch that was left changes nothing any more."""
        async with self.opened() as storage:
            await add(storage, Written("a"))
            async with storage.outbox.claim(10) as batch:
                pass
            with failing(ClaimLostError):
                await batch.settle([batch.events[0].id])
            with failing(ClaimLostError):
                await batch.park(batch.events[0], ParkReason.REFUSED, "")
            assert await storage.waiting() == ["a"]

    async def test_whoever_finds_everything_claimed_is_told_to_look_again_soon(self) -> None:
        """Whoever finds everything claimed is told to look again soon."""
        async with self.opened() as storage:
            await add(storage, Written("a"))
            async with storage.outbox.claim(10), storage.outbox.claim(10) as theirs:
                assert theirs.look_again is not None
                assert 0 < theirs.look_again < 1

    async def test_settling_and_parking_go_together(self) -> None:
        """Settling and parking go together."""
        async with self.opened() as storage:
            await add(storage, Written("a", "1"), Written("b", "2"), Written("c", "3"))
            async with storage.outbox.claim(10) as batch:
                await batch.settle([batch.events[0].id])
                await batch.park(batch.events[1], ParkReason.REFUSED, "x" * 50 + "\0\ud800" + "x" * 5000)
            assert await storage.waiting() == ["c"]
            [refused] = await storage.parking.find(OUT)
            assert len(refused.error) == 4096

    async def test_erasing_a_key_deletes_what_was_sent_and_refused_and_leaves_what_waits(self) -> None:
        """Erasing a key deletes what was sent and refused and leaves what waits."""
        async with self.opened() as storage:
            await add(storage, Written("sent", "k"), Written("kept", "o"), Written("bad", "k"), Written("waits", "k"))
            async with storage.outbox.claim(3) as batch:
                await batch.settle([event.id for event in batch.events[:2]])
                await batch.park(batch.events[2], ParkReason.REFUSED, "")
            assert await storage.outbox.erase("k") == Erased(archived=1, parked=1, pending=1)
            assert await storage.parking.find(OUT) == []
            assert await storage.waiting() == ["waits"]
            assert await storage.outbox.erase("k") == Erased(archived=0, parked=0, pending=1)
            assert await storage.outbox.erase("o") == Erased(archived=1, parked=0, pending=0)

    async def test_an_id_that_was_sent_before_stops_nothing_and_the_archive_keeps_the_first_event_of_it(self) -> None:
        """An id that was sent before stops nothing and the archive keeps the first event of it."""
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
        """What no event is called is neither cancelled nor erased."""
        for text in ("x" * 300, "a\0b", "\ud800"):
            await self._what_no_event_is_called_is_neither_cancelled_nor_erased(text)

    async def _what_no_event_is_called_is_neither_cancelled_nor_erased(self, text: str) -> None:
        async with self.opened() as storage:
            await add(storage, Written("a", "k"))
            assert await storage.outbox.cancel(text) is False
            assert await storage.outbox.erase(text) == Erased(archived=0, parked=0, pending=0)


async def _add_as(event_id: str, event: DistributedEvent, storage: StorageUnderTest) -> None:
    DistributedEventBroker(storage.unit_of_work, ids=lambda: event_id).add(event)
