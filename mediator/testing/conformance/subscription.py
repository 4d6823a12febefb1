"""SubscriptionConformance: what `EventSubscription` promises of groups, of their members, and of event types."""

import asyncio
from datetime import UTC, datetime

from mediator.errors import EventNotDecodableError
from mediator.testing.conformance.failing import failing
from mediator.testing.conformance.reader import Reader, ids
from mediator.testing.conformance.sample_events import TYPE, apart, event, events, in_order
from mediator.testing.conformance.suite import needs
from mediator.testing.conformance.transport import TransportUnderTest
from mediator.testing.conformance.transport_capability import TransportCapability
from mediator.testing.conformance.transport_suite import TransportSuite


class SubscriptionConformance(TransportSuite):
    """Who gets which events, from where on, and how many at a time."""

    async def test_a_group_that_subscribes_late_receives_what_was_published_before(self) -> None:
        """A new group begins with the first event that the broker has."""
        async with self.opened() as transport:
            await transport.store(event("a", "k"))
            async with self.reading(transport, "first") as reader:
                await reader.take()
            await transport.store(event("b", "k"))
            async with self.reading(transport, "late") as reader:
                assert await reader.take_ids(2) == ["a", "b"]

    async def test_a_group_may_subscribe_before_anything_was_published(self) -> None:
        """A consumer may be deployed before the application whose events it takes."""
        async with self.opened() as transport, self.reading(transport) as reader:
            await reader.nothing()
            await transport.store(event("a"))
            assert await reader.take_ids() == ["a"]

    @needs(TransportCapability.START_POSITION)
    async def test_a_new_group_may_begin_with_new_events(self) -> None:
        """What was stored before it opened is passed over; when it opens again, it goes on where it was."""
        async with self.opened() as transport:
            await transport.store(event("old", "k"))
            async with self.reading(transport, start="new") as reader:
                taking, stored = asyncio.ensure_future(reader.take_ids()), 0
                while not taking.done():  # who begins takes a moment, and what was stored before that is not new
                    await transport.store(event(f"{stored}", "k"))
                    stored += 1
                    await asyncio.wait({taking}, timeout=0.3)
                first = (await taking)[0]
                assert first != "old"
                rest = [f"{number}" for number in range(int(first) + 1, stored)]
                assert await reader.take_ids(len(rest)) == rest
            await transport.store(event("meanwhile", "k"))
            async with self.reading(transport, start="new") as reader:
                assert await reader.take_ids() == ["meanwhile"]

    @needs(TransportCapability.START_POSITION)
    async def test_a_new_group_may_begin_at_a_time(self) -> None:
        """It receives what was stored since."""
        async with self.opened() as transport:
            await transport.store(event("old", "k"))
            since = await _later()
            await transport.store(event("late", "k"))
            async with self.reading(transport, start=since) as reader:
                assert await reader.take_ids() == ["late"]
                await reader.nothing()

    async def test_each_group_has_its_own_progress_and_goes_on_where_it_was(self) -> None:
        """What one group acknowledged is not gone for another."""
        async with self.opened() as transport:
            await transport.store(event("a", "k"), event("b", "k"))
            async with self.reading(transport, "one") as reader:
                assert await reader.take_ids() == ["a"]
            async with self.reading(transport, "two") as reader:
                assert await reader.take_ids(2) == ["a", "b"]
            async with self.reading(transport, "one") as reader:
                assert await reader.take_ids() == ["b"]
                await reader.nothing()

    async def test_groups_at_the_same_time_all_receive_everything(self) -> None:
        """Groups do not compete."""
        async with self.opened() as transport:
            async with self.reading(transport, "one") as one, self.reading(transport, "two") as two:
                await transport.store(*events(20, "k"))
                received = await asyncio.gather(one.take_ids(20), two.take_ids(20))
            assert list(received) == [[f"{n}" for n in range(20)]] * 2

    async def test_members_of_a_group_share_the_events_out(self) -> None:
        """Two processes of a group hold different events."""
        async with (
            self.opened() as transport,
            self.reading(transport, prefetch=1) as one,
            self.reading(transport, prefetch=1) as two,
        ):
            await transport.store(*apart(2))
            held = [await one.hold_one(), await two.hold_one()]
            assert sorted(ids(held)) == sorted(each.id for each in apart(2))

    async def test_competing_members_take_each_event_once(self) -> None:
        """However many processes a group has, an event that is acknowledged comes to one of them."""
        sent = [event(f"{n}", f"k{n % 9}") for n in range(150)]
        taken: list[str] = []
        all_taken = asyncio.Event()

        async def work(reader: Reader) -> None:
            while True:
                delivery = await reader.hold_one()
                taken.extend(ids([delivery]))
                await delivery.ack()
                if len(taken) >= len(sent):
                    all_taken.set()

        async with self.opened() as transport:
            async with self.reading(transport) as one, self.reading(transport) as two, self.reading(transport) as three:
                working = [asyncio.ensure_future(work(reader)) for reader in (one, two, three)]
                await transport.store(*sent)
                await asyncio.wait(
                    {asyncio.ensure_future(all_taken.wait()), *working},
                    timeout=self.patience,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for each in working:
                    each.cancel()
                await asyncio.wait(working)
            assert sorted(taken, key=int) == [each.id for each in sent]
            assert self.ordering == "none" or in_order(taken, sent)

    async def test_workers_of_one_subscription_take_each_event_once(self) -> None:
        """`next` may be awaited by several tasks."""
        async with self.opened() as transport, self.reading(transport) as reader:
            await transport.store(*events(60))
            taken = await asyncio.gather(*(reader.take_ids(15) for _ in range(4)))
            assert sorted((one for each in taken for one in each), key=int) == [f"{n}" for n in range(60)]

    async def test_only_the_types_that_were_asked_for_are_delivered_in_every_version(self) -> None:
        """Others, be their names longer or shorter by a word, are not."""
        others = ["shop.order-lost.v1", f"{TYPE}-late.v1", "shop.order.v1", "other-shop.order-placed.v1"]
        async with self.opened() as transport:
            for number, event_type in enumerate(others):
                await transport.store(event(f"x{number}", "k", event_type=event_type))
            await transport.store(event("a", "k"), event("b", "k", event_type=f"{TYPE}.v2"))
            async with self.reading(transport) as reader:
                assert await reader.take_ids(2) == ["a", "b"]
                await reader.nothing()

    async def test_one_subscription_may_have_types_of_several_contexts(self) -> None:
        """The contexts may be of several applications."""
        async with self.opened() as transport:
            await transport.store(event("a"), event("b", event_type="store.filled.v1"))
            async with self.reading(transport, types=(TYPE, "store.filled")) as reader:
                assert sorted(await reader.take_ids(2)) == ["a", "b"]

    async def test_a_type_that_a_group_asks_for_later_is_delivered_from_then_on(self) -> None:
        """A new version of an application handles more types under the same group."""
        lost = "shop.order-lost"
        async with self.opened() as transport:
            await transport.store(event("a", "k"))
            async with self.reading(transport) as reader:
                await reader.take()
            async with self.reading(transport, types=(TYPE, lost)) as reader:
                waiting = asyncio.ensure_future(reader.take())
                for number in range(50):  # until the broker knows of it; what is stored before may be passed over
                    await transport.store(event(f"b{number}", "k", event_type=f"{lost}.v1"))
                    if (await asyncio.wait({waiting}, timeout=0.1))[0]:
                        break
                (taken,) = await waiting
            assert taken.event is not None
            assert taken.event.type == f"{lost}.v1"

    async def test_no_more_than_prefetch_are_handed_over_unacknowledged(self) -> None:
        """An acknowledgement makes room for one."""
        async with self.opened() as transport:
            await transport.store(*apart(3))
            async with self.reading(transport, prefetch=2) as reader:
                first, second = await reader.hold(2)
                await reader.nothing()
                await first.ack()
                third = await reader.hold_one()
            assert {*ids([first, second, third])} == {each.id for each in apart(3)}

    async def test_a_prefetch_of_one_takes_everything_in(self) -> None:
        """The smallest bound is none on what comes in the end."""
        async with self.opened() as transport:
            await transport.store(*events(40))
            async with self.reading(transport, prefetch=1) as reader:
                assert sorted(await reader.take_ids(40), key=int) == [f"{n}" for n in range(40)]

    async def test_what_is_published_while_somebody_waits_is_delivered_at_once(self) -> None:
        """Waiting is no polling with long pauses."""
        async with self.opened() as transport, self.reading(transport) as reader:
            waiting = asyncio.ensure_future(reader.take_ids())
            await transport.store(event("a"))
            assert await waiting == ["a"]

    async def test_waiting_can_be_cancelled_and_loses_nothing(self) -> None:
        """A consumer that stops cancels its wait."""
        async with self.opened() as transport, self.reading(transport) as reader:
            await reader.nothing(0.05)
            await transport.store(event("a"))
            assert await reader.take_ids() == ["a"]

    async def test_a_group_that_closes_and_opens_again_goes_on(self) -> None:
        """What was prefetched and not read is handed back on leaving, and nothing is lost or taken twice."""
        async with self.opened() as transport:
            await transport.store(*(event(f"{n}", f"k{n % 4}") for n in range(30)))
            taken: list[str] = []
            for _ in range(6):
                async with self.reading(transport) as reader:
                    taken += await reader.take_ids(5)
            assert sorted(taken, key=int) == [f"{n}" for n in range(30)]

    async def test_members_may_come_and_go_at_the_same_time(self) -> None:
        """A deployment starts and stops all processes of a group at once."""

        async def visit(transport: TransportUnderTest) -> None:
            async with self.reading(transport, prefetch=2):
                await asyncio.sleep(0)

        async with self.opened() as transport:
            await transport.store(*events(10))
            async with asyncio.timeout(20):
                await asyncio.gather(*(visit(transport) for _ in range(8)))
            async with self.reading(transport) as reader:
                assert sorted(await reader.take_ids(10), key=int) == [f"{n}" for n in range(10)]

    async def test_leaving_on_an_error_or_a_cancellation_hands_back_what_waits(self) -> None:
        """The others of the group need not wait until `ack_wait` is over."""
        async with self.opened() as transport:
            await transport.store(*apart(6))
            for error in (RuntimeError, asyncio.CancelledError):
                with failing(error):
                    async with self.reading(transport, ack_wait=60.0) as reader:
                        await (await reader.hold_one()).nak(0)
                        raise error
            async with self.reading(transport, ack_wait=60.0) as reader:
                assert sorted(await reader.take_ids(6)) == sorted(each.id for each in apart(6))

    async def test_a_delivery_tells_where_it_comes_from(self) -> None:
        """Its place in the stream, its subject, its partition and the time of storing, all for logs and parking."""
        sent = [event(f"{n}", f"key {n}") for n in range(3)]
        async with self.opened() as transport:
            await transport.store(*sent)
            async with self.reading(transport) as reader:
                taken = {ids([each])[0]: each for each in await reader.take(3)}
        in_stream = [taken[each.id] for each in sent]
        assert [(each.attempt, each.problem, each.data) for each in in_stream] == [(1, "", b"1")] * 3
        assert [each.sequence for each in in_stream] == sorted({each.sequence for each in in_stream})
        assert all(each.subject and each.headers for each in in_stream)
        assert all(abs((datetime.now(UTC) - each.stored_at).total_seconds()) < 60 for each in in_stream)

    async def test_what_was_kept_of_a_delivery_can_be_read_again(self) -> None:
        """A parked event is replayed from its headers and its body."""
        async with self.opened() as transport:
            await transport.store(event("a", "k\n"))
            async with self.reading(transport) as reader:
                (taken,) = await reader.take()
            headers, stored_at = dict(taken.headers), taken.stored_at
            subscription = transport.subscribe("group")
            assert subscription.read(headers, taken.data, fallback_id="?", stored_at=stored_at) == taken.event
            with failing(EventNotDecodableError):
                subscription.read({}, b"no event", fallback_id="?", stored_at=stored_at)


async def _later() -> datetime:
    """A time that is after all that was stored until now, and before what is stored next."""
    await asyncio.sleep(0.01)
    since = datetime.now(UTC)
    await asyncio.sleep(0.01)
    return since
