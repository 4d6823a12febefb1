"""Publisher and subscription: the same promises in memory and on a real nats-server."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.publisher import EventPublisher
from mediator.distributed.subscription import EventSubscription
from mediator.errors import EventNotDecodableError
from mediator.nats import NatsEventPublisher, NatsEventSubscription, NatsServer, open_connection
from mediator.testing import InMemoryBroker, InMemoryEventPublisher, InMemoryEventSubscription

TYPE = "shop.order-placed"


@dataclass
class Transport:
    publisher: EventPublisher
    subscribe: Callable[..., EventSubscription]


@asynccontextmanager
async def in_memory() -> AsyncIterator[Transport]:
    broker = InMemoryBroker()
    publisher = InMemoryEventPublisher(broker, application="shop")
    yield Transport(publisher, lambda group, **options: InMemoryEventSubscription(broker, group, **options))


@asynccontextmanager
async def on_nats() -> AsyncIterator[Transport]:
    prefix = f"t{uuid.uuid4().hex[:10]}"
    async with NatsServer() as server, open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, application="shop", prefix=prefix)
        yield Transport(
            publisher, lambda group, **options: NatsEventSubscription(connection, group, prefix=prefix, **options)
        )


@pytest.fixture(params=[in_memory, on_nats])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    opening: Callable[[], AbstractAsyncContextManager[Transport]] = request.param
    async with opening() as opened:
        yield opened


def event(event_id: str, *, event_type: str = f"{TYPE}.v1", key: str | None = None) -> CloudEvent:
    return CloudEvent(event_id, event_type, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), b'{"n": 1}', partitionkey=key)


async def take(deliveries: Any, count: int, *, ack: bool = True) -> list[Any]:
    taken = []
    async with asyncio.timeout(10):
        for _ in range(count):
            taken.append(await deliveries.next())
            if ack:
                await taken[-1].ack()
    return taken


def ids(deliveries: list[Any]) -> list[str]:
    return [delivery.event.id for delivery in deliveries]


async def test_every_event_has_a_result_and_is_delivered_in_order_with_its_source(transport: Transport):
    sent = [event(f"{n}", key="k") for n in range(5)]
    results = await transport.publisher.publish(sent)
    assert [(result.event.id, result.error) for result in results] == [(f"{n}", None) for n in range(5)]
    async with transport.subscribe("group").open([TYPE], prefetch=10) as deliveries:
        taken = await take(deliveries, 5)
    assert ids(taken) == ["0", "1", "2", "3", "4"]
    assert {(each.event.source, each.attempt, each.problem) for each in taken} == {("shop", 1, "")}
    assert taken[0].event.data == b'{"n": 1}'
    assert [each.sequence for each in taken] == sorted(each.sequence for each in taken)


async def test_publishing_nothing_does_nothing(transport: Transport):
    assert list(await transport.publisher.publish([])) == []


async def test_an_event_that_is_sent_again_is_delivered_once(transport: Transport):
    await transport.publisher.publish([event("a")])
    results = await transport.publisher.publish([event("a"), event("b")])
    assert [result.error for result in results] == [None, None]
    async with transport.subscribe("group").open([TYPE], prefetch=10) as deliveries:
        assert ids(await take(deliveries, 2)) == ["a", "b"]


async def test_each_group_has_its_own_progress_and_goes_on_where_it_was(transport: Transport):
    await transport.publisher.publish([event("a"), event("b")])
    async with transport.subscribe("one").open([TYPE], prefetch=10) as deliveries:
        assert ids(await take(deliveries, 1)) == ["a"]
    async with transport.subscribe("two").open([TYPE], prefetch=10) as deliveries:
        assert ids(await take(deliveries, 2)) == ["a", "b"]
    async with transport.subscribe("one").open([TYPE], prefetch=10) as deliveries:
        assert ids(await take(deliveries, 1)) == ["b"]


async def test_only_the_types_that_were_asked_for_are_delivered_in_every_version(transport: Transport):
    await transport.publisher.publish([event("x", event_type="shop.order-lost.v1"), event("a")])
    await transport.publisher.publish([event("b", event_type=f"{TYPE}.v2")])
    async with transport.subscribe("group").open([TYPE], prefetch=10) as deliveries:
        assert ids(await take(deliveries, 2)) == ["a", "b"]


async def test_a_delivery_that_is_put_back_comes_again_with_the_next_attempt(transport: Transport):
    await transport.publisher.publish([event("a")])
    async with transport.subscribe("group").open([TYPE], prefetch=10) as deliveries:
        (first,) = await take(deliveries, 1, ack=False)
        await first.nak(0)
        (second,) = await take(deliveries, 1, ack=False)
        await second.nak(0.05)
        (third,) = await take(deliveries, 1)
    assert [each.attempt for each in (first, second, third)] == [1, 2, 3]
    assert ids([first, second, third]) == ["a", "a", "a"]


async def test_a_delivery_has_the_headers_and_the_body_as_they_came_and_its_partition(transport: Transport):
    sent = [event(f"{n}", key=f"key {n}") for n in range(3)]
    await transport.publisher.publish(sent)
    async with transport.subscribe("group").open([TYPE], prefetch=10) as deliveries:
        taken = await take(deliveries, 3)
    lowered = {name.lower(): value for name, value in taken[0].headers.items()}
    assert (lowered["ce-id"], lowered["ce-type"], lowered["ce-partitionkey"]) == ("0", f"{TYPE}.v1", "key%200")
    assert [each.data for each in taken] == [b'{"n": 1}'] * 3
    assert [each.partition for each in taken] == [each.bucket % 16 for each in sent]
    assert all(abs((datetime.now(UTC) - each.stored_at).total_seconds()) < 60 for each in taken)


async def test_what_was_kept_of_a_delivery_can_be_read_again(transport: Transport):
    await transport.publisher.publish([event("a", key="k\n")])
    subscription = transport.subscribe("group")
    async with subscription.open([TYPE], prefetch=10) as deliveries:
        (taken,) = await take(deliveries, 1)
    headers, stored_at = dict(taken.headers), taken.stored_at
    assert subscription.read(headers, taken.data, fallback_id="?", stored_at=stored_at) == taken.event
    del headers["ce-source"]
    with pytest.raises(EventNotDecodableError):
        subscription.read(headers, taken.data, fallback_id="?", stored_at=stored_at)


async def test_a_terminated_delivery_never_comes_again_to_its_group(transport: Transport):
    await transport.publisher.publish([event("a"), event("b")])
    async with transport.subscribe("group", ack_wait=0.5).open([TYPE], prefetch=10) as deliveries:
        (first,) = await take(deliveries, 1, ack=False)
        await first.term("it cannot be read:\n" + "\x1b[31m" * 500)
        (second,) = await take(deliveries, 1, ack=False)
        await second.nak(0.8)  # by then the first would be back
        assert ids(await take(deliveries, 1)) == ["b"]
    async with transport.subscribe("other").open([TYPE], prefetch=10) as deliveries:
        assert ids(await take(deliveries, 2)) == ["a", "b"]


async def test_what_is_not_acknowledged_in_time_comes_again_unless_it_is_in_progress(transport: Transport):
    await transport.publisher.publish([event("a")])
    async with transport.subscribe("group", ack_wait=1.0).open([TYPE], prefetch=10) as deliveries:
        (first,) = await take(deliveries, 1, ack=False)
        await first.in_progress()
        (again,) = await take(deliveries, 1)
    assert (again.event.id, again.attempt) == ("a", 2)


async def test_what_was_not_acknowledged_is_delivered_to_the_next_of_the_group(transport: Transport):
    await transport.publisher.publish([event("a"), event("b")])
    async with transport.subscribe("group", ack_wait=1.0).open([TYPE], prefetch=10) as deliveries:
        await take(deliveries, 1, ack=False)
    async with transport.subscribe("group", ack_wait=1.0).open([TYPE], prefetch=10) as deliveries:
        assert sorted(ids(await take(deliveries, 2))) == ["a", "b"]


async def test_no_more_than_prefetch_are_handed_over_unacknowledged(transport: Transport):
    await transport.publisher.publish([event(f"{n}") for n in range(3)])
    async with transport.subscribe("group").open([TYPE], prefetch=2) as deliveries:
        first, _ = await take(deliveries, 2, ack=False)
        third = asyncio.ensure_future(deliveries.next())
        done, _ = await asyncio.wait({third}, timeout=0.2)
        assert not done
        await first.ack()
        async with asyncio.timeout(10):
            assert (await third).event.id == "2"


async def test_an_event_that_is_published_while_somebody_waits_is_delivered_at_once(transport: Transport):
    async with transport.subscribe("group").open([TYPE], prefetch=10) as deliveries:
        waiting = asyncio.ensure_future(take(deliveries, 1))
        await transport.publisher.publish([event("a")])
        assert ids(await waiting) == ["a"]


async def test_waiting_can_be_cancelled_and_loses_nothing(transport: Transport):
    async with transport.subscribe("group").open([TYPE], prefetch=10) as deliveries:
        waiting = asyncio.ensure_future(deliveries.next())
        await asyncio.wait({waiting}, timeout=0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await transport.publisher.publish([event("a")])
        assert ids(await take(deliveries, 1)) == ["a"]
