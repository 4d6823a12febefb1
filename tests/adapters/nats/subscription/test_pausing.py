"""Pausing on a real server: the broker keeps the events, and nobody waits for them until the subscription is resumed."""

import asyncio

import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerInfo

from mediator.distributed.inbox import Ordering
from mediator.nats import NatsEventSubscription, StreamSettings, open_connection
from tests.adapters.nats.deliveries import publish, take, take_ids

TYPE = "shop.order-placed"
TWO = StreamSettings(partitions=2)
ORDERINGS: list[Ordering] = ["none", "key"]


def keys(event) -> list[str]:
    """Return a key of each of the two partitions."""
    found = {event("x", f"k{n}").bucket % 2: f"k{n}" for n in range(100)}
    return [found[0], found[1]]


async def consumers(raw: Client, prefix: str) -> list[ConsumerInfo]:
    return await raw.jetstream().consumers_info(f"{prefix}-shop")


async def until_asked(raw: Client, prefix: str, *, asked: bool = True) -> None:
    """Wait until each consumer has an open request, or until none has."""
    async with asyncio.timeout(10):
        while {each.num_waiting > 0 for each in await consumers(raw, prefix)} != {asked}:
            await asyncio.sleep(0.01)


async def pending(raw: Client, prefix: str) -> int:
    return sum(each.num_pending or 0 for each in await consumers(raw, prefix))


@pytest.mark.parametrize("ordering", ORDERINGS)
async def test_the_broker_keeps_events_while_a_subscription_is_paused_and_delivers_them_afterwards(
    connection, raw, prefix, event, ordering: Ordering
) -> None:
    one, two = keys(event)
    await publish(connection, prefix, event("a", one), event("b", two), settings=TWO)
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, settings=TWO)
    async with subscription.open([TYPE], prefetch=2, ordering=ordering) as deliveries:
        held = [await take(deliveries), await take(deliveries)]
        for again in range(2):
            deliveries.pause()
            for each in held:
                await each.ack()
            await until_asked(raw, prefix, asked=False)
            later = [event(f"{again}{n}", key) for n in range(5) for key in (one, two)]
            later = [event(f"{each.id}-{each.partitionkey}", each.partitionkey) for each in later]
            await publish(connection, prefix, *later, settings=TWO)
            assert {each.num_waiting for each in await consumers(raw, prefix)} == {0}
            assert await pending(raw, prefix) == 10
            deliveries.resume()
            ids = await take_ids(deliveries, 10)
            for key in (one, two):
                assert [each for each in ids if each.endswith(f"-{key}")] == [f"{again}{n}-{key}" for n in range(5)]
            await until_asked(raw, prefix)
            await publish(connection, prefix, event(f"a{again}", one), event(f"b{again}", two), settings=TWO)
            held = [await take(deliveries), await take(deliveries)]


@pytest.mark.parametrize("ordering", ORDERINGS)
async def test_a_request_that_is_open_at_a_pause_is_answered_and_not_repeated(
    connection, raw, prefix, event, ordering: Ordering
) -> None:
    one, two = keys(event)
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, settings=TWO)
    await publish(connection, prefix, event("first", one), settings=TWO)
    async with subscription.open([TYPE], prefetch=2, ordering=ordering) as deliveries:
        assert await take_ids(deliveries, 1) == ["first"]
        await until_asked(raw, prefix)
        deliveries.pause()
        sent = [event(f"{n}", key) for n in range(3) for key in (one, two)]
        sent = [event(f"{each.id}-{each.partitionkey}", each.partitionkey) for each in sent]
        await publish(connection, prefix, *sent, settings=TWO)
        answered = await take_ids(deliveries, 2)
        assert sorted(answered) == sorted(f"0-{key}" for key in (one, two))
        await until_asked(raw, prefix, asked=False)
        assert await pending(raw, prefix) == 4
        deliveries.resume()
        assert sorted(await take_ids(deliveries, 4)) == sorted(each.id for each in sent[2:])


async def test_a_paused_process_leaves_its_redelivery_to_another_process(
    connection, shared_server, raw, prefix, event
) -> None:
    """A partition does not wait for a paused process, whose delivery was handed back or was not settled in time."""
    one, _ = keys(event)
    await publish(connection, prefix, event("a", one), event("b", one), settings=TWO)
    mine = NatsEventSubscription(connection, "g", prefix=prefix, settings=TWO, ack_wait=1.0)
    async with open_connection(shared_server.url) as theirs:
        other = NatsEventSubscription(theirs, "g", prefix=prefix, settings=TWO, ack_wait=1.0)
        async with mine.open([TYPE], prefetch=2, ordering="key") as paused:
            held = await take(paused)
            paused.pause()
            await held.nak(0.3)
            async with other.open([TYPE], prefetch=2, ordering="key") as deliveries:
                again = await take(deliveries)
                assert (again.event.id, again.attempt) == ("a", 2)
                deliveries.pause()
                paused.resume()
                third = await take(paused)  # "a" was not settled within `ack_wait`
                assert (third.event.id, third.attempt) == ("a", 3)
                await third.ack()
                assert await take_ids(paused, 1) == ["b"]
