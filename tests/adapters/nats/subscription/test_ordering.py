"""Ordered groups: one consumer per partition, one delivery at a time across processes, in order despite faults."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from mediator.distributed.inbox import Deliveries
from mediator.errors import SettingError
from mediator.nats import NatsEventSubscription, StreamSettings, open_connection
from mediator.nats.subscription.puller import Slots
from tests.adapters.nats.deliveries import losing_next_pull, publish, take, take_ids, until_told

pytestmark = pytest.mark.thorough("kills and freezes processes")

TYPE = "shop.order-placed"


def subscription(connection, prefix, **options) -> NatsEventSubscription:
    return NatsEventSubscription(connection, "g", prefix=prefix, **options)


async def nothing(deliveries: Deliveries, seconds: float = 0.3) -> None:
    with pytest.raises(TimeoutError):
        await take(deliveries, seconds)


def keys(count: int, event) -> list[str]:
    """Return keys that lie in as many different partitions."""
    found: dict[int, str] = {}
    for n in range(1000):
        found.setdefault(event("x", f"k{n}").bucket % 16, f"k{n}")
    return [found[partition] for partition in sorted(found)][:count]


async def test_the_next_event_of_a_key_is_delivered_after_its_predecessor_is_acknowledged(
    connection, prefix, event
) -> None:
    await publish(connection, prefix, *(event(f"{n}", "k") for n in range(5)))
    async with subscription(connection, prefix).open([TYPE], prefetch=10, ordering="key") as deliveries:
        for n in range(5):
            delivery = await take(deliveries)
            assert delivery.event.id == f"{n}"
            assert delivery.partition == delivery.event.bucket % 16
            if n < 2:
                await nothing(deliveries)
            await delivery.ack()


async def test_an_unacknowledged_event_does_not_delay_other_keys(connection, prefix, event) -> None:
    await publish(connection, prefix, *(event(f"{key}-{n}", key) for n in range(2) for key in keys(16, event)))
    async with subscription(connection, prefix).open([TYPE], prefetch=64, ordering="key") as deliveries:
        first = [await take(deliveries) for _ in range(16)]
        assert {delivery.partition for delivery in first} == set(range(16))
        assert {delivery.event.id[-1] for delivery in first} == {"0"}
        await first[0].ack()
        assert (await take(deliveries)).event.id == f"{first[0].event.partitionkey}-1"
        await nothing(deliveries)


async def test_an_event_that_is_put_back_delays_only_its_partition(connection, prefix, event) -> None:
    one, two = keys(2, event)
    await publish(connection, prefix, event("1", one), event("2", one), event("3", two), event("4", two))
    async with subscription(connection, prefix).open([TYPE], prefetch=10, ordering="key") as deliveries:
        held = {delivery.event.id: delivery for delivery in [await take(deliveries), await take(deliveries)]}
        await held["1"].nak(1.0)
        started = time.monotonic()
        await held["3"].ack()
        assert await take_ids(deliveries, 1) == ["4"]
        again = await take(deliveries)
        assert time.monotonic() - started > 0.8
        assert (again.event.id, again.attempt) == ("1", 2)
        await again.nak(0)
        assert await take_ids(deliveries, 2) == ["1", "2"]


async def test_the_next_event_of_a_key_is_delivered_after_its_predecessor_is_terminated(
    connection, prefix, event
) -> None:
    await publish(connection, prefix, event("1", "k"), event("2", "k"))
    async with subscription(connection, prefix).open([TYPE], prefetch=10, ordering="key") as deliveries:
        await (await take(deliveries)).term("parked")
        assert await take_ids(deliveries, 1) == ["2"]


async def test_a_partition_has_one_delivery_across_all_processes(connection, shared_server, prefix, event):
    await publish(connection, prefix, *(event(f"{n}", "k") for n in range(40)))
    seen: list[str] = []
    at_work = 0

    async def work(deliveries: Deliveries) -> None:
        nonlocal at_work
        while True:
            delivery = await deliveries.next()
            at_work += 1
            assert at_work == 1
            await asyncio.sleep(0.002)
            seen.append(delivery.event.id)
            at_work -= 1
            await delivery.ack()

    async with (
        open_connection(shared_server.url) as other,
        asyncio.timeout(20),
        subscription(connection, prefix).open([TYPE], prefetch=10, ordering="key") as here,
        subscription(other, prefix).open([TYPE], prefetch=10, ordering="key") as there,
    ):
        workers = [asyncio.create_task(work(deliveries)) for deliveries in (here, there)]
        while len(seen) < 40:
            await asyncio.sleep(0.01)
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    assert seen == [f"{n}" for n in range(40)]


CHILD = """
import asyncio, sys
from mediator.nats import NatsEventSubscription, open_connection

async def main():
    async with open_connection(sys.argv[1]) as connection:
        group = NatsEventSubscription(connection, "g", prefix=sys.argv[2], ack_wait=1.0)
        async with group.open(["shop.order-placed"], prefetch=64, ordering="key") as deliveries:
            while True:
                delivery = await deliveries.next()
                print(delivery.event.id, flush=True)
                if not delivery.event.id.startswith("hold"):
                    await delivery.ack()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_another_process_continues_in_order_after_one_dies_or_freezes(
    connection, shared_server, prefix, event, number
) -> None:
    await publish(connection, prefix, *(event(name, "k") for name in ("a", "hold", "b", "c")))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, shared_server.url, prefix, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            while (await child.stdout.readline()).decode().strip() != "hold":
                pass
        os.kill(child.pid, number)
        started = time.monotonic()
        mine = subscription(connection, prefix, ack_wait=1.0)
        async with mine.open([TYPE], prefetch=64, ordering="key") as deliveries:
            first = await take(deliveries)
            assert (first.event.id, first.attempt) == ("hold", 2)
            assert time.monotonic() - started < 6
            await first.ack()
            assert await take_ids(deliveries, 2) == ["b", "c"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        child._transport.close()


async def test_a_process_that_leaves_hands_its_partitions_over_at_once(connection, shared_server, prefix, event):
    await publish(connection, prefix, *(event(f"{key}-{n}", key) for n in range(2) for key in keys(8, event)))
    async with open_connection(shared_server.url) as other:
        leaving = subscription(other, prefix).open([TYPE], prefetch=64, ordering="key")
        async with leaving as deliveries:
            taken = [await take(deliveries) for _ in range(3)]
            for delivery in taken:
                await delivery.nak(0)
        started = time.monotonic()
        async with subscription(connection, prefix).open([TYPE], prefetch=64, ordering="key") as deliveries:
            ids = await take_ids(deliveries, 16)
        assert time.monotonic() - started < 5
        for key in keys(8, event):
            assert [one for one in ids if one.startswith(f"{key}-")] == [f"{key}-0", f"{key}-1"]


async def test_leaving_is_bounded_if_the_server_is_frozen_or_gone(server, prefix, event) -> None:
    async with open_connection(server.url) as connection:
        await publish(connection, prefix, *(event(f"{n}", f"{n}") for n in range(20)))
        for interrupt in (server.suspend, server._kill_now):
            async with subscription(connection, prefix).open([TYPE], prefetch=64, ordering="key") as deliveries:
                await take(deliveries)
                interrupt()
                started = time.monotonic()
            assert time.monotonic() - started < 3
            server.resume()


async def test_every_partition_has_its_turn_with_a_small_prefetch(connection, prefix, event) -> None:
    chosen = keys(12, event)
    await publish(connection, prefix, *(event(f"{key}-{n}", key) for n in range(6) for key in chosen))
    ids: list[str] = []
    async with subscription(connection, prefix).open([TYPE], prefetch=2, ordering="key") as deliveries:
        held = [await take(deliveries), await take(deliveries)]
        await nothing(deliveries)
        for delivery in held:
            ids.append(delivery.event.id)
            await delivery.ack()
        while len(ids) < 72:
            ids += await take_ids(deliveries, 1)
    for key in chosen:
        assert [one for one in ids if one.startswith(f"{key}-")] == [f"{key}-{n}" for n in range(6)]
    first_rounds = [one.rpartition("-")[0] for one in ids[:36]]
    assert len(set(first_rounds)) == 12


async def test_an_event_without_room_in_one_process_goes_to_another_at_once(connection, shared_server, prefix, event):
    await publish(connection, prefix, *(event(key, key) for key in keys(3, event)))
    async with (
        open_connection(shared_server.url) as other,
        subscription(connection, prefix).open([TYPE], prefetch=1, ordering="key") as here,
        subscription(other, prefix).open([TYPE], prefetch=2, ordering="key") as there,
    ):
        held = [await take(here, 4), await take(there, 4), await take(there, 4)]
        assert sorted(delivery.event.id for delivery in held) == sorted(keys(3, event))


async def test_several_streams_are_consumed_concurrently(connection, prefix, event) -> None:
    events = [event(f"{c}-{n}", "k", type=f"{c}.x.v1") for n in range(3) for c in ("shop", "store")]
    await publish(connection, prefix, *events)
    async with subscription(connection, prefix).open(["shop.x", "store.x"], prefetch=1, ordering="key") as deliveries:
        ids = await take_ids(deliveries, 6)
    for domain in ("shop", "store"):
        assert [one for one in ids if one.startswith(domain)] == [f"{domain}-{n}" for n in range(3)]


async def test_types_of_one_key_keep_their_order_among_each_other(connection, prefix, event) -> None:
    names = ["shop.added.v1", "shop.removed.v1", "shop.added.v2", "shop.removed.v1"]
    await publish(connection, prefix, *(event(f"{n}", "k", type=name) for n, name in enumerate(names)))
    types = ["shop.added", "shop.removed"]
    async with subscription(connection, prefix).open(types, prefetch=10, ordering="key") as deliveries:
        assert await take_ids(deliveries, 4) == ["0", "1", "2", "3"]


async def test_the_consumers_of_an_ordered_group_have_the_required_settings(connection, raw, prefix, event) -> None:
    await publish(connection, prefix, event("a", "k"))
    async with subscription(connection, prefix).open([TYPE], prefetch=10, ordering="key") as deliveries:
        assert await take_ids(deliveries, 1) == ["a"]
    async with subscription(connection, prefix).open([TYPE, "shop.added"], prefetch=10, ordering="key") as deliveries:
        async with asyncio.timeout(8):
            while any(
                len(info.config.filter_subjects or []) < 2
                for info in await raw.jetstream().consumers_info(f"{prefix}-shop")
            ):
                await asyncio.sleep(0.01)
        await publish(connection, prefix, event("b", "k", type="shop.added.v1"))
        assert await take_ids(deliveries, 1) == ["b"]
    consumers = {info.name: info.config for info in await raw.jetstream().consumers_info(f"{prefix}-shop")}
    assert set(consumers) == {f"g-p{n}" for n in range(16)}
    config = consumers["g-p3"]
    assert (config.max_ack_pending, config.ack_wait, config.max_deliver) == (1, 10, -1)
    assert (config.ack_policy, config.deliver_policy) == ("explicit", "all")
    assert config.filter_subjects == [f"{prefix}.shop.added.3", f"{prefix}.shop.order-placed.3"]


async def test_a_number_of_partitions_unlike_the_settings_is_refused(connection, raw, prefix, event) -> None:
    four = StreamSettings(partitions=4)
    await publish(connection, prefix, event("a", "k"), settings=four)
    with capture_logs() as logs:
        async with subscription(connection, prefix).open([TYPE], prefetch=10, ordering="key") as deliveries:
            await until_told(logs, "mediator.partitions in the stream's metadata is 4, not 16")
            await nothing(deliveries)
    assert await raw.jetstream().consumers_info(f"{prefix}-shop") == []
    ordered = subscription(connection, prefix, settings=four)
    async with ordered.open([TYPE], prefetch=10, ordering="key") as deliveries:
        assert await take_ids(deliveries, 1) == ["a"]
    assert len(await raw.jetstream().consumers_info(f"{prefix}-shop")) == 4


async def test_a_group_cannot_change_its_ordering_until_its_old_consumers_are_deleted(
    connection, raw, prefix, event
) -> None:
    await publish(connection, prefix, event("a", "k"))
    async with subscription(connection, prefix).open([TYPE], prefetch=10) as deliveries:
        assert await take_ids(deliveries, 1) == ["a"]
    with capture_logs() as logs:
        async with subscription(connection, prefix).open([TYPE], prefetch=10, ordering="key") as deliveries:
            await until_told(logs, "the consumer g shows that the group used the other ordering before")
            await nothing(deliveries)
            assert [info.name for info in await raw.jetstream().consumers_info(f"{prefix}-shop")] == ["g"]
            await raw.jetstream().delete_consumer(f"{prefix}-shop", "g")
            assert await take_ids(deliveries, 1) == ["a"]
    reasons = [line["reason"] for line in logs if line["event"] == "not consuming"]
    assert len(reasons) == 1
    with capture_logs() as logs:
        async with subscription(connection, prefix).open([TYPE], prefetch=10) as deliveries:
            await until_told(logs, "the consumer g-p0 shows")
            await nothing(deliveries)


async def test_a_deleted_consumer_of_a_partition_is_recreated_while_the_others_continue(
    connection, raw, prefix, event
) -> None:
    one, two = keys(2, event)
    async with subscription(connection, prefix).open([TYPE], prefetch=64, ordering="key") as deliveries:
        await publish(connection, prefix, event("a", one), event("b", two))
        held = {delivery.event.id: delivery for delivery in [await take(deliveries), await take(deliveries)]}
        await held["a"].ack()
        await raw.jetstream().delete_consumer(f"{prefix}-shop", f"g-p{event('x', one).bucket % 16}")
        await publish(connection, prefix, event("c", one))
        seen = await take_ids(deliveries, 2)  # it starts again from the beginning: "a" may come twice
        assert seen == ["a", "c"]
        await held["b"].ack()


async def test_a_stalled_pull_of_one_partition_is_noticed(connection, prefix, event) -> None:
    async with subscription(connection, prefix).open([TYPE], prefetch=64, ordering="key") as deliveries:
        await publish(connection, prefix, event("a", "k"))
        held = await take(deliveries)
        lost = losing_next_pull(await connection.client("consume", timeout=1))
        await held.ack()
        await asyncio.wait_for(lost.wait(), 2)
        await publish(connection, prefix, event("b", "k"), event("c", "other"))
        assert sorted([(await take(deliveries, 10)).event.id, (await take(deliveries, 10)).event.id]) == ["b", "c"]


async def test_an_outage_and_a_restart_keep_the_order(server, prefix, event) -> None:
    async with open_connection(server.url) as connection:
        await publish(connection, prefix, *(event(f"{n}", "k") for n in range(30)))
        ids: list[str] = []
        group = subscription(connection, prefix, ack_wait=1.0)
        async with group.open([TYPE], prefetch=64, ordering="key") as deliveries:
            for stop in (10, 20, 30):
                while len(ids) < stop:
                    ids += [one for one in await take_ids(deliveries, 1) if one not in ids]
                if stop < 30:
                    await server.kill()
                    await server.start()
    assert ids == [f"{n}" for n in range(30)]


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_new_group_begins_at_the_given_start_and_an_existing_one_at_its_position(
    connection, raw, prefix, event, ordering
):
    await publish(connection, prefix, event("old", "k"))
    since = datetime.now(UTC)
    await asyncio.sleep(0.01)
    await publish(connection, prefix, event("late", "k"))

    async def until_there(group: str) -> None:
        async with asyncio.timeout(10):
            there: set[str] = set()
            while len(there) < (16 if ordering == "key" else 1):
                there = {info.name for info in await raw.jetstream().consumers_info(f"{prefix}-shop")}
                there = {name for name in there if name.startswith(group)}

    async def received(group: str, start, *more) -> list[str]:
        one = NatsEventSubscription(connection, group, prefix=prefix, start=start)
        ids: list[str] = []
        async with one.open([TYPE], prefetch=10, ordering=ordering) as deliveries:
            if more:
                await until_there(group)
                await publish(connection, prefix, *more)
            while not ids or ids[-1] not in {"late", "after", "last"}:
                ids += await take_ids(deliveries, 1)
        return ids

    assert await received("everything", "all") == ["old", "late"]
    assert await received("since", since) == ["late"]
    assert await received("fresh", "new", event("after", "k")) == ["after"]
    await publish(connection, prefix, event("last", "k"))
    assert await received("fresh", "all") == ["last"]
    assert await received("since", since - timedelta(days=1)) == ["after"]


@pytest.mark.parametrize("wrong", [{"group": "a-p0"}, {"start": "yesterday"}, {"start": datetime(2026, 1, 1)}])  # noqa: DTZ001
async def test_invalid_settings_are_refused(connection, wrong) -> None:
    with pytest.raises(SettingError):
        NatsEventSubscription(connection, **({"group": "g"} | wrong))


async def test_an_unknown_ordering_is_refused(connection) -> None:
    with pytest.raises(SettingError):
        NatsEventSubscription(connection, "g").open([TYPE], prefetch=1, ordering="keys")


def test_places_are_given_out_in_the_order_of_asking() -> None:
    room, granted = Slots(1), []
    assert room.take()
    assert not room.take()
    for name in "abc":
        room.ask(lambda name=name: granted.append(name))
    for _ in range(3):
        room.give_back()
    assert granted == ["a", "b", "c"]
    room.give_back()
    assert room.take()


WORKER = """
import asyncio, os, random, sys
from mediator.nats import NatsEventSubscription, open_connection

async def work(deliveries, file, rng):
    while True:
        delivery = await deliveries.next()
        await asyncio.sleep(rng.random() * 0.2)
        os.write(file, f"{delivery.event.id}\\n".encode())
        if rng.random() < 0.1:
            await delivery.nak(rng.random() * 0.2)
        else:
            await delivery.ack()

async def main():
    file = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    rng = random.Random(int(sys.argv[4]))
    async with open_connection(sys.argv[1], probe_interval=0.5) as connection:
        group = NatsEventSubscription(connection, "g", prefix=sys.argv[2], ack_wait=1.0)
        async with group.open(["shop.order-placed"], prefetch=rng.choice([3, 64]), ordering="key") as deliveries:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(6):
                    tasks.create_task(work(deliveries, file, rng))

asyncio.run(main())
"""


async def test_processes_and_brokers_that_are_killed_and_frozen_at_random_never_invert_a_key(
    server, prefix, event, tmp_path
) -> None:
    rng, log = random.Random(7), tmp_path / "log"
    count, per_key = 1200, 60
    log.touch()

    async def start() -> asyncio.subprocess.Process:
        seed = str(rng.randrange(10**6))
        return await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, server.url, prefix, str(log), seed)

    workers = [await start() for _ in range(3)]
    try:
        async with open_connection(server.url) as connection, asyncio.timeout(90):
            await publish(connection, prefix, *(event(f"{n}", f"k{n % (count // per_key)}") for n in range(count)))
            accidents = 0
            while len(set(log.read_text().split())) < count:
                await asyncio.sleep(0.15)
                if accidents == 12:
                    continue
                accidents += 1
                victim = rng.choice(workers)
                what = rng.choice(["kill", "freeze", "broker"])
                if what == "kill":
                    victim.kill()
                    await victim.wait()
                    workers[workers.index(victim)] = await start()
                elif what == "freeze":
                    victim.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(1.2)
                    victim.send_signal(signal.SIGCONT)
                else:
                    await server.kill()
                    await server.start()
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
    assert accidents == 12
    first_seen = list(dict.fromkeys(log.read_text().split()))
    for key in range(count // per_key):
        seen = [int(one) for one in first_seen if int(one) % (count // per_key) == key]
        assert seen == list(range(key, count, count // per_key))
