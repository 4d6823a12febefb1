"""SubscriptionConformance: the promises of `EventSubscription` as test cases. The processes of a group share events."""

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
    """The promises about the events of a group: which events, from which position, and how many events at a time."""

    async def test_a_group_that_subscribes_late_receives_earlier_events(self) -> None:
        """A new group begins with the first event that the broker has."""
        async with self.holding(event("a", "k")) as transport:
            async with self.reading(transport, "first") as reader:
                await reader.take()
            await transport.store(event("b", "k"))
            async with self.reading(transport, "late") as reader:
                assert await reader.take_ids(2) == ["a", "b"]

    async def test_a_group_may_subscribe_before_anything_was_published(self) -> None:
        """A consumer may be deployed before the producer of its events. A cancelled call of `next` loses no event."""
        async with self.opened() as transport, self.reading(transport) as reader:
            await reader.nothing()
            await transport.store(event("a"))
            assert await reader.take_ids() == ["a"]

    @needs(TransportCapability.START_POSITION)
    async def test_a_new_group_may_begin_with_new_events(self) -> None:
        """A new group skips earlier events. A group that is opened again continues after the last acknowledged event."""
        async with self.holding(event("old", "k")) as transport:
            async with self.reading(transport, start="new") as reader:
                taking, stored = asyncio.ensure_future(reader.take_ids()), 0
                while not taking.done():  # events that are stored before the group has begun are skipped
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
        """The group receives the events that were stored since the given time."""
        async with self.holding(event("old", "k")) as transport:
            await asyncio.sleep(0.01)  # so that `since` differs from the times of both events
            since = datetime.now(UTC)
            await asyncio.sleep(0.01)
            await transport.store(event("late", "k"))
            async with self.reading(transport, start=since) as reader:
                assert await reader.take_ids() == ["late"]
                await reader.nothing()

    async def test_each_group_continues_at_its_own_position(self) -> None:
        """An event that one group has acknowledged is still delivered to another group."""
        async with self.holding(event("a", "k"), event("b", "k")) as transport:
            async with self.reading(transport, "one") as reader:
                assert await reader.take_ids() == ["a"]
            async with self.reading(transport, "two") as reader:
                assert await reader.take_ids(2) == ["a", "b"]
            async with self.reading(transport, "one") as reader:
                assert await reader.take_ids() == ["b"]
                await reader.nothing()

    async def test_concurrent_groups_all_receive_every_event(self) -> None:
        """Groups do not compete for events."""
        async with self.opened() as transport:
            async with self.reading(transport, "one") as one, self.reading(transport, "two") as two:
                await transport.store(*events(20, "k"))
                received = await asyncio.gather(one.take_ids(20), two.take_ids(20))
            assert list(received) == [[f"{n}" for n in range(20)]] * 2

    async def test_members_of_a_group_share_the_events(self) -> None:
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
    async def test_a_group_belongs_to_one_application_and_another_one_gets_no_events(self) -> None:
        """The second application is refused or waits. If both got events, each application would miss some of the events."""
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

    async def test_each_event_is_delivered_to_one_member_of_its_group(self) -> None:
        """An event that one process has acknowledged is delivered to no other process of the group."""
        sent = [event(f"{n}", f"k{n % 9}") for n in range(150)]
        taken: list[str] = []

        async def work(reader: Reader) -> None:
            while len(taken) < len(sent):
                taken.extend(await reader.take_ids())

        async with self.opened() as transport:
            async with self.reading(transport) as one, self.reading(transport) as two, self.reading(transport) as three:
                await asyncio.gather(transport.store(*sent), self.run_workers(work, one, two, three))
            assert sorted(taken, key=int) == [each.id for each in sent]
            assert self.ordering == "none" or in_order(taken, sent)

    async def test_concurrent_readers_of_one_subscription_get_each_event_once(self) -> None:
        """Several tasks may await `next` at the same time."""
        async with self.opened() as transport, self.reading(transport) as reader:
            await transport.store(*events(60))
            taken = await asyncio.gather(*(reader.take_ids(15) for _ in range(4)))
            assert sorted((one for each in taken for one in each), key=int) == [f"{n}" for n in range(60)]

    async def test_all_versions_of_the_subscribed_types_and_no_other_types_are_delivered(self) -> None:
        """Events whose type has a similar name, such as a longer or a shorter name, are not delivered."""
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

    async def test_a_group_may_subscribe_to_another_type_later(self) -> None:
        """A new version of an application may handle more types in the same group."""
        lost = "shop.order-lost"
        async with self.holding(event("a", "k")) as transport:
            async with self.reading(transport) as reader:
                await reader.take()
            async with self.reading(transport, types=(TYPE, lost)) as reader:
                waiting = asyncio.ensure_future(reader.take())
                for number in range(50):  # until the broker delivers events of the new type
                    await transport.store(event(f"b{number}", "k", event_type=f"{lost}.v1"))
                    if (await asyncio.wait({waiting}, timeout=0.1))[0]:
                        break
                (taken,) = await waiting
            assert taken.event is not None
            assert taken.event.type == f"{lost}.v1"

    async def test_at_most_prefetch_deliveries_are_unacknowledged(self) -> None:
        """Each acknowledgement makes room for one more delivery."""
        async with self.reading_of(*apart(3), prefetch=2) as reader:
            first, second = await reader.hold(2)
            await reader.nothing()
            await first.ack()
            third = await reader.hold_one()
        assert {*ids([first, second, third])} == {each.id for each in apart(3)}

    async def test_all_events_are_delivered_with_a_prefetch_of_one(self) -> None:
        """Each event is delivered after the previous event was acknowledged."""
        async with self.reading_of(*events(40), prefetch=1) as reader:
            assert sorted(await reader.take_ids(40), key=int) == [f"{n}" for n in range(40)]

    async def test_an_event_is_delivered_at_once_to_a_waiting_reader(self) -> None:
        """A subscription does not poll at long intervals."""
        async with self.opened() as transport, self.reading(transport) as reader:
            waiting = asyncio.ensure_future(reader.take_ids())
            await transport.store(event("a"))
            assert await waiting == ["a"]

    async def test_a_group_that_is_opened_again_continues(self) -> None:
        """When a subscription closes, unread deliveries return to the broker. No event is lost or acknowledged twice."""
        async with self.holding(*(event(f"{n}", f"k{n % 4}") for n in range(30))) as transport:
            taken: list[str] = []
            for _ in range(6):
                async with self.reading(transport) as reader:
                    taken += await reader.take_ids(5)
            assert sorted(taken, key=int) == [f"{n}" for n in range(30)]

    async def test_members_may_open_and_close_concurrently(self) -> None:
        """A deployment starts and stops all processes of a group at once."""

        async def visit(transport: TransportUnderTest) -> None:
            async with self.reading(transport, prefetch=2):
                await asyncio.sleep(0)

        async with self.holding(*events(10)) as transport:
            async with asyncio.timeout(20):
                await asyncio.gather(*(visit(transport) for _ in range(8)))
            async with self.reading(transport) as reader:
                assert sorted(await reader.take_ids(10), key=int) == [f"{n}" for n in range(10)]

    async def test_an_error_or_a_cancellation_returns_unread_deliveries_to_the_broker(self) -> None:
        """Other processes of the group get the returned deliveries at once, and not after `ack_wait`."""
        async with self.holding(*apart(6)) as transport:
            for error in (RuntimeError, asyncio.CancelledError):
                with failing(error):
                    async with self.reading(transport, ack_wait=60.0) as reader:
                        await (await reader.hold_one()).nak(0)
                        raise error
            async with self.reading(transport, ack_wait=60.0) as reader:
                assert sorted(await reader.take_ids(6)) == sorted(each.id for each in apart(6))

    async def test_a_delivery_has_its_position_in_the_stream(self) -> None:
        """Logs and parked events need the sequence, subject, headers and storage time of a delivery."""
        sent = [event(f"{n}", f"key {n}") for n in range(3)]
        async with self.reading_of(*sent) as reader:
            taken = {ids([each])[0]: each for each in await reader.take(3)}
        in_stream = [taken[each.id] for each in sent]
        assert [(each.attempt, each.problem, each.data) for each in in_stream] == [(1, "", b"1")] * 3
        assert [each.sequence for each in in_stream] == sorted({each.sequence for each in in_stream})
        assert all(f".{TYPE}." in each.subject and each.headers for each in in_stream)
        assert all(abs((datetime.now(UTC) - each.stored_at).total_seconds()) < 60 for each in in_stream)

    async def test_the_headers_and_body_of_a_delivery_can_be_read_again(self) -> None:
        """The replay of a parked event reads the headers and the body."""
        async with self.holding(event("a", "k\n")) as transport:
            async with self.reading(transport) as reader:
                (taken,) = await reader.take()
            headers, stored_at = dict(taken.headers), taken.stored_at
            subscription = transport.subscribe("group")
            assert subscription.read(headers, taken.data, fallback_id="?", stored_at=stored_at) == taken.event
            with failing(EventNotDecodableError):
                subscription.read({}, b"no event", fallback_id="?", stored_at=stored_at)


class DeliveryConformance(TransportSuite):
    """Every event is delivered until it is acknowledged or terminated. The deliveries of each event are counted."""

    async def test_an_acknowledged_event_is_not_delivered_again_to_its_group(self) -> None:
        """No further delivery comes after `ack_wait`, or when the group opens again."""
        async with self.holding(*events(3)) as transport:
            async with self.reading(transport, ack_wait=0.5) as reader:
                await reader.take(3)
                await reader.nothing(0.8)
            async with self.reading(transport, ack_wait=0.5) as reader:
                await reader.nothing(0.3)

    async def test_nak_causes_a_redelivery_with_the_next_attempt(self) -> None:
        """The broker counts the attempts, so the count survives a handler that kills its process."""
        async with self.reading_of(event("a")) as reader:
            first = await reader.hold_one()
            await first.nak(0)
            second = await reader.hold_one()
            await second.nak(0.05)
            (third,) = await reader.take()
        assert [each.attempt for each in (first, second, third)] == [1, 2, 3]
        assert ids([first, second, third]) == ["a", "a", "a"]
        assert (first.sequence, first.data) == (third.sequence, third.data)

    async def test_a_redelivery_waits_for_the_delay_of_nak(self) -> None:
        """The retry schedule depends on this delay."""
        async with self.reading_of(event("a")) as reader:
            await (await reader.hold_one()).nak(0.6)
            await reader.nothing(0.4)
            assert await reader.take_ids() == ["a"]

    async def test_a_delayed_redelivery_does_not_block_other_partitions(self) -> None:
        """An event that fails for hours must not block all other events."""
        first, second = apart(2)
        async with self.holding(first) as transport, self.reading(transport) as reader:
            await (await reader.hold_one()).nak(30)
            await transport.store(second)
            assert await reader.take_ids() == [second.id]

    async def test_a_delayed_redelivery_blocks_its_key_only_with_key_ordering(self) -> None:
        """Without key ordering, later events of the key are delivered during the delay."""
        async with self.reading_of(event("a", "k"), event("b", "k"), prefetch=1) as reader:
            await (await reader.hold_one()).nak(1.0)
            assert await reader.take_ids(2) == (["a", "b"] if self.ordering == "key" else ["b", "a"])

    async def test_events_are_delivered_although_others_fail(self) -> None:
        """With key ordering, the events of each key are acknowledged in order."""
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

    async def test_each_group_has_its_own_count_of_attempts(self) -> None:
        """A redelivery to one group is not counted as an attempt of another group."""
        async with self.holding(event("a")) as transport:
            async with self.reading(transport, "one") as reader:
                await (await reader.hold_one()).nak(0)
                assert (await reader.take())[0].attempt == 2
            async with self.reading(transport, "two") as reader:
                assert (await reader.take())[0].attempt == 1

    async def test_attempts_are_counted_across_the_processes_of_a_group(self) -> None:
        """The count does not begin again when a process stops and another process starts."""
        attempts: list[int] = []
        async with self.holding(event("a")) as transport:
            for _ in range(3):
                async with self.reading(transport) as reader:
                    delivery = await reader.hold_one()
                    attempts.append(delivery.attempt)
                    await delivery.nak(0)
        assert attempts == sorted(set(attempts))
        assert attempts[0] == 1

    async def test_a_terminated_event_is_not_delivered_again_to_its_group(self) -> None:
        """Other groups still receive the event. The reason given to `term` may be any text of any length."""
        async with self.holding(event("a", "k"), event("b", "k")) as transport:
            async with self.reading(transport, ack_wait=0.5) as reader:
                await (await reader.hold_one()).term("it cannot be read:\n" + "\x1b[31m" * 500)
                # "b" comes again after 0.8 s. If `term` had no effect, "a" would come again after 0.5 s (`ack_wait`).
                await (await reader.hold_one()).nak(0.8)
                assert await reader.take_ids() == ["b"]
            async with self.reading(transport, "other") as reader:
                assert await reader.take_ids(2) == ["a", "b"]

    async def test_ack_and_nak_and_term_each_make_room_for_another_delivery(self) -> None:
        """A delivery that was settled by one of the three methods no longer counts for `prefetch`."""
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

    async def test_an_event_that_is_not_acknowledged_in_time_is_delivered_again(self) -> None:
        """The process that received the event may be dead or may hang."""
        async with self.reading_of(event("a"), ack_wait=0.5) as reader:
            await reader.hold()
            (again,) = await reader.take()
        assert ids([again]) == ["a"]
        assert again.attempt == 2

    async def test_an_event_in_progress_is_not_delivered_again(self) -> None:
        """A handler may take longer than `ack_wait` if its process calls `in_progress` from time to time."""
        async with self.reading_of(event("a"), ack_wait=2.0) as reader:
            held = await reader.hold_one()
            for _ in range(7):
                await reader.nothing(0.4)
                await held.in_progress()
            await held.ack()
            await reader.nothing(2.4)

    async def test_an_unacknowledged_event_is_delivered_to_the_next_process_of_the_group(self) -> None:
        """A process that stops with unacknowledged deliveries loses no event."""
        async with self.holding(event("a"), event("b")) as transport:
            async with self.reading(transport, ack_wait=1.0) as reader:
                await reader.hold()
            async with self.reading(transport, ack_wait=1.0) as reader:
                assert sorted(await reader.take_ids(2)) == ["a", "b"]

    async def test_unread_deliveries_go_to_other_processes_when_a_process_stops(self) -> None:
        """The other processes get the unread deliveries at once, not after `ack_wait`."""
        async with self.holding(*apart(8)) as transport, AsyncExitStack() as leaving:
            greedy = await leaving.enter_async_context(self.reading(transport, prefetch=8, ack_wait=60.0))
            await greedy.take()
            async with self.reading(transport, prefetch=8, ack_wait=60.0) as reader:
                await leaving.aclose()
                assert len({*await reader.take_ids(7)}) == 7

    async def test_deliveries_are_settled_in_any_order(self) -> None:
        """Handlers run concurrently, and the handler that began last may end first."""
        async with self.reading_of(*apart(8), ack_wait=2.0) as reader:
            held = await reader.hold(8)
            await asyncio.gather(*(each.ack() for each in reversed(held)))
            await reader.nothing(2.4)


_ordered = needs(TransportCapability.KEY_ORDERING)


class KeyOrderingConformance(TransportSuite):
    """The events of a key are delivered one after the other, across all processes of a group, even after failures."""

    @_ordered
    async def test_the_next_event_of_a_key_waits_for_the_acknowledgement_of_the_previous_one(self) -> None:
        """Only one event of the key is delivered at a time, even if `prefetch` allows more deliveries."""
        async with self.reading_of(*events(4, "k"), ordering="key") as reader:
            for number in range(4):
                held = await reader.hold_one()
                assert ids([held]) == [f"{number}"]
                await reader.nothing(0.1)
                await held.ack()

    @_ordered
    async def test_events_of_different_keys_do_not_wait_for_each_other(self) -> None:
        """Events are ordered within a key, not across keys."""
        first, *others = apart(4)
        async with self.reading_of(first, *others, ordering="key") as reader:
            assert {*ids(await reader.hold(4))} == {each.id for each in (first, *others)}

    @_ordered
    async def test_a_redelivery_precedes_the_later_events_of_its_key(self) -> None:
        """The later events wait until the redelivered event is acknowledged, even if a redelivery is delayed."""
        async with self.reading_of(*events(3, "k"), ordering="key") as reader:
            for delay in (0, 0.3, 0):
                held = await reader.hold_one()
                assert ids([held]) == ["0"]
                await held.nak(delay)
            assert await reader.take_ids(3) == ["0", "1", "2"]

    @_ordered
    async def test_the_next_event_of_a_key_is_delivered_after_a_terminated_one(self) -> None:
        """A consumer parks an event, terminates the event, and then parks the later events of the key."""
        async with self.reading_of(*events(2, "k"), ordering="key") as reader:
            await (await reader.hold_one()).term("parked")
            assert await reader.take_ids() == ["1"]

    @_ordered
    async def test_an_event_not_acknowledged_in_time_precedes_the_later_events_of_its_key(self) -> None:
        """No later event overtakes an event whose handler hangs."""
        async with self.reading_of(*events(2, "k"), ordering="key", ack_wait=0.5) as reader:
            await reader.hold()
            assert await reader.take_ids(2) == ["0", "1"]

    @_ordered
    async def test_the_event_of_a_process_that_stops_is_not_overtaken(self) -> None:
        """Another process of the group gets the event first, and then the later events of the same key."""
        async with self.holding(*events(3, "k")) as transport, AsyncExitStack() as leaving:
            holder = await leaving.enter_async_context(self.reading(transport, ordering="key", ack_wait=1.0))
            await holder.hold()
            async with self.reading(transport, ordering="key", ack_wait=1.0) as reader:
                await reader.nothing()
                await leaving.aclose()
                assert await reader.take_ids(3) == ["0", "1", "2"]

    @_ordered
    async def test_only_one_process_of_a_group_has_a_delivery_of_a_key(self) -> None:
        """The processes of an application together handle the events of a key in order."""
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
    async def test_concurrent_failures_keep_the_order_of_each_key(self) -> None:
        """Two processes read the events, and every third event fails once."""
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
        async with (
            self.holding(*sent) as transport,
            self.reading(transport, ordering="key") as one,
            self.reading(transport, ordering="key") as two,
        ):
            await self.run_workers(work, one, two)

    @_ordered
    async def test_a_group_cannot_be_opened_with_the_other_ordering(self) -> None:
        """`open` raises a `GroupOrderingError`, or the adapter logs the error and delivers nothing.

        The group still works with its own ordering.
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


_pausing = needs(TransportCapability.PAUSE)


class PausingConformance(TransportSuite):
    """A pause loses no event and changes no order. A subscription that cannot pause passes the cases that need no `PAUSE`.

    The cases use a `prefetch` of 1. So while a process holds a delivery, it has asked for no other event.
    """

    @_pausing
    async def test_a_paused_subscription_delivers_nothing_that_it_had_not_asked_for_before(self) -> None:
        """The other process of the group gets all events, although the paused process waits in `next`."""
        async with self.holding(event("first", "k")) as transport, self.reading(transport, prefetch=1) as paused:
            held = await paused.hold_one()
            paused.pause()
            await held.ack()
            async with paused.taking() as waiting:
                async with self.reading(transport) as other, other.taking(20) as taking:
                    await transport.store(*events(20, "k"))
                    assert sorted(await taking, key=int) == [f"{n}" for n in range(20)]
                assert not waiting.done()
                paused.resume()
                await transport.store(event("last", "k"))
                assert await waiting == ["last"]

    @_pausing
    async def test_an_event_that_a_paused_process_hands_back_goes_to_another_process(self) -> None:
        """The deliveries that a paused process holds are settled as usual."""
        async with self.holding(event("a", "k")) as transport, self.reading(transport, prefetch=1) as paused:
            held = await paused.hold_one()
            paused.pause()
            await held.in_progress()
            await held.nak(0)
            async with self.reading(transport) as other:
                (again,) = await other.take()
            assert (ids([again]), again.attempt) == (["a"], 2)

    @needs(TransportCapability.PAUSE, TransportCapability.OUTAGE)
    async def test_an_outage_does_not_end_a_pause(self) -> None:
        """A paused process asks for no events after its connection was lost. After `resume`, it gets events again."""
        async with (
            self.holding(event("first", "k")) as transport,
            self.reading(transport, prefetch=1, ack_wait=1.0) as paused,
        ):
            held = await paused.hold_one()
            paused.pause()
            await held.ack()
            async with transport.outage():
                pass
            async with self.reading(transport, ack_wait=1.0) as other, paused.taking() as waiting:
                for sent in events(20, "k"):
                    async with other.taking() as taking:
                        await transport.store(sent)
                        await taking
                assert not waiting.done()
            paused.resume()
            await transport.store(event("last", "k"))
            while await paused.take_ids() != ["last"]:  # an event comes again if its acknowledgement was lost
                pass

    async def test_a_resumed_subscription_delivers_everything_and_in_order_per_key(self) -> None:
        """Events that are stored during the pause are delivered once, during the pause or after `resume`."""
        sent = [event(f"{n}", f"k{n % 4}") for n in range(24)]
        async with self.holding(*sent[:8]) as transport, self.reading(transport) as reader:
            taken = await reader.take_ids(2)
            reader.pause()
            async with reader.taking(22) as taking:
                await transport.store(*sent[8:])
                async with self.reading(transport, "other") as other:
                    await other.take(24)  # by now, the broker has offered all events to each group
                reader.resume()
                taken += await taking
            assert sorted(taken, key=int) == [each.id for each in sent]
            assert self.ordering == "none" or in_order(taken, sent)

    async def test_a_second_pause_and_a_resume_without_a_pause_change_nothing(self) -> None:
        """One `resume` ends any number of pauses. A later `pause` works as the first one."""
        async with self.opened() as transport, self.reading(transport) as reader:
            reader.resume()
            for number in range(3):
                reader.pause()
                reader.pause()
                await transport.store(event(f"{number}", "k"))
                reader.resume()
                assert await reader.take_ids() == [f"{number}"]
                reader.resume()

    async def test_a_paused_subscription_that_closes_returns_unread_deliveries_to_the_broker(self) -> None:
        """Other processes of the group get the returned deliveries at once, and not after `ack_wait`."""
        async with self.holding(*apart(8)) as transport:
            async with self.reading(transport, prefetch=8, ack_wait=60.0) as paused:
                (first,) = await paused.take_ids()
                paused.pause()
            async with self.reading(transport, prefetch=8, ack_wait=60.0) as reader:
                assert {first, *await reader.take_ids(7)} == {each.id for each in apart(8)}


_ATTRIBUTES = {"specversion": "1.0", "id": "f1", "source": "legacy", "type": f"{TYPE}.v1"}

_STRUCTURED = {"content-type": "application/cloudevents+json"}

_foreign = needs(TransportCapability.FOREIGN_MESSAGES)


class ForeignMessagesConformance(TransportSuite):
    """An unreadable message is delivered completely, so that it can be parked. Later messages are delivered too."""

    @_foreign
    async def test_a_message_without_headers_is_delivered_with_a_problem(self) -> None:
        """`event` is None, `problem` gives the reason, and `data` is the unchanged body."""
        strange = await self._delivered({}, b"\xff no event")
        assert strange.problem
        assert strange.data == b"\xff no event"
        assert strange.attempt == 1
        assert strange.sequence > 0

    @_foreign
    async def test_events_after_a_foreign_message_are_delivered(self) -> None:
        """A foreign message blocks no later event, even with key ordering."""
        async with self.holding(event("a")) as transport:
            await transport.put(TYPE, {}, b"")
            await transport.store(event("b"))
            async with self.reading(transport) as reader:
                assert sorted(await reader.take_ids(3)) == ["", "a", "b"]

    @_foreign
    async def test_a_foreign_message_can_be_redelivered_and_terminated(self) -> None:
        """`nak` and `term` work as for any other delivery."""
        async with self.holding(event("a")) as transport, self.reading(transport, ack_wait=0.5) as reader:
            await reader.take()
            await transport.put(TYPE, {}, b"?")
            await (await reader.hold_one()).nak(0)
            again = await reader.hold_one()
            assert again.attempt == 2
            await again.term("it is no event")
            await reader.nothing(0.8)

    @_foreign
    async def test_the_headers_of_a_foreign_message_are_kept(self) -> None:
        """Even headers that the library does not know are kept."""
        strange = await self._delivered({"X-Legacy": "7"}, b"?")
        assert {name.lower(): value for name, value in strange.headers.items()}["x-legacy"] == "7"

    @_foreign
    async def test_a_structured_cloudevent_is_read(self) -> None:
        """The body is one JSON document with attributes and data, as in the structured mode of CloudEvents 1.0."""
        document = {**_ATTRIBUTES, "datacontenttype": "application/json", "data": {"n": 1}}
        async with self.holding(event("a")) as transport:
            await transport.put(TYPE, _STRUCTURED, json.dumps(document).encode())
            async with self.reading(transport) as reader:
                found = {each.event.id: each.event for each in await reader.take(2) if each.event is not None}
            read = found["f1"]
            assert (read.source, read.type, json.loads(read.data)) == ("legacy", f"{TYPE}.v1", {"n": 1})

    @_foreign
    async def test_a_broken_cloudevent_has_a_problem(self) -> None:
        """The message lacks the attribute `source`, which the inbox needs to detect duplicates."""
        document = {name: value for name, value in _ATTRIBUTES.items() if name != "source"}
        assert (await self._delivered(_STRUCTURED, json.dumps(document).encode())).problem

    @_foreign
    async def test_the_type_and_the_key_of_a_broken_cloudevent_are_read(self) -> None:
        """The key is needed, because the parked message has to hold back the later events of its key."""
        document = _ATTRIBUTES | {"partitionkey": "k", "time": "tomorrow"}
        broken = (await self._delivered(_STRUCTURED, json.dumps(document).encode())).unreadable
        assert (broken.type, broken.partitionkey) == (f"{TYPE}.v1", "k")

    async def _delivered(self, headers: dict[str, str], data: bytes) -> Delivery:
        """Store an event, which creates the stream. Then store the given message, and return its delivery."""
        async with self.holding(event("a")) as transport:
            await transport.put(TYPE, headers, data)
            async with self.reading(transport) as reader:
                (strange,) = [each for each in await reader.take(2) if each.event is None]
        return strange


_during_outages = needs(TransportCapability.OUTAGE)


class BrokerOutageConformance(TransportSuite):
    """A subscription waits until an outage is over, and need not be opened again. No event is lost."""

    @_during_outages
    async def test_a_subscription_survives_an_outage(self) -> None:
        """A waiting reader gets its delivery after the outage."""
        async with self.opened() as transport, self.reading(transport, ack_wait=1.0) as reader:
            await transport.store(event("a", "k"))
            await reader.take()
            waiting = asyncio.ensure_future(reader.take())
            await asyncio.sleep(0)
            async with transport.outage():
                assert not (await asyncio.wait({waiting}, timeout=0.2))[0]
            await transport.store(event("b", "k"))
            taken = ids(await waiting)
            while taken[-1] != "b":  # "a" is delivered again if its acknowledgement was lost
                taken += await reader.take_ids()

    @_during_outages
    async def test_a_subscription_can_be_opened_during_an_outage(self) -> None:
        """An application can start while its broker is unavailable."""
        async with self.holding(event("a")) as transport, AsyncExitStack() as opened:
            async with transport.outage(), asyncio.timeout(20):
                reader = await opened.enter_async_context(self.reading(transport))
            assert await reader.take_ids() == ["a"]

    @_during_outages
    async def test_a_subscription_can_be_closed_during_an_outage(self) -> None:
        """An application can stop in time while its broker is unavailable."""
        async with self.holding(*events(3)) as transport, AsyncExitStack() as opened:
            reader = await opened.enter_async_context(self.reading(transport, ack_wait=1.0))
            await reader.take()
            async with transport.outage(), asyncio.timeout(20):
                await opened.aclose()
            async with self.reading(transport, ack_wait=1.0) as reader:
                taken = await reader.take_ids(2)
                if "0" in taken:  # delivered again, because its acknowledgement was lost
                    taken += await reader.take_ids()
                assert {"1", "2"} <= {*taken}

    @_during_outages
    async def test_settling_during_an_outage_raises_no_error(self) -> None:
        """When the event has taken effect, `ack` must not fail. A lost acknowledgement only causes a redelivery."""
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
    async def test_stored_events_survive_an_outage(self) -> None:
        """The broker confirms an event to the publisher only when the event is on disk."""
        async with self.holding(*events(20, "k")) as transport:
            async with transport.outage():
                pass
            async with self.reading(transport) as reader:
                assert await reader.take_ids(20) == [f"{n}" for n in range(20)]

    @_during_outages
    async def test_the_progress_of_a_group_survives_an_outage(self) -> None:
        """Events that were acknowledged long before the outage are not delivered again."""
        async with self.holding(*events(3, "k")) as transport:
            async with self.reading(transport, ack_wait=1.0) as reader:
                await reader.take(2)
            await asyncio.sleep(0.5)
            async with transport.outage():
                pass
            async with self.reading(transport, ack_wait=1.0) as reader:
                taken = await reader.take_ids()
                while taken[-1] != "2":  # an event is delivered again if its acknowledgement was lost
                    taken += await reader.take_ids()
                await reader.nothing()
