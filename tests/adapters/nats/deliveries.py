"""Deliveries: helpers with which tests of subscriptions publish events, take deliveries and wait."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from nats.aio.client import Client

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Deliveries, Delivery
from mediator.nats import NatsConnection, NatsEventPublisher


async def publish(connection: NatsConnection, prefix: str, *events: CloudEvent, **options: Any) -> None:
    """Publish events again until all are stored, because the stream may not exist yet."""
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, **options)
    async with asyncio.timeout(20):
        while any(result.error for result in await publisher.publish(events)):
            await asyncio.sleep(0.05)


async def take(deliveries: Deliveries, timeout: float = 8) -> Delivery:
    return await asyncio.wait_for(deliveries.next(), timeout)


async def take_ids(deliveries: Deliveries, count: int) -> list[str]:
    """Take that many deliveries, acknowledge them, and return their ids."""
    ids: list[str] = []
    for _ in range(count):
        delivery = await take(deliveries)
        assert delivery.event is not None
        ids.append(delivery.event.id)
        await delivery.ack()
    return ids


async def until_told(logs: Sequence[Mapping[str, Any]], words: str) -> None:
    """Wait until a reason contains these words."""
    async with asyncio.timeout(10):
        while not any(words in line.get("reason", "") for line in logs):
            await asyncio.sleep(0.01)


def losing_next_pull(client: Client) -> asyncio.Event:
    """Lose the next pull request on its way to the broker. The event that is returned is set when it was lost."""
    publish_raw, lost = client.publish, asyncio.Event()

    async def lose_one(subject: str, *args: Any, **options: Any) -> None:
        if ".MSG.NEXT." in subject and not lost.is_set():
            lost.set()
        else:
            await publish_raw(subject, *args, **options)

    client.publish = lose_one
    return lost
