"""Publisher and subscription: the same promises in memory and on a real nats-server, with either ordering."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.publisher import EventPublisher
from mediator.distributed.subscription import Deliveries, Delivery, EventSubscription, Ordering
from mediator.errors import EventNotDecodableError, GroupOrderingError, PublisherUnavailableError
from mediator.nats import NatsEventPublisher, NatsEventSubscription, NatsServer, open_connection
from mediator.testing import InMemoryBroker, InMemoryEventPublisher, InMemoryEventSubscription

TYPE = "shop.order-placed"
Outage = Callable[[], AbstractAsyncContextManager[None]]


@dataclass
class Transport:
    publisher: EventPublisher
    subscribe: Callable[..., EventSubscription]
    outage: Outage
    ordering: Ordering

    def open(self, group="group", *types: str, prefetch=10, ordering=None, **options):
        subscription = self.subscribe(group, **options)
        return subscription.open(types or [TYPE], prefetch=prefetch, ordering=ordering or self.ordering)

    async def publish(self, *events: CloudEvent) -> None:
        """Until all are stored: on a busy machine the first connection may take longer than a publisher waits for it."""
        async with asyncio.timeout(20):
            while any(result.error for result in await self.publisher.publish(events)):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def in_memory(ordering: Ordering) -> AsyncIterator[Transport]:
    broker = InMemoryBroker()

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        broker.available = False
        yield
        broker.available = True

    publisher = InMemoryEventPublisher(broker, application="shop")
    yield Transport(
        publisher, lambda group, **options: InMemoryEventSubscription(broker, group, **options), outage, ordering
    )


@asynccontextmanager
async def on_nats(ordering: Ordering) -> AsyncIterator[Transport]:
    prefix = f"t{uuid.uuid4().hex[:10]}"
    async with NatsServer() as server, open_connection(server.url) as connection:

        @asynccontextmanager
        async def outage() -> AsyncIterator[None]:
            await server.kill()
            yield
            await server.start()

        publisher = NatsEventPublisher(connection, application="shop", prefix=prefix)

        def subscribe(group: str, **options) -> EventSubscription:
            return NatsEventSubscription(connection, group, prefix=prefix, **options)

        yield Transport(publisher, subscribe, outage, ordering)


@pytest.fixture(params=["none", "key"])
def ordering(request: pytest.FixtureRequest) -> Ordering:
    return request.param


@pytest.fixture(params=[in_memory, on_nats])
async def transport(request: pytest.FixtureRequest, ordering: Ordering) -> AsyncIterator[Transport]:
    async with request.param(ordering) as opened:
        yield opened


def event(event_id: str, *, event_type: str = f"{TYPE}.v1", key: str | None = None) -> CloudEvent:
    return CloudEvent(event_id, event_type, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), b'{"n": 1}', partitionkey=key)


def spread() -> Iterator[CloudEvent]:
    """Up to 16 events of as many partitions, so that none waits for another whatever the ordering."""
    seen: set[int] = set()
    for number in range(1000):
        made = event(f"{number}")
        if made.bucket % 16 not in seen:
            seen.add(made.bucket % 16)
            yield made


def some(count: int) -> list[CloudEvent]:
    return [made for made, _ in zip(spread(), range(count), strict=False)]


async def take(deliveries: Deliveries, count: int, *, ack: bool = True) -> list[Delivery]:
    taken = []
    async with asyncio.timeout(15):
        for _ in range(count):
            taken.append(await deliveries.next())
            if ack:
                await taken[-1].ack()
    return taken


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.event.id if delivery.event else "" for delivery in deliveries]


async def nothing(deliveries: Deliveries, seconds: float = 0.2) -> None:
    waiting = asyncio.ensure_future(deliveries.next())
    done, _ = await asyncio.wait({waiting}, timeout=seconds)
    assert not done
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_every_event_has_a_result_and_is_delivered_in_order_with_its_source(transport: Transport):
    sent = [event(f"{n}", key="k") for n in range(5)]
    results = await transport.publisher.publish(sent)
    assert [(result.event.id, result.error) for result in results] == [(f"{n}", None) for n in range(5)]
    async with transport.open() as deliveries:
        taken = await take(deliveries, 5)
    assert ids(taken) == ["0", "1", "2", "3", "4"]
    assert {(each.event.source, each.attempt, each.problem) for each in taken} == {("shop", 1, "")}
    assert taken[0].event.data == b'{"n": 1}'
    assert [each.sequence for each in taken] == sorted(each.sequence for each in taken)


async def test_publishing_nothing_does_nothing(transport: Transport):
    assert list(await transport.publisher.publish([])) == []


async def test_many_events_arrive_each_once_and_in_order_of_their_key(transport: Transport):
    sent = [event(f"{n}", key=f"k{n % 7}" if n % 3 else None) for n in range(300)]
    await transport.publish(*sent)
    async with transport.open(prefetch=64) as deliveries:
        taken = ids(await take(deliveries, 300))
        await nothing(deliveries)
    assert sorted(taken) == sorted(each.id for each in sent)
    for key in {each.partitionkey for each in sent} - {None}:
        expected = [each.id for each in sent if each.partitionkey == key]
        assert [one for one in taken if one in expected] == expected


async def test_events_of_several_publishers_at_once_all_arrive(transport: Transport):
    calls = [[event(f"{call}-{n}", key=f"k{call}") for n in range(20)] for call in range(10)]
    await asyncio.gather(*(transport.publish(*call) for call in calls))
    async with transport.open(prefetch=64) as deliveries:
        taken = ids(await take(deliveries, 200))
    for call in calls:
        expected = [each.id for each in call]
        assert [one for one in taken if one in expected] == expected


async def test_an_event_that_is_sent_again_is_delivered_once(transport: Transport):
    await transport.publish(event("a", key="k"))
    results = await transport.publisher.publish([event("a", key="k"), event("b", key="k")])
    assert [result.error for result in results] == [None, None]
    async with transport.open() as deliveries:
        assert ids(await take(deliveries, 2)) == ["a", "b"]
        await nothing(deliveries)


async def test_many_events_of_which_some_are_there_already_are_all_stored_once(transport: Transport):
    await transport.publish(*(event(f"{n}", key="k") for n in range(0, 60, 7)))
    results = await transport.publisher.publish([event(f"{n}", key="k") for n in range(60)])
    assert {result.error for result in results} == {None}
    async with transport.open() as deliveries:
        assert sorted(ids(await take(deliveries, 60)), key=int) == [f"{n}" for n in range(60)]
        await nothing(deliveries)


async def test_a_group_that_subscribes_late_receives_what_was_published_before(transport: Transport):
    await transport.publish(event("a", key="k"))
    async with transport.open("first") as deliveries:
        await take(deliveries, 1)
    await transport.publish(event("b", key="k"))
    async with transport.open("late") as deliveries:
        assert ids(await take(deliveries, 2)) == ["a", "b"]


async def test_a_group_may_begin_with_new_events_or_at_a_time(transport: Transport):
    await transport.publish(event("old", key="k"))
    await asyncio.sleep(0.01)
    since = datetime.now(UTC)
    await asyncio.sleep(0.01)
    await transport.publish(event("late", key="k"))
    async with transport.open("since", start=since) as deliveries:
        assert ids(await take(deliveries, 1)) == ["late"]
    async with transport.open("new", start="new") as deliveries:
        await nothing(deliveries, 0.5)
        await transport.publish(event("new", key="k"))
        assert ids(await take(deliveries, 1)) == ["new"]
    async with transport.open("new", start="all") as deliveries:
        await nothing(deliveries)


async def test_each_group_has_its_own_progress_and_goes_on_where_it_was(transport: Transport):
    await transport.publish(event("a", key="k"), event("b", key="k"))
    async with transport.open("one") as deliveries:
        assert ids(await take(deliveries, 1)) == ["a"]
    async with transport.open("two") as deliveries:
        assert ids(await take(deliveries, 2)) == ["a", "b"]
    async with transport.open("one") as deliveries:
        assert ids(await take(deliveries, 1)) == ["b"]


async def test_groups_at_the_same_time_all_receive_everything(transport: Transport):
    async with transport.open("one") as one, transport.open("two") as two:
        await transport.publish(*(event(f"{n}", key="k") for n in range(20)))
        received = await asyncio.gather(take(one, 20), take(two, 20))
    assert [ids(each) for each in received] == [[f"{n}" for n in range(20)]] * 2


async def test_a_group_does_not_change_its_ordering_unnoticed(transport: Transport):
    await transport.publish(event("a"))
    async with transport.open() as deliveries:
        await take(deliveries, 1)
    other = "none" if transport.ordering == "key" else "key"
    with suppress(GroupOrderingError):
        async with transport.open(ordering=other) as deliveries:
            await nothing(deliveries, 0.4)
    async with transport.open() as deliveries:
        await transport.publish(event("b"))
        assert ids(await take(deliveries, 1)) == ["b"]


async def test_members_of_a_group_share_the_events_out(transport: Transport):
    async with transport.open(prefetch=1) as one, transport.open(prefetch=1) as two:
        await transport.publish(*some(2))
        held = await take(one, 1, ack=False) + await take(two, 1, ack=False)
        assert sorted(ids(held)) == sorted(each.id for each in some(2))


async def test_competing_members_take_each_event_once(transport: Transport):
    taken: list[str] = []

    async def work(deliveries: Deliveries) -> None:
        while True:
            delivery = await deliveries.next()
            taken.extend(ids([delivery]))
            await asyncio.sleep(0)
            await delivery.ack()

    async with asyncio.timeout(20), transport.open() as one, transport.open() as two, transport.open() as three:
        workers = [asyncio.ensure_future(work(deliveries)) for deliveries in (one, two, three)]
        await transport.publish(*(event(f"{n}", key=f"k{n % 9}") for n in range(150)))
        while len(taken) < 150:
            await asyncio.sleep(0.01)
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    assert sorted(taken, key=int) == [f"{n}" for n in range(150)]
    if transport.ordering == "key":
        for key in range(9):
            assert [one for one in taken if int(one) % 9 == key] == [f"{n}" for n in range(key, 150, 9)]


async def test_workers_of_one_subscription_take_each_event_once(transport: Transport):
    async with transport.open() as deliveries:
        await transport.publish(*(event(f"{n}") for n in range(60)))
        taken = await asyncio.gather(*(take(deliveries, 15) for _ in range(4)))
        assert sorted((one for each in taken for one in ids(each)), key=int) == [f"{n}" for n in range(60)]


async def test_only_the_types_that_were_asked_for_are_delivered_in_every_version(transport: Transport):
    await transport.publish(event("x", event_type="shop.order-lost.v1", key="k"), event("a", key="k"))
    await transport.publish(event("b", event_type=f"{TYPE}.v2", key="k"))
    async with transport.open() as deliveries:
        assert ids(await take(deliveries, 2)) == ["a", "b"]
        await nothing(deliveries)


async def test_several_contexts_are_delivered_by_one_subscription(transport: Transport):
    await transport.publish(event("a"), event("b", event_type="store.filled.v1"))
    async with transport.open("group", TYPE, "store.filled") as deliveries:
        assert sorted(ids(await take(deliveries, 2))) == ["a", "b"]


async def test_a_type_that_a_group_asks_for_later_is_delivered_from_then_on(transport: Transport):
    async with transport.open() as deliveries:
        await transport.publish(event("a", key="k"))
        await take(deliveries, 1)
    async with transport.open("group", TYPE, "shop.order-lost") as deliveries:
        waiting = asyncio.ensure_future(take(deliveries, 1))
        for number in range(50):  # until the broker knows of it; what was stored before is passed over
            await transport.publish(event(f"b{number}", event_type="shop.order-lost.v1", key="k"))
            if (await asyncio.wait({waiting}, timeout=0.1))[0]:
                break
        (delivery,) = await waiting
        assert delivery.event.type == "shop.order-lost.v1"


async def test_a_delivery_that_is_put_back_comes_again_with_the_next_attempt(transport: Transport):
    await transport.publish(event("a"))
    async with transport.open() as deliveries:
        (first,) = await take(deliveries, 1, ack=False)
        await first.nak(0)
        (second,) = await take(deliveries, 1, ack=False)
        await second.nak(0.05)
        (third,) = await take(deliveries, 1)
    assert [each.attempt for each in (first, second, third)] == [1, 2, 3]
    assert ids([first, second, third]) == ["a", "a", "a"]


async def test_what_is_put_back_comes_no_sooner_than_it_was_asked_for(transport: Transport):
    await transport.publish(event("a"))
    async with transport.open() as deliveries:
        (first,) = await take(deliveries, 1, ack=False)
        await first.nak(0.6)
        await nothing(deliveries, 0.4)
        assert ids(await take(deliveries, 1)) == ["a"]


async def test_what_is_put_back_does_not_hold_up_events_of_other_partitions(transport: Transport):
    first, second = some(2)
    await transport.publish(first)
    async with transport.open() as deliveries:
        (held,) = await take(deliveries, 1, ack=False)
        await held.nak(30)
        await transport.publish(second)
        assert ids(await take(deliveries, 1)) == [second.id]


async def test_only_with_an_order_it_holds_up_those_of_its_key(transport: Transport):
    await transport.publish(event("a", key="k"), event("b", key="k"))
    async with transport.open(prefetch=1) as deliveries:
        (held,) = await take(deliveries, 1, ack=False)
        await held.nak(1.0)
        expected = ["a", "b"] if transport.ordering == "key" else ["b", "a"]
        assert ids(await take(deliveries, 2)) == expected


async def test_many_failures_do_not_stop_what_follows(transport: Transport):
    sent = [event(f"{n}", key=f"k{n % 5}") for n in range(40)]
    await transport.publish(*sent)
    failed: set[str] = set()
    done: list[str] = []
    async with transport.open() as deliveries, asyncio.timeout(20):
        while len(done) < 40:
            delivery = await deliveries.next()
            (name,) = ids([delivery])
            if int(name) % 4 == 0 and name not in failed:
                failed.add(name)
                await delivery.nak(0)
            else:
                done.append(name)
                await delivery.ack()
    assert sorted(done, key=int) == [each.id for each in sent]
    if transport.ordering == "key":
        for key in range(5):
            assert [one for one in done if int(one) % 5 == key] == [f"{n}" for n in range(key, 40, 5)]


async def test_a_delivery_has_the_headers_and_the_body_as_they_came_and_its_partition(transport: Transport):
    sent = [event(f"{n}", key=f"key {n}") for n in range(3)]
    await transport.publish(*sent)
    async with transport.open() as deliveries:
        taken = {each.event.id: each for each in await take(deliveries, 3)}
    lowered = {name.lower(): value for name, value in taken["0"].headers.items()}
    assert (lowered["ce-id"], lowered["ce-type"], lowered["ce-partitionkey"]) == ("0", f"{TYPE}.v1", "key%200")
    assert [each.data for each in taken.values()] == [b'{"n": 1}'] * 3
    assert [taken[each.id].partition for each in sent] == [each.bucket % 16 for each in sent]
    assert all(abs((datetime.now(UTC) - each.stored_at).total_seconds()) < 60 for each in taken.values())


async def test_what_was_kept_of_a_delivery_can_be_read_again(transport: Transport):
    await transport.publish(event("a", key="k\n"))
    async with transport.open() as deliveries:
        (taken,) = await take(deliveries, 1)
    headers, stored_at = dict(taken.headers), taken.stored_at
    subscription = transport.subscribe("group")
    assert subscription.read(headers, taken.data, fallback_id="?", stored_at=stored_at) == taken.event
    del headers["ce-source"]
    with pytest.raises(EventNotDecodableError):
        subscription.read(headers, taken.data, fallback_id="?", stored_at=stored_at)


async def test_a_terminated_delivery_never_comes_again_to_its_group(transport: Transport):
    await transport.publish(event("a", key="k"), event("b", key="k"))
    async with transport.open(ack_wait=0.5) as deliveries:
        (first,) = await take(deliveries, 1, ack=False)
        await first.term("it cannot be read:\n" + "\x1b[31m" * 500)
        (second,) = await take(deliveries, 1, ack=False)
        await second.nak(0.8)  # by then the first would be back
        assert ids(await take(deliveries, 1)) == ["b"]
    async with transport.open("other") as deliveries:
        assert ids(await take(deliveries, 2)) == ["a", "b"]


async def test_settling_a_delivery_twice_does_nothing(transport: Transport):
    await transport.publish(event("a", key="k"), event("b", key="k"))
    async with transport.open() as deliveries:
        (first,) = await take(deliveries, 1)
        await first.ack()
        await first.nak(0)
        await first.term("late")
        await first.in_progress()
        assert ids(await take(deliveries, 1)) == ["b"]
        await nothing(deliveries)


async def test_what_is_not_acknowledged_in_time_comes_again_unless_it_is_in_progress(transport: Transport):
    await transport.publish(event("a"))
    async with transport.open(ack_wait=1.0) as deliveries:
        (first,) = await take(deliveries, 1, ack=False)
        await first.in_progress()
        (again,) = await take(deliveries, 1)
    assert (again.event.id, again.attempt) == ("a", 2)


async def test_what_was_not_acknowledged_is_delivered_to_the_next_of_the_group(transport: Transport):
    await transport.publish(event("a"), event("b"))
    async with transport.open(ack_wait=1.0) as deliveries:
        await take(deliveries, 1, ack=False)
    async with transport.open(ack_wait=1.0) as deliveries:
        assert sorted(ids(await take(deliveries, 2))) == ["a", "b"]


async def test_no_more_than_prefetch_are_handed_over_unacknowledged(transport: Transport):
    await transport.publish(*some(3))
    async with transport.open(prefetch=2) as deliveries:
        first, second = await take(deliveries, 2, ack=False)
        await nothing(deliveries)
        await first.ack()
        (third,) = await take(deliveries, 1)
        assert {*ids([first, second, third])} == {each.id for each in some(3)}


async def test_a_prefetch_of_one_takes_everything_in(transport: Transport):
    await transport.publish(*(event(f"{n}") for n in range(40)))
    async with transport.open(prefetch=1) as deliveries:
        assert sorted(ids(await take(deliveries, 40)), key=int) == [f"{n}" for n in range(40)]


async def test_an_event_that_is_published_while_somebody_waits_is_delivered_at_once(transport: Transport):
    async with transport.open() as deliveries:
        waiting = asyncio.ensure_future(take(deliveries, 1))
        await transport.publish(event("a"))
        assert ids(await waiting) == ["a"]


async def test_waiting_can_be_cancelled_and_loses_nothing(transport: Transport):
    async with transport.open() as deliveries:
        await nothing(deliveries, 0.05)
        await transport.publish(event("a"))
        assert ids(await take(deliveries, 1)) == ["a"]


async def test_a_subscription_that_is_closed_and_opened_again_goes_on(transport: Transport):
    await transport.publish(*(event(f"{n}", key=f"k{n % 4}") for n in range(30)))
    taken: list[str] = []
    for _ in range(6):
        async with transport.open() as deliveries:
            taken += ids(await take(deliveries, 5))
    assert sorted(taken, key=int) == [f"{n}" for n in range(30)]


async def test_a_crowd_of_subscriptions_can_open_and_close_at_the_same_time(transport: Transport):
    await transport.publish(*(event(f"{n}") for n in range(10)))

    async def visit() -> None:
        async with transport.open(prefetch=2):
            await asyncio.sleep(0)

    async with asyncio.timeout(20):
        await asyncio.gather(*(visit() for _ in range(8)))
    async with transport.open() as deliveries:
        assert sorted(ids(await take(deliveries, 10)), key=int) == [f"{n}" for n in range(10)]


async def test_leaving_on_an_error_or_a_cancellation_hands_back_what_waits(transport: Transport):
    await transport.publish(*some(6))
    for error in (RuntimeError, asyncio.CancelledError):
        with pytest.raises(error):
            async with transport.open(ack_wait=60) as deliveries:
                (first,) = await take(deliveries, 1, ack=False)
                await first.nak(0)
                raise error
    async with transport.open(ack_wait=60) as deliveries:
        assert sorted(ids(await take(deliveries, 6))) == sorted(each.id for each in some(6))


async def test_an_outage_fails_what_is_published_and_the_same_events_are_stored_afterwards(transport: Transport):
    await transport.publish(event("a", key="k"))
    sent = [event(name, key="k") for name in "bc"]
    async with transport.outage():
        results = await transport.publisher.publish(sent)
        assert {type(result.error) for result in results} == {PublisherUnavailableError}
    await transport.publish(*sent)
    async with transport.open() as deliveries:
        assert ids(await take(deliveries, 3)) == ["a", "b", "c"]


async def test_a_subscription_outlives_an_outage(transport: Transport):
    async with transport.open(ack_wait=1.0) as deliveries:
        await transport.publish(event("a", key="k"))
        await take(deliveries, 1)
        waiting = asyncio.ensure_future(deliveries.next())
        await asyncio.sleep(0)
        async with transport.outage():
            done, _ = await asyncio.wait({waiting}, timeout=0.2)
            assert not done
        await transport.publish(event("b", key="k"))
        async with asyncio.timeout(15):
            delivery = await waiting
            await delivery.ack()
            while delivery.event.id != "b":  # "a" comes again when its acknowledgement was lost
                delivery = await deliveries.next()
                await delivery.ack()


async def test_a_subscription_can_be_opened_during_an_outage(transport: Transport):
    await transport.publish(event("a"))
    opening = transport.open()
    async with transport.outage():
        deliveries = await asyncio.wait_for(opening.__aenter__(), 5)
    try:
        assert ids(await take(deliveries, 1)) == ["a"]
    finally:
        await opening.__aexit__(None, None, None)
