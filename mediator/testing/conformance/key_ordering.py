"""KeyOrderingConformance: what `open(ordering="key")` promises of the events of one partition key."""

import asyncio
from contextlib import AsyncExitStack

from mediator.distributed.subscription import Ordering
from mediator.errors import GroupOrderingError
from mediator.testing.conformance.reader import Reader, ids
from mediator.testing.conformance.sample_events import apart, event, events
from mediator.testing.conformance.suite import needs
from mediator.testing.conformance.transport_capability import TransportCapability
from mediator.testing.conformance.transport_suite import TransportSuite

_ordered = needs(TransportCapability.KEY_ORDERING)


class KeyOrderingConformance(TransportSuite):
    """Strictly one after the other, among all processes of a group, whatever fails."""

    @_ordered
    async def test_the_next_event_of_a_key_comes_when_the_one_before_is_acknowledged(self) -> None:
        """However much room there is."""
        async with self.opened() as transport:
            await transport.store(*events(4, "k"))
            async with self.reading(transport, ordering="key") as reader:
                for number in range(4):
                    held = await reader.hold_one()
                    assert ids([held]) == [f"{number}"]
                    await reader.nothing(0.1)
                    await held.ack()

    @_ordered
    async def test_other_keys_go_on_meanwhile(self) -> None:
        """An order of keys is none of the whole."""
        first, *others = apart(4)
        async with self.opened() as transport:
            await transport.store(first, *others)
            async with self.reading(transport, ordering="key") as reader:
                assert {*ids(await reader.hold(4))} == {each.id for each in (first, *others)}

    @_ordered
    async def test_an_event_that_is_put_back_comes_before_its_successors(self) -> None:
        """Also when it is put back several times, with and without a delay."""
        async with self.opened() as transport:
            await transport.store(*events(3, "k"))
            async with self.reading(transport, ordering="key") as reader:
                for delay in (0, 0.3, 0):
                    held = await reader.hold_one()
                    assert ids([held]) == ["0"]
                    await held.nak(delay)
                assert await reader.take_ids(3) == ["0", "1", "2"]

    @_ordered
    async def test_what_is_terminated_lets_the_next_one_come(self) -> None:
        """It is parked, and so are its successors, which therefore have to come."""
        async with self.opened() as transport:
            await transport.store(*events(2, "k"))
            async with self.reading(transport, ordering="key") as reader:
                await (await reader.hold_one()).term("parked")
                assert await reader.take_ids() == ["1"]

    @_ordered
    async def test_what_was_not_acknowledged_in_time_comes_again_before_its_successors(self) -> None:
        """A handler that hangs is not overtaken."""
        async with self.opened() as transport:
            await transport.store(*events(2, "k"))
            async with self.reading(transport, ordering="key", ack_wait=0.5) as reader:
                await reader.hold()
                assert await reader.take_ids(2) == ["0", "1"]

    @_ordered
    async def test_a_process_that_leaves_is_not_overtaken_by_the_others(self) -> None:
        """What it had at hand comes to another process first, then what follows."""
        async with self.opened() as transport, AsyncExitStack() as leaving:
            await transport.store(*events(3, "k"))
            holder = await leaving.enter_async_context(self.reading(transport, ordering="key", ack_wait=1.0))
            await holder.hold()
            async with self.reading(transport, ordering="key", ack_wait=1.0) as reader:
                await reader.nothing()
                await leaving.aclose()
                assert await reader.take_ids(3) == ["0", "1", "2"]

    @_ordered
    async def test_all_processes_of_a_group_together_have_one_delivery_of_a_key(self) -> None:
        """The order holds across the instances of an application."""
        seen: list[str] = []
        at_work: set[str] = set()
        overlaps: list[str] = []

        async def work(reader: Reader) -> None:
            while len(seen) < 40:
                held = await reader.hold_one()
                (name,) = ids([held])
                overlaps.extend(at_work)
                at_work.add(name)
                await asyncio.sleep(0.002)
                at_work.discard(name)
                seen.append(name)
                await held.ack()

        async with self.opened() as transport:
            await transport.store(*events(40, "k"))
            async with self.reading(transport, ordering="key") as one, self.reading(transport, ordering="key") as two:
                working = {asyncio.ensure_future(work(reader)) for reader in (one, two)}
                await asyncio.wait(working, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
                for each in working:
                    each.cancel()
                await asyncio.wait(working)
        assert seen == [f"{n}" for n in range(40)]
        assert overlaps == []

    @_ordered
    async def test_failures_beside_each_other_keep_the_order_of_each_key(self) -> None:
        """Every third event fails once, in two processes."""
        sent = [event(f"{n}", f"k{n % 4}") for n in range(32)]
        failed: set[str] = set()
        done: list[str] = []

        async def work(reader: Reader) -> None:
            while len(done) < len(sent):
                held = await reader.hold_one()
                (name,) = ids([held])
                if int(name) % 3 == 0 and name not in failed:
                    failed.add(name)
                    await held.nak(0)
                else:
                    done.append(name)
                    await held.ack()

        async with self.opened() as transport:
            await transport.store(*sent)
            async with self.reading(transport, ordering="key") as one, self.reading(transport, ordering="key") as two:
                working = {asyncio.ensure_future(work(reader)) for reader in (one, two)}
                await asyncio.wait(working, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
                for each in working:
                    each.cancel()
                await asyncio.wait(working)
        for key in range(4):
            assert [one for one in done if int(one) % 4 == key] == [f"{n}" for n in range(key, 32, 4)]

    @_ordered
    async def test_a_group_does_not_change_its_ordering_unnoticed(self) -> None:
        """It is refused with a `GroupOrderingError`, on opening or in the log with no delivery; the group goes on."""
        other: Ordering = "none" if self.ordering == "key" else "key"
        async with self.opened() as transport:
            await transport.store(event("a"))
            async with self.reading(transport) as reader:
                await reader.take()
            try:
                async with self.reading(transport, ordering=other) as reader:
                    await transport.store(event("b"))
                    await reader.nothing(0.4)
            except GroupOrderingError:
                await transport.store(event("b"))
            async with self.reading(transport) as reader:
                assert await reader.take_ids() == ["b"]
