"""The number of unacknowledged events of a group is a setting."""

import asyncio

import pytest

from mediator.errors import SettingError
from mediator.nats import NatsEventPublisher, NatsEventSubscription


async def test_max_ack_pending_limits_unacknowledged_events_and_can_be_changed(connection, prefix, event):
    publisher = NatsEventPublisher(connection, "sales", prefix=prefix)
    assert not [each for each in await publisher.publish([event(f"{n}") for n in range(8)]) if each.error]
    for places in (3, 5):
        subscription = NatsEventSubscription(connection, "shipping", prefix=prefix, max_ack_pending=places)
        async with subscription.open(["shop.order-placed"], prefetch=64) as deliveries, asyncio.timeout(10):
            taken = [await deliveries.next() for _ in range(places)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await deliveries.next()
            for each in taken:
                await each.nak(0)


@pytest.mark.parametrize("places", [1, 0, -1])
async def test_a_max_ack_pending_of_one_is_refused_because_it_means_another_ordering(connection, places: int):
    with pytest.raises(SettingError, match="max_ack_pending"):
        NatsEventSubscription(connection, "shipping", max_ack_pending=places)
