"""A group whose durable consumer is lost starts again at its first start, by the broker's clock, and misses nothing."""

import asyncio
import contextlib
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from nats.aio.client import Client
from structlog.testing import capture_logs

from mediator.distributed.inbox import Ordering
from mediator.errors import StreamNotFoundError
from mediator.nats import NatsEventSubscription, open_connection
from mediator.nats.subscription.group import ConsumerGroup
from mediator.nats.topology import DEFAULT_SETTINGS, JetStreamApi, StreamSettings
from mediator.nats.topology.consumers import consumer_config
from tests.adapters.nats.deliveries import publish, take, take_ids
from tests.adapters.nats.offline import OfflineClient
from tests.adapters.nats.subscription.test_subscription import TYPE, until

FEW = StreamSettings(partitions=2)


async def configuration(raw: Client, stream: str, consumer: str = "g") -> dict[str, Any] | None:
    return await JetStreamApi(raw, "").consumer(stream, consumer)


async def delete(raw: Client, stream: str, consumer: str = "g") -> None:
    await raw.jetstream().delete_consumer(stream, consumer)


async def until_there(raw: Client, stream: str, consumer: str = "g") -> dict[str, Any]:
    async def there() -> bool:
        with contextlib.suppress(StreamNotFoundError):
            return await configuration(raw, stream, consumer) is not None
        return False

    await until(there)
    found = await configuration(raw, stream, consumer)
    assert found is not None
    return found


@pytest.mark.parametrize("start", ["all", "new", "time"])
async def test_a_group_whose_consumer_was_deleted_restarts_at_its_first_position(
    connection, raw, prefix, event, start: str
) -> None:
    """No unacknowledged event is lost, even the second time and after a restart of the process."""
    stream = f"{prefix}-shop"
    await publish(connection, prefix, event("old"))
    stored = (await raw.jetstream().get_msg(stream, 1)).time
    assert stored is not None
    await asyncio.sleep(0.002)
    begin = stored + timedelta(milliseconds=1)
    given: Any = begin if start == "time" else start
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, start=given)
    before = ["old"] if start == "all" else []
    async with subscription.open([TYPE], prefetch=10) as deliveries:
        await until_there(raw, stream)
        await publish(connection, prefix, event("1"), event("2"))
        assert await take_ids(deliveries, len(before) + 2) == [*before, "1", "2"]
        for again in ("3", "4"):
            await delete(raw, stream)
            await publish(connection, prefix, event(again))
            expected = [*before, *(f"{number}" for number in range(1, int(again) + 1))]
            assert await take_ids(deliveries, len(expected)) == expected
    async with NatsEventSubscription(connection, "g", prefix=prefix, start=given).open(
        [TYPE], prefetch=9
    ) as deliveries:
        await publish(connection, prefix, event("5"))
        assert await take_ids(deliveries, 1) == ["5"]
        if start == "new":  # only the lost consumer had stored the start, which this process has read
            await delete(raw, stream)
            assert await take_ids(deliveries, 5) == ["1", "2", "3", "4", "5"]


async def test_the_start_of_a_group_of_new_events_is_the_brokers_time_and_not_the_local_time(
    connection, raw, prefix, event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the clock of this process were ahead and used, events between the two times would be lost."""
    stream = f"{prefix}-shop"

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr("mediator.nats.subscription.group.datetime", Ahead, raising=False)
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, start="new")
    async with subscription.open([TYPE], prefetch=10) as deliveries:
        created = datetime.fromisoformat((await until_there(raw, stream))["created"])
        await publish(connection, prefix, event("1"))
        delivery = await take(deliveries)
        await delete(raw, stream)
        again = await take(deliveries)
        assert (again.event.id, delivery.event.id) == ("1", "1")
        found = await configuration(raw, stream)
        assert found is not None
        assert datetime.fromisoformat(found["config"]["opt_start_time"]) == created


async def test_each_partition_of_an_ordered_group_of_new_events_restarts_at_its_first_position(
    connection, raw, prefix, event
) -> None:
    stream = f"{prefix}-shop"
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, start="new", settings=FEW)
    async with subscription.open([TYPE], prefetch=10, ordering="key") as deliveries:
        for number in range(2):
            await until_there(raw, stream, f"g-p{number}")
        events = [event(f"{number}", f"key {number}") for number in range(8)]
        await publish(connection, prefix, *events, settings=FEW)
        assert sorted(await take_ids(deliveries, 8)) == [f"{number}" for number in range(8)]
        for number in range(2):
            await delete(raw, stream, f"g-p{number}")
        assert sorted(await take_ids(deliveries, 8)) == [f"{number}" for number in range(8)]


async def test_a_group_restarts_at_its_first_position_although_another_process_recreated_its_consumer() -> None:
    """A process that never saw the lost consumer starts with new events, which takes no event from the other processes."""
    client, created = OfflineClient(), list[dict[str, Any]]()
    group = ConsumerGroup(
        "g", [TYPE], ordering="none", prefix="p", provision=True, settings=DEFAULT_SETTINGS, ack_wait=None, start="new"
    )
    [settings] = group.consumers()
    answers: list[dict[str, Any]] = [
        {"config": consumer_config(settings), "created": "2026-01-01T00:00:00Z"},
        {"config": consumer_config(settings), "created": "2026-01-02T00:00:00Z"},
        {"error": {"code": 404, "err_code": 10014, "description": "consumer not found"}},
    ]

    async def answer(_subject: str, body: bytes) -> dict[str, Any]:
        if body:
            created.append(json.loads(body)["config"])
            return {"config": created[-1], "created": "2026-01-03T00:00:00Z"}
        return answers.pop(0)

    client.answer = answer
    for _ in range(3):
        await group.ensure(client, settings, "")  # type: ignore[arg-type]
    assert [each["opt_start_time"] for each in created] == ["2026-01-01T00:00:00Z"]


@pytest.mark.parametrize(
    ("ordering", "given", "ack_wait", "pending", "consumers"),
    [("none", None, 30.0, 1000, 1), ("key", None, 10.0, 1, 16), ("none", 7.0, 7.0, 1000, 1), ("key", 7.0, 7.0, 1, 16)],
)
def test_consumers_are_described_by_their_ordering(
    ordering: Ordering, given: float | None, ack_wait: float, pending: int, consumers: int
) -> None:
    group = ConsumerGroup(
        "g",
        ["shop.b", "shop.a"],
        ordering=ordering,
        prefix="p",
        provision=True,
        settings=DEFAULT_SETTINGS,
        ack_wait=given,
        start="all",
    )
    assert group.ack_wait == ack_wait
    found = group.consumers()
    assert [(each.ack_wait, each.max_ack_pending) for each in found] == [(ack_wait, pending)] * consumers
    if ordering == "none":
        assert [(each.name, each.subjects) for each in found] == [("g", ["p.shop.a.*", "p.shop.b.*"])]
    else:
        assert [each.name for each in found] == [f"g-p{number}" for number in range(16)]
        assert found[11].subjects == ["p.shop.a.11", "p.shop.b.11"]


@pytest.mark.parametrize("given", [None, 7.0, 60.0])
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_no_consumer_of_a_group_has_a_shorter_ack_wait_than_its_subscription(
    ordering: Ordering, given: float | None
) -> None:
    async with open_connection("nats://127.0.0.1:1") as offline:
        subscription = NatsEventSubscription(offline, "g", ack_wait=given)
    waits = [each.settings.ack_wait for each in subscription.topology([TYPE], ordering=ordering).consumers]
    assert min(waits) >= subscription.ack_wait
    assert given is None or {*waits} == {subscription.ack_wait} == {given}


async def test_a_second_application_with_the_name_of_a_group_is_refused(connection, raw, prefix, event) -> None:
    """A group of an earlier version, without a name, is taken over by the first application that has a name."""
    stream = f"{prefix}-shop"
    await publish(connection, prefix, event("1"))
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=10) as deliveries:
        await take_ids(deliveries, 1)
    unnamed = await until_there(raw, stream)
    assert "mediator.application" not in (unnamed["config"].get("metadata") or {})
    ours = NatsEventSubscription(connection, "g", prefix=prefix, application="billing")
    theirs = NatsEventSubscription(connection, "g", prefix=prefix)
    theirs.use_application("shipping")

    async def named() -> bool:
        found = await configuration(raw, stream)
        return found is not None and found["config"]["metadata"].get("mediator.application") == "billing"

    async def told() -> bool:
        return any(line["event"] == "not consuming" for line in logs)

    async with ours.open([TYPE], prefetch=10) as deliveries:
        await until(named)
        with capture_logs() as logs:
            async with theirs.open([TYPE], prefetch=10) as refused:
                waiting = asyncio.create_task(refused.next())
                await until(told)
                await publish(connection, prefix, *(event(f"{number}") for number in range(2, 12)))
                await take_ids(deliveries, 10)
                assert not waiting.done()
                waiting.cancel()
    assert any("belongs to the application 'billing', not to 'shipping'" in line.get("reason", "") for line in logs)
    assert await named()
