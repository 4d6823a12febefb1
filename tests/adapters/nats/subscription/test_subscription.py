"""Pulling deliveries: every event arrives, never more than the prefetch; pulling continues after outages."""

import asyncio
import contextlib
import time

import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError
from structlog.testing import capture_logs

from mediator.errors import SettingError
from mediator.nats import NatsEventSubscription, StreamSettings, open_connection
from mediator.nats.topology import JetStreamApi, provision
from tests.adapters.nats.deliveries import losing_next_pull, publish, take, take_ids, until_told

TYPE = "shop.order-placed"


async def consumer_state(raw: Client, prefix: str, group: str = "g", domain: str = "shop"):
    return await raw.jetstream().consumer_info(f"{prefix}-{domain}", group)


async def until(condition, seconds: float = 8) -> None:
    """Wait until a condition holds; the object that it checks may not exist yet."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(NotFoundError):
                if await condition():
                    return
            await asyncio.sleep(0.01)


async def test_a_published_event_is_delivered_with_all_its_attributes(connection, raw, prefix, event) -> None:
    given = event("a", "key", extensions={"correlationid": "c 1"})
    await publish(connection, prefix, given)
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        delivery = await take(deliveries)
        assert delivery.event is not None
        assert delivery.event.source == "app"
        assert (delivery.event.id, delivery.event.data, delivery.event.time) == (given.id, given.data, given.time)
        assert (delivery.event.partitionkey, delivery.event.extensions) == ("key", given.extensions)
        assert (delivery.attempt, delivery.sequence, delivery.problem) == (1, 1, "")
        assert delivery.subject == f"{prefix}.shop.order-placed.{given.bucket % 16}"
        await delivery.ack()
        await delivery.ack()

        async def acknowledged() -> bool:
            state = await consumer_state(raw, prefix)
            return state.ack_floor.stream_seq == 1 and state.num_ack_pending == 0

        await until(acknowledged)


async def test_a_group_subscribes_before_anything_was_published_and_receives_it_quickly(
    connection, prefix, event
) -> None:
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        waiting = asyncio.create_task(deliveries.next())
        await publish(connection, prefix, event("a"))
        assert (await asyncio.wait_for(waiting, 3)).event.id == "a"


async def test_many_events_of_one_key_arrive_in_order_with_little_prefetch(connection, prefix, event) -> None:
    await publish(connection, prefix, *(event(f"{n}", "k") for n in range(300)))
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=3) as deliveries:
        assert await take_ids(deliveries, 300) == [f"{n}" for n in range(300)]


async def test_events_of_several_domains_arrive_and_other_types_do_not(connection, prefix, event) -> None:
    types = ["shop.order-placed.v1", "shop.order-placed.v2", "bank.paid.v1", "shop.unwanted.v1"]
    await publish(connection, prefix, *(event(f"{n}", type=wire) for n, wire in enumerate(types)))
    subscription = NatsEventSubscription(connection, "g", prefix=prefix)
    async with subscription.open([TYPE, "bank.paid"], prefetch=10) as deliveries:
        assert sorted(await take_ids(deliveries, 3)) == ["0", "1", "2"]
        with pytest.raises(TimeoutError):
            await take(deliveries, 0.2)


async def test_at_most_prefetch_events_are_delivered_without_an_acknowledgement(connection, raw, prefix, event) -> None:
    await publish(connection, prefix, *(event(f"{n}") for n in range(20)))
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=4) as deliveries:
        held = [await take(deliveries) for _ in range(4)]
        with pytest.raises(TimeoutError):
            await take(deliveries, 0.2)
        assert (await consumer_state(raw, prefix)).num_ack_pending == 4
        await held[0].ack()
        await held[1].nak(60)
        assert [(await take(deliveries)).event.id for _ in range(2)] == ["4", "5"]
        with pytest.raises(TimeoutError):
            await take(deliveries, 0.2)


async def test_an_event_is_redelivered_after_the_delay_of_its_nak(connection, prefix, event) -> None:
    await publish(connection, prefix, event("a"))
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        await (await take(deliveries)).nak(0.3)
        started = time.monotonic()
        again = await take(deliveries)
        assert 0.25 < time.monotonic() - started < 3
        assert again.attempt == 2
        await again.nak(0)
        assert (await take(deliveries)).attempt == 3


@pytest.mark.thorough("waits in real time, or does much work")
async def test_an_unacknowledged_event_is_redelivered_unless_it_is_in_progress(connection, prefix, event) -> None:
    await publish(connection, prefix, event("a"))
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, ack_wait=1)
    async with subscription.open([TYPE], prefetch=10) as deliveries:
        delivery = await take(deliveries)
        for _ in range(6):
            await delivery.in_progress()
            with pytest.raises(TimeoutError):
                await take(deliveries, 0.25)
        assert (await take(deliveries)).attempt == 2


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_waiting_delivery_is_not_redelivered(connection, raw, prefix, event) -> None:
    await publish(connection, prefix, event("a"))
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, ack_wait=0.8)
    async with subscription.open([TYPE], prefetch=10) as deliveries:

        async def delivered() -> bool:
            return (await consumer_state(raw, prefix)).delivered.stream_seq == 1

        await until(delivered)
        await asyncio.sleep(1.2)  # longer than ack_wait
        assert (await take(deliveries)).attempt == 1
        assert (await consumer_state(raw, prefix)).delivered.consumer_seq == 1


async def test_a_message_that_is_not_an_event_is_delivered_with_its_problem(connection, raw, prefix, event) -> None:
    await publish(connection, prefix, event("a"))
    await raw.jetstream().publish(f"{prefix}.shop.order-placed.0", b"hello")
    await raw.jetstream().publish(
        f"{prefix}.shop.order-placed.0", b"{}", headers={"Content-Type": "application/cloudevents+json"}
    )
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        assert await take_ids(deliveries, 1) == ["a"]
        for sequence in (2, 3):
            delivery = await take(deliveries)
            assert (delivery.event, delivery.sequence) == (None, sequence)
            assert "specversion" in delivery.problem
            await delivery.ack()


async def test_a_foreign_event_without_id_gets_an_id_from_its_position_and_time(connection, raw, prefix, event) -> None:
    await publish(connection, prefix, event("a"))
    headers = {"ce-specversion": "1.0", "ce-type": "shop.order-placed.v1", "ce-source": "legacy"}
    await raw.jetstream().publish(f"{prefix}.shop.order-placed.0", b"{}", headers=headers)
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        assert await take_ids(deliveries, 1) == ["a"]
        first = await take(deliveries)
        await first.ack()
    await raw.jetstream().delete_stream(f"{prefix}-shop")
    await publish(connection, prefix, event("b"))
    await raw.jetstream().publish(f"{prefix}.shop.order-placed.0", b"{}", headers=headers)
    async with NatsEventSubscription(connection, "g2", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        assert await take_ids(deliveries, 1) == ["b"]
        second = await take(deliveries)
    assert first.event is not None
    assert second.event is not None
    assert first.former_id == second.former_id == f"{prefix}-shop:2"
    assert first.event.id.startswith(f"{prefix}-shop:2@")
    assert first.event.id != second.event.id


async def test_leaving_hands_unread_deliveries_back_at_once(connection, raw, prefix, event) -> None:
    await publish(connection, prefix, *(event(f"{n}") for n in range(30)))
    subscription = NatsEventSubscription(connection, "g", prefix=prefix)
    async with subscription.open([TYPE], prefetch=10) as deliveries:
        first = await take(deliveries)

        async def all_here() -> bool:
            return (await consumer_state(raw, prefix)).num_ack_pending == 10

        await until(all_here)
        started = time.monotonic()
    assert time.monotonic() - started < 2
    await first.ack()
    async with subscription.open([TYPE], prefetch=10) as deliveries:
        assert sorted(map(int, await take_ids(deliveries, 29))) == list(range(1, 30))


async def test_leaving_during_a_flood_leaves_no_delivery_waiting_for_its_timeout(connection, prefix, event) -> None:
    await publish(connection, prefix, *(event(f"{n}") for n in range(400)))
    subscription = NatsEventSubscription(connection, "g", prefix=prefix)
    seen: set[str] = set()
    started = time.monotonic()
    while len(seen) < 400:
        async with subscription.open([TYPE], prefetch=50) as deliveries:
            seen.update(await take_ids(deliveries, min(40, 400 - len(seen))))
    assert time.monotonic() - started < 10


async def test_leaving_is_bounded_when_the_server_is_frozen(server, prefix, event) -> None:
    async with open_connection(server.url) as connection:
        await publish(connection, prefix, *(event(f"{n}") for n in range(10)))
        async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=5) as deliveries:
            delivery = await take(deliveries)
            server.suspend()
            started = time.monotonic()
            await delivery.ack()
        assert time.monotonic() - started < 2


@pytest.mark.thorough("waits in real time, or does much work")
async def test_opening_needs_no_broker_and_outages_are_survived(server, prefix, event) -> None:
    await server.kill()
    async with open_connection(server.url) as connection:
        subscription = NatsEventSubscription(connection, "g", prefix=prefix)
        async with subscription.open([TYPE], prefetch=10) as deliveries:
            waiting = asyncio.create_task(deliveries.next())
            await server.start()
            await publish(connection, prefix, event("a"))
            delivery = await asyncio.wait_for(waiting, 10)
            await server.kill()
            await delivery.in_progress()
            await delivery.ack()
            await server.start()
            await publish(connection, prefix, event("b"))
            async with asyncio.timeout(10):
                while (await deliveries.next()).event.id != "b":
                    pass
        assert connection.epoch("consume") == 2


@pytest.mark.thorough("waits in real time, or does much work")
async def test_an_outage_is_logged_only_by_the_connection(server, prefix, event) -> None:
    with capture_logs() as logs:
        async with open_connection(server.url) as connection:
            subscription = NatsEventSubscription(connection, "g", prefix=prefix)
            async with subscription.open([TYPE], prefetch=10) as deliveries:
                await publish(connection, prefix, event("a"))
                assert await take_ids(deliveries, 1) == ["a"]
                await server.kill()
                with pytest.raises(TimeoutError):
                    await take(deliveries, 0.7)
                await server.start()
                await publish(connection, prefix, event("b"))
                async with asyncio.timeout(10):
                    while (await deliveries.next()).event.id != "b":
                        pass
    assert {line["event"] for line in logs} == {"connected", "disconnected", "closed"}


async def test_the_pull_is_repeated_at_once_after_a_reconnect(server, prefix, event) -> None:
    async with open_connection(server.url) as connection:
        subscription = NatsEventSubscription(connection, "g", prefix=prefix)
        async with subscription.open([TYPE], prefetch=10) as deliveries:
            await publish(connection, prefix, event("a"))
            assert await take_ids(deliveries, 1) == ["a"]
            back = asyncio.Event()
            connection.on_connect("consume", back.set)
            await (await connection.client("consume", timeout=1)).force_reconnect()
            await asyncio.wait_for(back.wait(), 5)
            started = time.monotonic()
            await publish(connection, prefix, event("b"))
            assert await take_ids(deliveries, 1) == ["b"]
            assert time.monotonic() - started < 1


@pytest.mark.parametrize("what", ["consumer", "stream"])
async def test_a_deleted_consumer_or_stream_is_recreated(connection, raw, prefix, event, what) -> None:
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        await publish(connection, prefix, event("a"))
        assert await take_ids(deliveries, 1) == ["a"]
        if what == "consumer":
            await raw.jetstream().delete_consumer(f"{prefix}-shop", "g")
        else:
            await raw.jetstream().delete_stream(f"{prefix}-shop")
        await publish(connection, prefix, event("b"))
        async with asyncio.timeout(10):
            while (await deliveries.next()).event.id != "b":
                pass


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_silently_dead_pull_is_noticed(connection, raw, prefix, event) -> None:
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=1) as deliveries:
        await publish(connection, prefix, event("a"))
        held = await take(deliveries)
        lost = losing_next_pull(await connection.client("consume", timeout=1))
        await held.ack()
        await asyncio.wait_for(lost.wait(), 2)
        await publish(connection, prefix, event("b"))
        assert await take_ids(deliveries, 1) == ["b"]


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_missing_stream_and_a_missing_consumer_without_provision_are_logged_once_and_awaited(
    connection, prefix, event
) -> None:
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, provision=False)
    with capture_logs() as logs:
        async with subscription.open([TYPE], prefetch=10) as deliveries:
            with pytest.raises(TimeoutError):
                await take(deliveries, 0.8)
            await publish(connection, prefix, event("a"))
            with pytest.raises(TimeoutError):
                await take(deliveries, 2)
            api = JetStreamApi(await connection.client("publish", timeout=1), "")
            await provision(api, subscription.topology([TYPE]), done=lambda item: None)
            assert await take_ids(deliveries, 1) == ["a"]
    reasons = [line["reason"].partition(" does")[0] for line in logs if line["event"] == "not consuming"]
    assert reasons == [f"The stream {prefix}-shop", f"The consumer g of the stream {prefix}-shop"]


async def test_a_stream_with_other_settings_is_consumed_and_the_difference_is_logged(connection, prefix, event) -> None:
    await publish(connection, prefix, event("a"))
    settings = StreamSettings(max_age=3600)
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, settings=settings)
    with capture_logs() as logs:
        async with subscription.open([TYPE], prefetch=10) as deliveries:
            assert await take_ids(deliveries, 1) == ["a"]
    assert [line["event"] for line in logs if "max_age" in line.get("reason", "")] == ["the stream differs"]


async def test_event_types_are_added_to_a_group_and_never_removed(connection, raw, prefix, event) -> None:
    subscription = NatsEventSubscription(connection, "g", prefix=prefix)
    async with subscription.open([TYPE], prefetch=10) as deliveries:
        await publish(connection, prefix, event("a"))
        await take_ids(deliveries, 1)
    slower = NatsEventSubscription(connection, "g", prefix=prefix, ack_wait=60)
    async with slower.open([TYPE, "shop.added"], prefetch=10) as deliveries:

        async def known() -> bool:
            return len((await consumer_state(raw, prefix)).config.filter_subjects or []) == 2

        await until(known)
        await publish(connection, prefix, event("b", type="shop.added.v1"))
        assert await take_ids(deliveries, 1) == ["b"]
    async with subscription.open([TYPE], prefetch=10) as deliveries:
        await publish(connection, prefix, event("c"))
        assert await take_ids(deliveries, 1) == ["c"]
    config = (await consumer_state(raw, prefix)).config
    assert config.filter_subjects == [f"{prefix}.shop.added.*", f"{prefix}.shop.order-placed.*"]
    assert (config.ack_wait, config.max_deliver) == (30, -1)


async def test_an_unusable_consumer_is_reported_and_not_changed(connection, raw, prefix, event) -> None:
    await publish(connection, prefix, event("a"))
    await raw.jetstream().add_consumer(f"{prefix}-shop", durable_name="g", max_deliver=3)
    before = (await consumer_state(raw, prefix)).config
    with capture_logs() as logs:
        async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
            await until_told(logs, "max_deliver is 3, not -1")
            with pytest.raises(TimeoutError):
                await take(deliveries, 0.3)
    assert (await consumer_state(raw, prefix)).config == before


async def test_two_members_of_a_group_share_the_events(connection, shared_server, prefix, event) -> None:
    async with open_connection(shared_server.url) as other:
        first = NatsEventSubscription(connection, "g", prefix=prefix)
        second = NatsEventSubscription(other, "g", prefix=prefix)
        async with first.open([TYPE], prefetch=2) as here, second.open([TYPE], prefetch=2) as there:
            await publish(connection, prefix, *(event(f"{n}") for n in range(4)))
            held = [await take(deliveries) for deliveries in (here, here, there, there)]
            assert sorted(delivery.event.id for delivery in held) == ["0", "1", "2", "3"]


async def test_cancelling_next_loses_nothing(connection, prefix, event) -> None:
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        for n in range(20):
            waiting = asyncio.create_task(deliveries.next())
            await asyncio.sleep(0)
            await publish(connection, prefix, event(f"{n}"))
            waiting.cancel()
            done, _ = await asyncio.wait([waiting])
            if not waiting.cancelled():
                assert done.pop().result().event.id == f"{n}"
            else:
                assert await take_ids(deliveries, 1) == [f"{n}"]


@pytest.mark.parametrize(
    "wrong", [{"group": ""}, {"group": "a.b"}, {"group": "a" * 65}, {"ack_wait": 0}, {"prefix": "*"}]
)
async def test_invalid_settings_are_refused(connection, wrong) -> None:
    with pytest.raises(SettingError):
        NatsEventSubscription(connection, **({"group": "g"} | wrong))


@pytest.mark.parametrize(("types", "prefetch"), [([], 1), (["shop"], 1), (["shop.*"], 1), ([TYPE], 0)])
async def test_a_subscription_without_valid_types_is_refused(connection, types, prefetch) -> None:
    with pytest.raises(SettingError):
        NatsEventSubscription(connection, "g").open(types, prefetch=prefetch)


async def test_a_failed_puller_leaves_no_caller_waiting(connection, prefix, monkeypatch) -> None:
    async def fail(self, now: float) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr("mediator.nats.subscription.puller.Puller._ask_for_more", fail)
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        with pytest.raises(ExceptionGroup) as raised:
            await take(deliveries)
    assert raised.group_contains(LookupError, match="a bug")
