"""BrokerOutageConformance: how subscriptions get through an outage of the broker."""

import asyncio
from contextlib import AsyncExitStack

from mediator.testing.conformance.reader import ids
from mediator.testing.conformance.sample_events import event, events
from mediator.testing.conformance.suite import needs
from mediator.testing.conformance.transport_capability import TransportCapability
from mediator.testing.conformance.transport_suite import TransportSuite

_BOUND = 20.0

_during_outages = needs(TransportCapability.OUTAGE)


class BrokerOutageConformance(TransportSuite):
    """An outage is waited out; nothing is lost, and nobody has to open again."""

    @_during_outages
    async def test_a_subscription_outlives_an_outage(self) -> None:
        """Who waits is served afterwards."""
        async with self.opened() as transport, self.reading(transport, ack_wait=1.0) as reader:
            assert transport.outage is not None
            await transport.store(event("a", "k"))
            await reader.take()
            waiting = asyncio.ensure_future(reader.take())
            await asyncio.sleep(0)
            async with transport.outage():
                assert not (await asyncio.wait({waiting}, timeout=0.2))[0]
            await transport.store(event("b", "k"))
            taken = ids(await waiting)
            while taken[-1] != "b":  # "a" comes again when its acknowledgement was lost
                taken += await reader.take_ids()

    @_during_outages
    async def test_a_subscription_can_be_opened_during_an_outage(self) -> None:
        """An application starts although its broker is away."""
        async with self.opened() as transport, AsyncExitStack() as opened:
            assert transport.outage is not None
            await transport.store(event("a"))
            async with transport.outage(), asyncio.timeout(_BOUND):
                reader = await opened.enter_async_context(self.reading(transport))
            assert await reader.take_ids() == ["a"]

    @_during_outages
    async def test_a_subscription_can_be_left_during_an_outage(self) -> None:
        """An application stops, within a bounded time, although its broker is away."""
        async with self.opened() as transport, AsyncExitStack() as opened:
            assert transport.outage is not None
            await transport.store(*events(3))
            reader = await opened.enter_async_context(self.reading(transport, ack_wait=1.0))
            await reader.take()
            async with transport.outage(), asyncio.timeout(_BOUND):
                await opened.aclose()
            async with self.reading(transport, ack_wait=1.0) as reader:
                taken = await reader.take_ids(2)
                if "0" in taken:  # its acknowledgement was lost
                    taken += await reader.take_ids()
                assert {"1", "2"} <= {*taken}

    @_during_outages
    async def test_settling_during_an_outage_raises_nothing_and_what_is_lost_comes_again(self) -> None:
        """The event took effect, so the handler must not fail; a second delivery is the inbox's matter."""
        async with self.opened() as transport, self.reading(transport, ack_wait=1.0) as reader:
            assert transport.outage is not None
            await transport.store(*events(3, "k"))
            held = await reader.hold_one()
            async with transport.outage(), asyncio.timeout(_BOUND):
                await held.in_progress()
                await held.ack()
            taken: list[str] = []
            while not {"1", "2"} <= {*taken}:
                taken += await reader.take_ids()
            assert [one for one in taken if one != "0"] == ["1", "2"]

    @_during_outages
    async def test_what_was_stored_before_an_outage_is_there_afterwards(self) -> None:
        """An event that was acknowledged to its publisher is on the disk."""
        async with self.opened() as transport:
            assert transport.outage is not None
            await transport.store(*events(20, "k"))
            async with transport.outage():
                pass
            async with self.reading(transport) as reader:
                assert await reader.take_ids(20) == [f"{n}" for n in range(20)]

    @_during_outages
    async def test_the_progress_of_a_group_outlives_an_outage(self) -> None:
        """What it took long before does not come again."""
        async with self.opened() as transport:
            assert transport.outage is not None
            await transport.store(*events(3, "k"))
            async with self.reading(transport, ack_wait=1.0) as reader:
                await reader.take(2)
            await asyncio.sleep(0.5)
            async with transport.outage():
                pass
            async with self.reading(transport, ack_wait=1.0) as reader:
                taken = await reader.take_ids()
                while taken[-1] != "2":  # acknowledgements are not durable at once
                    taken += await reader.take_ids()
                await reader.nothing()
