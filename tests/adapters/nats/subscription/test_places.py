"""The number of unacknowledged events of a group is a setting."""

import asyncio

import pytest

from mediator.errors import SettingError
from mediator.nats import NatsEventPublisher, NatsEventSubscription


async def test_as_many_events_are_out_as_the_group_has_places_and_a_change_is_taken_over(connection, prefix, event):
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
async def test_a_single_place_is_refused_because_it_means_another_ordering(connection, places: int):
    with pytest.raises(SettingError, match="max_ack_pending"):
        NatsEventSubscription(connection, "shipping", max_ack_pending=places)
