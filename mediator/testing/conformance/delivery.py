"""DeliveryConformance: what becomes of a `Delivery` that is acknowledged, put back, terminated, or none of these."""

import asyncio
from contextlib import AsyncExitStack

from mediator.testing.conformance.reader import ids
from mediator.testing.conformance.sample_events import apart, event, events, in_order
from mediator.testing.conformance.transport_suite import TransportSuite


class DeliveryConformance(TransportSuite):
    """Every event is delivered until it is settled, and how often is counted."""

    async def test_what_is_acknowledged_never_comes_again_to_its_group(self) -> None:
        """Neither when `ack_wait` is over, nor to another process, nor after opening again."""
        async with self.opened() as transport:
            await transport.store(*events(3))
            async with self.reading(transport, ack_wait=0.5) as reader:
                await reader.take(3)
                await reader.nothing(0.8)
            async with self.reading(transport, ack_wait=0.5) as reader:
                await reader.nothing(0.3)

    async def test_what_is_put_back_comes_again_with_the_next_attempt(self) -> None:
        """The broker counts, so that also a handler that kills its process comes to its limit."""
        async with self.opened() as transport:
            await transport.store(event("a"))
            async with self.reading(transport) as reader:
                first = await reader.hold_one()
                await first.nak(0)
                second = await reader.hold_one()
                await second.nak(0.05)
                (third,) = await reader.take()
            assert [each.attempt for each in (first, second, third)] == [1, 2, 3]
            assert ids([first, second, third]) == ["a", "a", "a"]
            assert (first.sequence, first.data) == (third.sequence, third.data)

    async def test_what_is_put_back_comes_no_sooner_than_it_was_asked_for(self) -> None:
        """The delay is the schedule of retries."""
        async with self.opened() as transport:
            await transport.store(event("a"))
            async with self.reading(transport) as reader:
                await (await reader.hold_one()).nak(0.6)
                await reader.nothing(0.4)
                assert await reader.take_ids() == ["a"]

    async def test_what_is_put_back_does_not_hold_up_events_of_other_partitions(self) -> None:
        """One event that fails for hours is no outage."""
        first, second = apart(2)
        async with self.opened() as transport:
            await transport.store(first)
            async with self.reading(transport) as reader:
                await (await reader.hold_one()).nak(30)
                await transport.store(second)
                assert await reader.take_ids() == [second.id]

    async def test_only_with_an_order_it_holds_up_those_of_its_key(self) -> None:
        """Without one, what follows goes on."""
        async with self.opened() as transport:
            await transport.store(event("a", "k"), event("b", "k"))
            async with self.reading(transport, prefetch=1) as reader:
                await (await reader.hold_one()).nak(1.0)
                assert await reader.take_ids(2) == (["a", "b"] if self.ordering == "key" else ["b", "a"])

    async def test_many_failures_do_not_stop_what_follows(self) -> None:
        """All take effect in the end; with an ordering, those of a key in their order."""
        sent = [event(f"{n}", f"k{n % 5}") for n in range(40)]
        failed: set[str] = set()
        done: list[str] = []
        async with self.opened() as transport:
            await transport.store(*sent)
            async with self.reading(transport) as reader:
                while len(done) < len(sent):
                    delivery = await reader.hold_one()
                    (name,) = ids([delivery])
                    if int(name) % 4 == 0 and name not in failed:
                        failed.add(name)
                        await delivery.nak(0)
                    else:
                        done.append(name)
                        await delivery.ack()
        assert sorted(done, key=int) == [each.id for each in sent]
        assert self.ordering == "none" or in_order(done, sent)

    async def test_what_one_group_puts_back_is_no_attempt_of_another(self) -> None:
        """Attempts are counted for each group."""
        async with self.opened() as transport:
            await transport.store(event("a"))
            async with self.reading(transport, "one") as reader:
                await (await reader.hold_one()).nak(0)
                assert (await reader.take())[0].attempt == 2
            async with self.reading(transport, "two") as reader:
                assert (await reader.take())[0].attempt == 1

    async def test_attempts_are_counted_across_the_processes_of_a_group(self) -> None:
        """A process that fails and stops does not begin the count anew."""
        attempts: list[int] = []
        async with self.opened() as transport:
            await transport.store(event("a"))
            for _ in range(3):
                async with self.reading(transport) as reader:
                    delivery = await reader.hold_one()
                    attempts.append(delivery.attempt)
                    await delivery.nak(0)
        assert attempts == sorted(set(attempts))
        assert attempts[0] == 1

    async def test_a_terminated_delivery_never_comes_again_to_its_group(self) -> None:
        """It is parked, and other groups still receive it. The reason is any text, of any length."""
        async with self.opened() as transport:
            await transport.store(event("a", "k"), event("b", "k"))
            async with self.reading(transport, ack_wait=0.5) as reader:
                await (await reader.hold_one()).term("it cannot be read:\n" + "\x1b[31m" * 500)
                await (await reader.hold_one()).nak(0.8)  # by then the first would be back
                assert await reader.take_ids() == ["b"]
            async with self.reading(transport, "other") as reader:
                assert await reader.take_ids(2) == ["a", "b"]

    async def test_settling_makes_room_whichever_way(self) -> None:
        """What was terminated or put back counts no longer for `prefetch`."""
        async with self.opened() as transport:
            await transport.store(*apart(4))
            async with self.reading(transport, prefetch=1) as reader:
                await (await reader.hold_one()).term("parked")
                await (await reader.hold_one()).nak(30)
                await (await reader.hold_one()).ack()
                assert len(await reader.take()) == 1

    async def test_settling_a_delivery_twice_does_nothing(self) -> None:
        """What is acknowledged stays so."""
        async with self.opened() as transport:
            await transport.store(event("a", "k"), event("b", "k"))
            async with self.reading(transport) as reader:
                (first,) = await reader.take()
                await first.ack()
                await first.nak(0)
                await first.term("late")
                await first.in_progress()
                assert await reader.take_ids() == ["b"]
                await reader.nothing()

    async def test_what_is_not_acknowledged_in_time_comes_again(self) -> None:
        """The process may be dead, or hang."""
        async with self.opened() as transport:
            await transport.store(event("a"))
            async with self.reading(transport, ack_wait=0.5) as reader:
                await reader.hold()
                (again,) = await reader.take()
            assert ids([again]) == ["a"]
            assert again.attempt == 2

    async def test_what_is_in_progress_does_not_come_again_meanwhile(self) -> None:
        """A handler may take longer than `ack_wait`, as long as its process says that it lives."""
        async with self.opened() as transport:
            await transport.store(event("a"))
            async with self.reading(transport, ack_wait=2.0) as reader:
                held = await reader.hold_one()
                for _ in range(7):
                    await reader.nothing(0.4)
                    await held.in_progress()
                await held.ack()
                await reader.nothing(2.4)

    async def test_what_was_not_acknowledged_is_delivered_to_the_next_of_the_group(self) -> None:
        """A process that leaves with deliveries at hand loses none."""
        async with self.opened() as transport:
            await transport.store(event("a"), event("b"))
            async with self.reading(transport, ack_wait=1.0) as reader:
                await reader.hold()
            async with self.reading(transport, ack_wait=1.0) as reader:
                assert sorted(await reader.take_ids(2)) == ["a", "b"]

    async def test_what_a_process_holds_unread_goes_to_the_others_when_it_leaves(self) -> None:
        """At once, not after `ack_wait`."""
        async with self.opened() as transport, AsyncExitStack() as leaving:
            await transport.store(*apart(8))
            greedy = await leaving.enter_async_context(self.reading(transport, prefetch=8, ack_wait=60.0))
            await greedy.take()
            async with self.reading(transport, prefetch=8, ack_wait=60.0) as reader:
                await leaving.aclose()
                assert len({*await reader.take_ids(7)}) == 7

    async def test_deliveries_are_settled_in_any_order(self) -> None:
        """Handlers run beside each other, and the last may be done first."""
        async with self.opened() as transport:
            await transport.store(*apart(8))
            async with self.reading(transport, ack_wait=2.0) as reader:
                held = await reader.hold(8)
                await asyncio.gather(*(each.ack() for each in reversed(held)))
                await reader.nothing(2.4)
