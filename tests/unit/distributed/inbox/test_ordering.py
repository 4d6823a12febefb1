"""Consumers with `ordering="key"`: one event of a key at a time; a parked event holds back only events of its key."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.distributed.cloudevents import bucket_of
from mediator.distributed.inbox import ParkedReplay
from mediator.distributed.parking import ParkedFilter
from mediator.errors import FatalEventError, NotFoundError, SettingError, StreamMismatchError
from mediator.testing import InMemoryBroker, InMemoryEventSubscription
from tests.unit.distributed.inbox.application import TYPE, Application, OrderPlaced, failing

ORDERED: dict[str, Any] = {"ordering": "key", "retry_delays": (0.0, 0.001)}


EVERYTHING = ParkedFilter()
PARTITION = bucket_of("a", "") % 16
"""The partition of the events whose key is "a"."""


async def replayed(
    application: Application, which: ParkedFilter = EVERYTHING, *, dry_run: bool = False, **options: Any
) -> list[tuple[str, str]]:
    replay = ParkedReplay(application.parking, [application.consumer], **options)
    return [(result.event.event_id, result.outcome) async for result in replay.run(which, dry_run=dry_run)]


async def test_events_of_a_key_are_handled_one_by_one_and_other_partitions_concurrently():
    application = Application(ORDERED)
    go = asyncio.Event()

    async def act(_event: OrderPlaced) -> None:
        await go.wait()

    application.acts = dict.fromkeys((1, 2, 3), act)
    application.publish(1, 2, key="a")
    application.publish(3, key="b")
    async with application.running():
        async with asyncio.timeout(5):
            assert {await application.started.get() for _ in range(2)} == {1, 3}
        await asyncio.sleep(0.02)
        assert application.started.empty()
        go.set()
        await application.settled(3)
    assert application.effects.index(1) < application.effects.index(2)


async def test_a_failing_event_is_retried_before_its_successor():
    application = Application(ORDERED)
    application.acts[1] = failing(ValueError(), times=2)
    application.publish(1, 2, 3, key="a")
    async with application.running():
        await application.settled(3)
    assert application.effects == [1, 2, 3]
    assert application.attempts == [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]


async def test_a_parked_event_parks_its_successors_in_order_and_no_other_key():
    application = Application(ORDERED)
    application.acts[2] = failing(ValueError())
    application.publish(1, 2, 3, key="a")
    application.publish(4, 5, key="b")
    application.publish(6, key="a")
    application.publish(7)
    async with application.running():
        await application.settled(7)
    assert sorted(application.effects) == [1, 4, 5, 7]
    assert application.parked() == [("e2", "handler-failed", 3), ("e3", "key-parked", 0), ("e6", "key-parked", 0)]
    assert [number for number, _ in application.attempts if number in (3, 6)] == []


async def test_in_an_unordered_group_a_parked_event_holds_no_event_back():
    application = Application({"retry_delays": (0.0,)})
    application.acts[1] = failing(FatalEventError())
    application.publish(1, 2, key="a")
    async with application.running():
        await application.settled(2)
    assert (application.effects, application.parked()) == ([2], [("e1", "fatal-error", 1)])


async def test_a_fixed_key_is_replayed_in_order_and_then_handled_live():
    application = Application(ORDERED)
    application.acts[1] = failing(ValueError())
    application.publish(1, 2, 3, key="a")
    async with application.running():
        await application.settled(3)
        assert await replayed(application) == [("e1", "failed"), ("e2", "blocked"), ("e3", "blocked")]
        assert application.parked()[0] == ("e1", "handler-failed", 4)
        application.acts.clear()
        assert await replayed(application) == [("e1", "replayed"), ("e2", "replayed"), ("e3", "replayed")]
        application.publish(4, key="a")
        await application.settled(4)
    assert application.effects == [1, 2, 3, 4]
    assert application.parked() == []
    assert len(application.database.outbox) == 4


async def test_a_filter_for_the_first_event_of_a_key_also_replays_the_events_behind_that_event():
    application = Application(ORDERED)
    application.acts[1] = failing(ValueError())
    application.acts[5] = failing(FatalEventError())
    application.publish(1, 2, key="a")
    application.publish(5)
    async with application.running():
        await application.settled(3)
    application.acts.clear()
    failed = ParkedFilter(reason="handler-failed")
    assert await replayed(application, failed, dry_run=True) == [("e1", "ready"), ("e2", "ready")]
    assert len(application.parked()) == 3
    assert await replayed(application, failed) == [("e1", "replayed"), ("e2", "replayed")]
    assert application.parked() == [("e5", "fatal-error", 1)]


async def test_an_event_that_is_not_the_first_of_its_key_is_blocked_and_names_the_first_event():
    application = Application(ORDERED)
    application.acts[1] = failing(ValueError())
    application.publish(1, 2, 3, key="a")
    async with application.running():
        await application.settled(3)
    application.acts.clear()
    first, second, _ = (event.number for event in application.parking.events)
    behind = ParkedFilter(numbers=(second,))
    for dry_run in (True, False):
        assert await replayed(application, behind, dry_run=dry_run) == [("e2", "blocked")]
    assert await replayed(application, ParkedFilter(numbers=(first, second)), dry_run=True) == [
        ("e1", "ready"),
        ("e2", "ready"),
        ("e3", "ready"),
    ]
    await application.parking.discard(first)
    assert await replayed(application, behind) == [("e2", "replayed"), ("e3", "replayed")]


async def test_a_replay_continues_with_other_keys_after_a_failure_and_keeps_its_rate():
    application = Application(ORDERED)
    application.acts = {1: failing(ValueError()), 3: failing(ValueError()), 4: failing(ValueError())}
    application.publish(1, 2, key="a")
    application.publish(3, key="b")
    application.publish(4)
    async with application.running():
        await application.settled(4)
    del application.acts[3], application.acts[4]
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    outcomes = await replayed(application, rate=4.0, sleep=sleep, clock=lambda: sum(pauses))
    assert dict(outcomes) == {"e1": "failed", "e2": "blocked", "e3": "replayed", "e4": "replayed"}
    assert pauses == [0.25, 0.25]
    with pytest.raises(SettingError):
        ParkedReplay(application.parking, [], rate=0)


async def test_a_replay_continues_after_a_cancelled_handler():
    application = Application(ORDERED)
    application.acts = dict.fromkeys((1, 2, 3), failing(ValueError()))
    for number in (1, 2, 3):
        application.publish(number, key=str(number))
    async with application.running():
        await application.settled(3)
    application.acts = {2: failing(asyncio.CancelledError())}
    assert dict(await replayed(application)) == {"e1": "replayed", "e2": "failed", "e3": "replayed"}
    assert application.parking.events[0].error.startswith("CancelledError")


async def test_a_replay_of_a_group_without_a_consumer_here_fails_and_names_the_group():
    application = Application(ORDERED)
    application.acts[1] = failing(ValueError())
    application.publish(1)
    async with application.running():
        await application.settled(1)
    replay = ParkedReplay(application.parking, [])
    (result,) = [result async for result in replay.run(ParkedFilter())]
    assert isinstance(result.error, NotFoundError)
    assert "'warehouse'" in application.parking.events[0].error


async def test_a_replayed_event_takes_effect_once_although_it_is_redelivered():
    application = Application(ORDERED)
    application.acts[1] = failing(ValueError())
    application.publish(1, key="a")
    async with application.running():
        await application.settled(1)
    application.acts.clear()
    results = await asyncio.gather(replayed(application), replayed(application))
    assert sorted(results) == [[], [("e1", "replayed")]]
    assert application.starts[1] == 4
    assert (application.effects, len(application.database.outbox)) == ([1], 1)


async def test_an_event_that_cannot_be_decoded_parks_its_key_too():
    application = Application(ORDERED)
    application.broker.store_message(
        "shop.order-placed",
        {
            "ce-specversion": "1.0",
            "ce-id": "x",
            "ce-source": "s",
            "ce-type": "shop.order-placed.v1",
            "ce-partitionkey": "a",
        },
        b'{"number": "seven"}',
        partition=PARTITION,
    )
    application.publish(2, key="a")
    async with application.running():
        await application.settled(2)
    assert application.parked() == [("x", "undecodable", 1), ("e2", "key-parked", 0)]


BINARY = {
    "ce-specversion": "1.0",
    "ce-id": "x",
    "ce-source": "s",
    "ce-type": "shop.order-placed.v1",
    "ce-partitionkey": "a",
}
STRUCTURED = {name.removeprefix("ce-"): value for name, value in BINARY.items()} | {"data": {"number": 1}}


def structured(**changes: Any) -> tuple[dict[str, str], bytes]:
    return {"content-type": "application/cloudevents+json"}, json.dumps(STRUCTURED | changes).encode()


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        (BINARY | {"ce-time": "tomorrow"}, b'{"number": 1}'),
        (BINARY | {"ce-specversion": "0.3"}, b'{"number": 1}'),
        (BINARY | {"ce-source": ""}, b'{"number": 1}'),
        (BINARY | {"ce-id": "%FF"}, b'{"number": 1}'),
        ({name.upper(): value for name, value in BINARY.items()} | {"CE-TIME": "tomorrow"}, b'{"number": 1}'),
        structured(time="tomorrow"),
        structured(specversion=None),
        (structured()[0] | BINARY, b"[" * 100_000),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_an_event_with_a_readable_key_and_little_else_parks_its_key_too(headers: dict[str, str], data: bytes):
    application = Application(ORDERED)
    application.broker.store_message("shop.order-placed", headers, data, partition=PARTITION)
    application.publish(2, key="a")
    application.publish(3, key="b")
    async with application.running():
        await application.settled(3)
    unreadable, behind = application.parking.events
    assert (unreadable.reason, unreadable.partition_key) == ("undecodable", "a")
    assert unreadable.type == "shop.order-placed.v1"
    assert unreadable.error.startswith(
        "EventNotDecodableError: An event of type shop.order-placed.v1 cannot be decoded: "
    )
    assert unreadable.error.count("cannot be decoded") == 1
    assert (behind.event_id, behind.reason) == ("e2", "key-parked")
    assert application.effects == [3]


async def test_an_unreadable_event_that_was_edited_is_replayed_before_its_successors():
    application = Application(ORDERED)
    application.broker.store_message(
        "shop.order-placed", BINARY | {"ce-time": "tomorrow"}, b'{"number": 1}', partition=PARTITION
    )
    application.publish(2, key="a")
    async with application.running():
        await application.settled(2)
        first, second = application.parking.events
        assert await replayed(application, ParkedFilter(numbers=(second.number,))) == [("e2", "blocked")]
        assert await replayed(application) == [(first.event_id, "failed"), ("e2", "blocked")]
        assert application.parking.events[0].error.count("cannot be decoded") == 1
        await application.parking.edit(first.number, headers=BINARY)
        application.publish(3, key="a")
        await application.settled(3)
        outcomes = await replayed(application, ParkedFilter(numbers=(first.number,)))
        assert outcomes == [(first.event_id, "replayed"), ("e2", "replayed"), ("e3", "replayed")]
        application.publish(4, key="a")
        await application.settled(4)
    assert (application.effects, application.parked()) == ([1, 2, 3, 4], [])


async def test_an_unreadable_event_waits_behind_the_parked_events_of_its_key():
    application = Application(ORDERED)
    application.acts[1] = failing(FatalEventError())
    application.publish(1, key="a")
    application.broker.store_message(
        "shop.order-placed", BINARY | {"ce-time": "tomorrow"}, b'{"number": 2}', partition=PARTITION
    )
    async with application.running():
        await application.settled(2)
    _, unreadable = application.parking.events
    await application.parking.edit(unreadable.number, headers=BINARY)
    unreadable_only = ParkedFilter(numbers=(unreadable.number,))
    assert await replayed(application, unreadable_only) == [(unreadable.event_id, "blocked")]
    application.acts.clear()
    assert [outcome for _, outcome in await replayed(application)] == ["replayed", "replayed"]
    assert application.effects == [1, 2]


@pytest.mark.parametrize("key", ["%FF", "\ufffd", None])
async def test_an_event_with_an_unreadable_key_holds_no_event_back(key: str | None):
    application = Application(ORDERED)
    headers = {name: value for name, value in BINARY.items() if name != "ce-partitionkey"} | {"ce-time": "tomorrow"}
    if key is not None:
        headers["ce-partitionkey"] = key
    application.broker.store_message("shop.order-placed", headers, b'{"number": 1}', partition=PARTITION)
    application.publish(2, key="a")
    async with application.running():
        await application.settled(2)
    (unreadable,) = application.parking.events
    assert (unreadable.partition_key, unreadable.type) == (None, "shop.order-placed.v1")
    assert application.effects == [2]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0, 0, 0, 1, 2, 9])), min_size=1, max_size=12))
def test_effects_and_parked_events_keep_the_order_of_each_key_for_any_failures(events: list[tuple[str, int]]):
    asyncio.run(check_order(events))


async def check_order(events: list[tuple[str, int]]) -> None:
    """Check the order of events. Each event has a key and a number of handler failures; too many failures park the key."""
    application = Application({"ordering": "key", "retry_delays": (0.0,) * 2})
    for number, (key, failures) in enumerate(events):
        if failures:
            application.acts[number] = failing(ValueError(), failures)
        application.publish(number, key=key)
    async with application.running():
        await application.settled(len(events))
    parked = [int(event_id[1:]) for event_id, _, _ in application.parked()]
    for key in "abc":
        mine = [number for number, (its, _) in enumerate(events) if its == key]
        first = next((number for number in mine if events[number][1] > 2), len(events))
        assert [n for n in application.effects if n in mine] == [n for n in mine if n < first]
        assert [n for n in parked if n in mine] == [n for n in mine if n >= first]
    application.acts.clear()
    await replayed(application)
    for key in "abc":
        mine = [number for number, (its, _) in enumerate(events) if its == key]
        assert [n for n in application.effects if n in mine] == mine


async def test_a_group_belongs_to_one_application_and_another_application_is_refused() -> None:
    broker = InMemoryBroker()
    async with InMemoryEventSubscription(broker, "g", application="billing").open([TYPE], prefetch=1):
        other = InMemoryEventSubscription(broker, "g")
        other.use_application("shipping")
        with pytest.raises(StreamMismatchError, match="belongs to the application 'billing', not to 'shipping'"):
            async with other.open([TYPE], prefetch=1):
                pass
        async with InMemoryEventSubscription(broker, "g", application="billing").open([TYPE], prefetch=1):
            pass
