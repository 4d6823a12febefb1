"""SubscriptionConformance: the promises of `EventSubscription` as test cases, a class for each family of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Delivery, Ordering
from mediator.errors import EventNotDecodableError, GroupOrderingError, StreamMismatchError
from mediator.testing.conformance.suite import failing, needs
from mediator.testing.conformance.transport import (
    TYPE,
    Reader,
    TransportCapability,
    TransportSuite,
    TransportUnderTest,
    apart,
    event,
    events,
    ids,
    in_order,
)


class SubscriptionConformance(TransportSuite):
    """The promises about the events that a group gets, its starting point, and the number of events at a time."""

    async def test_a_group_that_subscribes_late_receives_what_was_published_before(self) -> None:
        """A new group begins with the first event that the broker has."""
        async with self.holding(event("a", "k")) as transport:
            async with self.reading(transport, "first") as reader:
                await reader.take()
            await transport.store(event("b", "k"))
            async with self.reading(transport, "late") as reader:
                assert await reader.take_ids(2) == ["a", "b"]

    async def test_a_group_may_subscribe_before_anything_was_published(self) -> None:
        """A consumer may be deployed before the application whose events it receives. A wait can be cancelled."""
        async with self.opened() as transport, self.reading(transport) as reader:
            await reader.nothing()
            await transport.store(event("a"))
            assert await reader.take_ids() == ["a"]

    @needs(TransportCapability.START_POSITION)
    async def test_a_new_group_may_begin_with_new_events(self) -> None:
        """Events stored before it first opens are skipped. When it opens again, it continues where it was."""
        async with self.holding(event("old", "k")) as transport:
            async with self.reading(transport, start="new") as reader:
                taking, stored = asyncio.ensure_future(reader.take_ids()), 0
                while not taking.done():  # a group takes a moment to begin, and events stored before are not new
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
        """It receives the events stored since that time."""
        async with self.holding(event("old", "k")) as transport:
            since = await _later()
            await transport.store(event("late", "k"))
            async with self.reading(transport, start=since) as reader:
                assert await reader.take_ids() == ["late"]
                await reader.nothing()

    async def test_each_group_has_its_own_progress_and_goes_on_where_it_was(self) -> None:
        """An event that one group has acknowledged is still delivered to another."""
        async with self.holding(event("a", "k"), event("b", "k")) as transport:
            async with self.reading(transport, "one") as reader:
                assert await reader.take_ids() == ["a"]
            async with self.reading(transport, "two") as reader:
                assert await reader.take_ids(2) == ["a", "b"]
            async with self.reading(transport, "one") as reader:
                assert await reader.take_ids() == ["b"]
                await reader.nothing()

    async def test_groups_at_the_same_time_all_receive_everything(self) -> None:
        """Groups do not compete for events."""
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

    @needs(TransportCapability.GROUP_OWNER)
    async def test_a_group_is_of_one_application_and_another_one_under_its_name_gets_nothing(self) -> None:
        """Otherwise two applications would share the events out between them. The second one is refused, or waits."""
        async with self.holding(event("first", "k")) as transport:
            ours, theirs = transport.subscribe("group"), transport.subscribe("group")
            ours.use_application("billing")
            theirs.use_application("shipping")
            async with ours.open((TYPE,), prefetch=1, ordering=self.ordering) as deliveries:
                reader = Reader(deliveries, self.patience)
                assert await reader.take_ids() == ["first"]
                await transport.store(*apart(4))
                with suppress(StreamMismatchError):
                    async with theirs.open((TYPE,), prefetch=1, ordering=self.ordering) as refused:
                        await Reader(refused, self.patience).nothing()
                assert sorted(await reader.take_ids(4)) == sorted(each.id for each in apart(4))

    async def test_competing_members_take_each_event_once(self) -> None:
        """However many processes a group has, only one of them gets an event that is then acknowledged."""
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
        """Several tasks may await `next` at the same time."""
        async with self.opened() as transport, self.reading(transport) as reader:
            await transport.store(*events(60))
            taken = await asyncio.gather(*(reader.take_ids(15) for _ in range(4)))
            assert sorted((one for each in taken for one in each), key=int) == [f"{n}" for n in range(60)]

    async def test_only_the_types_that_were_asked_for_are_delivered_in_every_version(self) -> None:
        """Other types are not delivered, even if their names differ only by a word more or less."""
        others = ["shop.order-lost.v1", f"{TYPE}-late.v1", "shop.order.v1", "other-shop.order-placed.v1"]
        async with self.opened() as transport:
            for number, event_type in enumerate(others):
                await transport.store(event(f"x{number}", "k", event_type=event_type))
            await transport.store(event("a", "k"), event("b", "k", event_type=f"{TYPE}.v2"))
            async with self.reading(transport) as reader:
                assert await reader.take_ids(2) == ["a", "b"]
                await reader.nothing()

    async def test_one_subscription_may_have_types_of_several_domains(self) -> None:
        """The domains may belong to several applications."""
        async with self.reading_of(
            event("a"), event("b", event_type="store.filled.v1"), types=(TYPE, "store.filled")
        ) as reader:
            assert sorted(await reader.take_ids(2)) == ["a", "b"]

    async def test_a_type_that_a_group_asks_for_later_is_delivered_from_then_on(self) -> None:
        """A new version of an application handles more types under the same group."""
        lost = "shop.order-lost"
        async with self.holding(event("a", "k")) as transport:
            async with self.reading(transport) as reader:
                await reader.take()
            async with self.reading(transport, types=(TYPE, lost)) as reader:
                waiting = asyncio.ensure_future(reader.take())
                for number in range(50):  # until the broker knows the new type; earlier events of it may be skipped
                    await transport.store(event(f"b{number}", "k", event_type=f"{lost}.v1"))
                    if (await asyncio.wait({waiting}, timeout=0.1))[0]:
                        break
                (taken,) = await waiting
            assert taken.event is not None
            assert taken.event.type == f"{lost}.v1"

    async def test_no_more_than_prefetch_are_handed_over_unacknowledged(self) -> None:
        """Each acknowledgement makes room for one more delivery."""
        async with self.reading_of(*apart(3), prefetch=2) as reader:
            first, second = await reader.hold(2)
            await reader.nothing()
            await first.ack()
            third = await reader.hold_one()
        assert {*ids([first, second, third])} == {each.id for each in apart(3)}

    async def test_a_prefetch_of_one_takes_everything_in(self) -> None:
        """Even with the smallest bound, all events arrive in the end."""
        async with self.reading_of(*events(40), prefetch=1) as reader:
            assert sorted(await reader.take_ids(40), key=int) == [f"{n}" for n in range(40)]

    async def test_what_is_published_while_somebody_waits_is_delivered_at_once(self) -> None:
        """Waiting does not poll with long pauses."""
        async with self.opened() as transport, self.reading(transport) as reader:
            waiting = asyncio.ensure_future(reader.take_ids())
            await transport.store(event("a"))
            assert await waiting == ["a"]

    async def test_a_group_that_closes_and_opens_again_goes_on(self) -> None:
        """On leaving, prefetched deliveries that were not read are handed back. Nothing is lost or taken twice."""
        async with self.holding(*(event(f"{n}", f"k{n % 4}") for n in range(30))) as transport:
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

        async with self.holding(*events(10)) as transport:
            async with asyncio.timeout(20):
                await asyncio.gather(*(visit(transport) for _ in range(8)))
            async with self.reading(transport) as reader:
                assert sorted(await reader.take_ids(10), key=int) == [f"{n}" for n in range(10)]

    async def test_leaving_on_an_error_or_a_cancellation_hands_back_what_waits(self) -> None:
        """The other processes of the group need not wait until `ack_wait` is over."""
        async with self.holding(*apart(6)) as transport:
            for error in (RuntimeError, asyncio.CancelledError):
                with failing(error):
                    async with self.reading(transport, ack_wait=60.0) as reader:
                        await (await reader.hold_one()).nak(0)
                        raise error
            async with self.reading(transport, ack_wait=60.0) as reader:
                assert sorted(await reader.take_ids(6)) == sorted(each.id for each in apart(6))

    async def test_a_delivery_tells_where_it_comes_from(self) -> None:
        """It has its place in the stream, its subject, its partition and the time of storing, for logs and parking."""
        sent = [event(f"{n}", f"key {n}") for n in range(3)]
        async with self.reading_of(*sent) as reader:
            taken = {ids([each])[0]: each for each in await reader.take(3)}
        in_stream = [taken[each.id] for each in sent]
        assert [(each.attempt, each.problem, each.data) for each in in_stream] == [(1, "", b"1")] * 3
        assert [each.sequence for each in in_stream] == sorted({each.sequence for each in in_stream})
        assert all(f".{TYPE}." in each.subject and each.headers for each in in_stream)
        assert all(abs((datetime.now(UTC) - each.stored_at).total_seconds()) < 60 for each in in_stream)

    async def test_what_was_kept_of_a_delivery_can_be_read_again(self) -> None:
        """A parked event is replayed from its headers and its body."""
        async with self.holding(event("a", "k\n")) as transport:
            async with self.reading(transport) as reader:
                (taken,) = await reader.take()
            headers, stored_at = dict(taken.headers), taken.stored_at
            subscription = transport.subscribe("group")
            assert subscription.read(headers, taken.data, fallback_id="?", stored_at=stored_at) == taken.event
            with failing(EventNotDecodableError):
                subscription.read({}, b"no event", fallback_id="?", stored_at=stored_at)


async def _later() -> datetime:
    """Return a time after everything that was stored until now, and before everything that is stored next."""
    await asyncio.sleep(0.01)
    since = datetime.now(UTC)
    await asyncio.sleep(0.01)
    return since


class DeliveryConformance(TransportSuite):
    """Every event is delivered until it is settled, and its deliveries are counted."""

    async def test_what_is_acknowledged_never_comes_again_to_its_group(self) -> None:
        """It comes neither after `ack_wait`, nor to another process, nor after opening again."""
        async with self.holding(*events(3)) as transport:
            async with self.reading(transport, ack_wait=0.5) as reader:
                await reader.take(3)
                await reader.nothing(0.8)
            async with self.reading(transport, ack_wait=0.5) as reader:
                await reader.nothing(0.3)

    async def test_what_is_put_back_comes_again_with_the_next_attempt(self) -> None:
        """The broker counts, so that a handler that kills its process reaches its limit too."""
        async with self.reading_of(event("a")) as reader:
            first = await reader.hold_one()
            await first.nak(0)
            second = await reader.hold_one()
            await second.nak(0.05)
            (third,) = await reader.take()
        assert [each.attempt for each in (first, second, third)] == [1, 2, 3]
        assert ids([first, second, third]) == ["a", "a", "a"]
        assert (first.sequence, first.data) == (third.sequence, third.data)

    async def test_what_is_put_back_comes_no_sooner_than_it_was_asked_for(self) -> None:
        """The retry schedule depends on this delay."""
        async with self.reading_of(event("a")) as reader:
            await (await reader.hold_one()).nak(0.6)
            await reader.nothing(0.4)
            assert await reader.take_ids() == ["a"]

    async def test_what_is_put_back_does_not_hold_up_events_of_other_partitions(self) -> None:
        """One event that fails for hours must not stop the others."""
        first, second = apart(2)
        async with self.holding(first) as transport, self.reading(transport) as reader:
            await (await reader.hold_one()).nak(30)
            await transport.store(second)
            assert await reader.take_ids() == [second.id]

    async def test_only_with_an_order_it_holds_up_those_of_its_key(self) -> None:
        """Without an ordering, later events of the key are delivered meanwhile."""
        async with self.reading_of(event("a", "k"), event("b", "k"), prefetch=1) as reader:
            await (await reader.hold_one()).nak(1.0)
            assert await reader.take_ids(2) == (["a", "b"] if self.ordering == "key" else ["b", "a"])

    async def test_many_failures_do_not_stop_what_follows(self) -> None:
        """All events take effect in the end. With an ordering, the events of each key do so in their order."""
        sent = [event(f"{n}", f"k{n % 5}") for n in range(40)]
        failed: set[str] = set()
        done: list[str] = []
        async with self.reading_of(*sent) as reader:
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
        """Each group has its own count of attempts."""
        async with self.holding(event("a")) as transport:
            async with self.reading(transport, "one") as reader:
                await (await reader.hold_one()).nak(0)
                assert (await reader.take())[0].attempt == 2
            async with self.reading(transport, "two") as reader:
                assert (await reader.take())[0].attempt == 1

    async def test_attempts_are_counted_across_the_processes_of_a_group(self) -> None:
        """When a process fails and stops, the count does not begin again."""
        attempts: list[int] = []
        async with self.holding(event("a")) as transport:
            for _ in range(3):
                async with self.reading(transport) as reader:
                    delivery = await reader.hold_one()
                    attempts.append(delivery.attempt)
                    await delivery.nak(0)
        assert attempts == sorted(set(attempts))
        assert attempts[0] == 1

    async def test_a_terminated_delivery_never_comes_again_to_its_group(self) -> None:
        """It is parked, and other groups still receive it. The reason may be any text, of any length."""
        async with self.holding(event("a", "k"), event("b", "k")) as transport:
            async with self.reading(transport, ack_wait=0.5) as reader:
                await (await reader.hold_one()).term("it cannot be read:\n" + "\x1b[31m" * 500)
                await (await reader.hold_one()).nak(0.8)  # by then the first would be back
                assert await reader.take_ids() == ["b"]
            async with self.reading(transport, "other") as reader:
                assert await reader.take_ids(2) == ["a", "b"]

    async def test_settling_makes_room_whichever_way(self) -> None:
        """A terminated delivery, or one that was put back, no longer counts for `prefetch`."""
        async with self.reading_of(*apart(4), prefetch=1) as reader:
            await (await reader.hold_one()).term("parked")
            await (await reader.hold_one()).nak(30)
            await (await reader.hold_one()).ack()
            assert len(await reader.take()) == 1

    async def test_settling_a_delivery_twice_does_nothing(self) -> None:
        """An acknowledged event stays acknowledged."""
        async with self.reading_of(event("a", "k"), event("b", "k")) as reader:
            (first,) = await reader.take()
            await first.ack()
            await first.nak(0)
            await first.term("late")
            await first.in_progress()
            assert await reader.take_ids() == ["b"]
            await reader.nothing()

    async def test_what_is_not_acknowledged_in_time_comes_again(self) -> None:
        """Its process may be dead or hanging."""
        async with self.reading_of(event("a"), ack_wait=0.5) as reader:
            await reader.hold()
            (again,) = await reader.take()
        assert ids([again]) == ["a"]
        assert again.attempt == 2

    async def test_what_is_in_progress_does_not_come_again_meanwhile(self) -> None:
        """A handler may take longer than `ack_wait`, as long as its process reports that it is alive."""
        async with self.reading_of(event("a"), ack_wait=2.0) as reader:
            held = await reader.hold_one()
            for _ in range(7):
                await reader.nothing(0.4)
                await held.in_progress()
            await held.ack()
            await reader.nothing(2.4)

    async def test_what_was_not_acknowledged_is_delivered_to_the_next_of_the_group(self) -> None:
        """A process that leaves while it holds deliveries loses none."""
        async with self.holding(event("a"), event("b")) as transport:
            async with self.reading(transport, ack_wait=1.0) as reader:
                await reader.hold()
            async with self.reading(transport, ack_wait=1.0) as reader:
                assert sorted(await reader.take_ids(2)) == ["a", "b"]

    async def test_what_a_process_holds_unread_goes_to_the_others_when_it_leaves(self) -> None:
        """The other processes get these deliveries at once, not after `ack_wait`."""
        async with self.holding(*apart(8)) as transport, AsyncExitStack() as leaving:
            greedy = await leaving.enter_async_context(self.reading(transport, prefetch=8, ack_wait=60.0))
            await greedy.take()
            async with self.reading(transport, prefetch=8, ack_wait=60.0) as reader:
                await leaving.aclose()
                assert len({*await reader.take_ids(7)}) == 7

    async def test_deliveries_are_settled_in_any_order(self) -> None:
        """Handlers run concurrently, and the last one may be done first."""
        async with self.reading_of(*apart(8), ack_wait=2.0) as reader:
            held = await reader.hold(8)
            await asyncio.gather(*(each.ack() for each in reversed(held)))
            await reader.nothing(2.4)


_ordered = needs(TransportCapability.KEY_ORDERING)


class KeyOrderingConformance(TransportSuite):
    """Events of one key are delivered strictly one after the other, across all processes of a group, whatever fails."""

    @_ordered
    async def test_the_next_event_of_a_key_comes_when_the_one_before_is_acknowledged(self) -> None:
        """It comes no sooner, even when `prefetch` has room for more."""
        async with self.reading_of(*events(4, "k"), ordering="key") as reader:
            for number in range(4):
                held = await reader.hold_one()
                assert ids([held]) == [f"{number}"]
                await reader.nothing(0.1)
                await held.ack()

    @_ordered
    async def test_other_keys_go_on_meanwhile(self) -> None:
        """Events are ordered within a key, not across keys."""
        first, *others = apart(4)
        async with self.reading_of(first, *others, ordering="key") as reader:
            assert {*ids(await reader.hold(4))} == {each.id for each in (first, *others)}

    @_ordered
    async def test_an_event_that_is_put_back_comes_before_its_successors(self) -> None:
        """This holds when it is put back several times, with and without a delay."""
        async with self.reading_of(*events(3, "k"), ordering="key") as reader:
            for delay in (0, 0.3, 0):
                held = await reader.hold_one()
                assert ids([held]) == ["0"]
                await held.nak(delay)
            assert await reader.take_ids(3) == ["0", "1", "2"]

    @_ordered
    async def test_what_is_terminated_lets_the_next_one_come(self) -> None:
        """The terminated event is parked. Its successors are parked behind it, so they must be delivered."""
        async with self.reading_of(*events(2, "k"), ordering="key") as reader:
            await (await reader.hold_one()).term("parked")
            assert await reader.take_ids() == ["1"]

    @_ordered
    async def test_what_was_not_acknowledged_in_time_comes_again_before_its_successors(self) -> None:
        """No later event overtakes an event whose handler hangs."""
        async with self.reading_of(*events(2, "k"), ordering="key", ack_wait=0.5) as reader:
            await reader.hold()
            assert await reader.take_ids(2) == ["0", "1"]

    @_ordered
    async def test_a_process_that_leaves_is_not_overtaken_by_the_others(self) -> None:
        """The event that it held goes to another process first, and the later events after it."""
        async with self.holding(*events(3, "k")) as transport, AsyncExitStack() as leaving:
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

        await self._work_in_two_processes(events(40, "k"), work)
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

        await self._work_in_two_processes(sent, work)
        for key in range(4):
            assert [one for one in done if int(one) % 4 == key] == [f"{n}" for n in range(key, 32, 4)]

    async def _work_in_two_processes(self, sent: list[CloudEvent], work: Callable[[Reader], Awaitable[None]]) -> None:
        """Let two processes of a group work on the events until the first of them is done."""
        async with (
            self.holding(*sent) as transport,
            self.reading(transport, ordering="key") as one,
            self.reading(transport, ordering="key") as two,
        ):
            working = {asyncio.ensure_future(work(reader)) for reader in (one, two)}
            await asyncio.wait(working, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
            for each in working:
                each.cancel()
            await asyncio.wait(working)

    @_ordered
    async def test_a_group_does_not_change_its_ordering_unnoticed(self) -> None:
        """The other ordering is refused with a `GroupOrderingError`; the group itself goes on.

        The error is raised on opening, or it is logged and nothing is delivered.
        """
        other: Ordering = "none" if self.ordering == "key" else "key"
        async with self.holding(event("a")) as transport:
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


_ATTRIBUTES = {"specversion": "1.0", "id": "f1", "source": "legacy", "type": f"{TYPE}.v1"}

_STRUCTURED = {"content-type": "application/cloudevents+json"}

_foreign = needs(TransportCapability.FOREIGN_MESSAGES)


class ForeignMessagesConformance(TransportSuite):
    """An unreadable message is delivered whole, to be parked. It raises no error, and later messages are delivered."""

    @_foreign
    async def test_a_message_without_headers_is_delivered_as_no_event_with_its_problem(self) -> None:
        """`event` is None, `problem` says why, and the body is there as it came."""
        strange = await self._delivered({}, b"\xff no event")
        assert strange.problem
        assert strange.data == b"\xff no event"
        assert strange.attempt == 1
        assert strange.sequence > 0

    @_foreign
    async def test_what_follows_a_foreign_message_is_delivered(self) -> None:
        """This holds with an ordering too."""
        async with self.holding(event("a")) as transport:
            await transport.put(TYPE, {}, b"")
            await transport.store(event("b"))
            async with self.reading(transport) as reader:
                assert sorted(await reader.take_ids(3)) == ["", "a", "b"]

    @_foreign
    async def test_a_foreign_message_can_be_put_back_and_terminated(self) -> None:
        """A foreign message is settled like any other delivery."""
        async with self.holding(event("a")) as transport, self.reading(transport, ack_wait=0.5) as reader:
            await reader.take()
            await transport.put(TYPE, {}, b"?")
            await (await reader.hold_one()).nak(0)
            again = await reader.hold_one()
            assert again.attempt == 2
            await again.term("it is no event")
            await reader.nothing(0.8)

    @_foreign
    async def test_headers_come_as_they_were(self) -> None:
        """Headers that mean nothing to us are kept too."""
        strange = await self._delivered({"X-Legacy": "7"}, b"?")
        assert {name.lower(): value for name, value in strange.headers.items()}["x-legacy"] == "7"

    @_foreign
    async def test_a_structured_cloudevent_is_read(self) -> None:
        """Attributes and data come in one JSON document, as CloudEvents 1.0 defines it for every protocol."""
        document = {**_ATTRIBUTES, "datacontenttype": "application/json", "data": {"n": 1}}
        async with self.holding(event("a")) as transport:
            await transport.put(TYPE, _STRUCTURED, json.dumps(document).encode())
            async with self.reading(transport) as reader:
                found = {each.event.id: each.event for each in await reader.take(2) if each.event is not None}
            read = found["f1"]
            assert (read.source, read.type, json.loads(read.data)) == ("legacy", f"{TYPE}.v1", {"n": 1})

    @_foreign
    async def test_a_broken_cloudevent_has_a_problem(self) -> None:
        """Here the source is missing, without which nobody could detect duplicates of the event."""
        document = {name: value for name, value in _ATTRIBUTES.items() if name != "source"}
        assert (await self._delivered(_STRUCTURED, json.dumps(document).encode())).problem

    @_foreign
    async def test_of_a_broken_cloudevent_the_type_and_the_key_are_told(self) -> None:
        """With its key, the broken message can hold back the later events of that key."""
        document = _ATTRIBUTES | {"partitionkey": "k", "time": "tomorrow"}
        broken = (await self._delivered(_STRUCTURED, json.dumps(document).encode())).unreadable
        assert (broken.type, broken.partitionkey) == (f"{TYPE}.v1", "k")

    async def _delivered(self, headers: dict[str, str], data: bytes) -> Delivery:
        """Return the delivery of a message that is no event. It is stored behind an event, with which its stream begins."""
        async with self.holding(event("a")) as transport:
            await transport.put(TYPE, headers, data)
            async with self.reading(transport) as reader:
                (strange,) = [each for each in await reader.take(2) if each.event is None]
        return strange


_during_outages = needs(TransportCapability.OUTAGE)


class BrokerOutageConformance(TransportSuite):
    """A subscription waits until the outage is over. Nothing is lost, and nobody has to open the subscription again."""

    @_during_outages
    async def test_a_subscription_outlives_an_outage(self) -> None:
        """A reader that waits gets its delivery afterwards."""
        async with self.opened() as transport, self.reading(transport, ack_wait=1.0) as reader:
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
        async with self.holding(event("a")) as transport, AsyncExitStack() as opened:
            async with transport.outage(), asyncio.timeout(20):
                reader = await opened.enter_async_context(self.reading(transport))
            assert await reader.take_ids() == ["a"]

    @_during_outages
    async def test_a_subscription_can_be_left_during_an_outage(self) -> None:
        """An application stops within a bounded time although its broker is away."""
        async with self.holding(*events(3)) as transport, AsyncExitStack() as opened:
            reader = await opened.enter_async_context(self.reading(transport, ack_wait=1.0))
            await reader.take()
            async with transport.outage(), asyncio.timeout(20):
                await opened.aclose()
            async with self.reading(transport, ack_wait=1.0) as reader:
                taken = await reader.take_ids(2)
                if "0" in taken:  # its acknowledgement was lost
                    taken += await reader.take_ids()
                assert {"1", "2"} <= {*taken}

    @_during_outages
    async def test_settling_during_an_outage_raises_nothing_and_what_is_lost_comes_again(self) -> None:
        """The event took effect, so the handler must not fail. The inbox detects a second delivery."""
        async with self.opened() as transport, self.reading(transport, ack_wait=1.0) as reader:
            await transport.store(*events(3, "k"))
            held = await reader.hold_one()
            async with transport.outage(), asyncio.timeout(20):
                await held.in_progress()
                await held.ack()
            taken: list[str] = []
            while not {"1", "2"} <= {*taken}:
                taken += await reader.take_ids()
            assert [one for one in taken if one != "0"] == ["1", "2"]

    @_during_outages
    async def test_what_was_stored_before_an_outage_is_there_afterwards(self) -> None:
        """An event that the broker has acknowledged to its publisher is on disk."""
        async with self.holding(*events(20, "k")) as transport:
            async with transport.outage():
                pass
            async with self.reading(transport) as reader:
                assert await reader.take_ids(20) == [f"{n}" for n in range(20)]

    @_during_outages
    async def test_the_progress_of_a_group_outlives_an_outage(self) -> None:
        """Events that the group acknowledged long before are not delivered again."""
        async with self.holding(*events(3, "k")) as transport:
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
