"""Atomic batches: all or nothing, in order, and one by one when the broker does not take a batch."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import EventHeldBackError, EventRefusedError, PublisherUnavailableError
from mediator.nats import NatsEventPublisher, StreamSettings, open_connection
from mediator.nats.binding import domain_of, to_headers
from mediator.nats.publisher.in_flight import BATCH, SMALLEST, InFlight, OutgoingMessage

BATCHED = StreamSettings(atomic_batches=True)


async def stored(client: Client, stream: str) -> list[str]:
    """Return the ids in a stream, in its order."""
    return [headers["ce-id"] for headers in await headers_in(client, stream)]


async def headers_in(client: Client, stream: str) -> list[dict[str, str]]:
    jetstream = client.jetstream()
    last = (await jetstream.stream_info(stream)).state.last_seq
    return [(await jetstream.get_msg(stream, seq, direct=True)).headers or {} for seq in range(1, last + 1)]


async def batches_in(client: Client, stream: str) -> list[str]:
    """Return the batch id of each stored message; empty for a message that was sent alone."""
    return [headers.get("Nats-Batch-Id", "") for headers in await headers_in(client, stream)]


async def change_stream(raw: Client, stream: str, **changes: object) -> None:
    config = json.loads((await raw.request(f"$JS.API.STREAM.INFO.{stream}")).data)["config"]
    answer = await raw.request(f"$JS.API.STREAM.UPDATE.{stream}", json.dumps(config | changes).encode())
    assert "error" not in json.loads(answer.data)


def errors(results) -> list[type]:
    return [type(result.error) for result in results]


async def test_many_events_of_one_stream_are_stored_as_one_batch_in_their_order(connection, raw, prefix, event):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    events = [event(f"{n}", f"k{n % 3}") for n in range(50)]
    assert set(errors(await publisher.publish(events))) == {type(None)}
    assert await stored(raw, f"{prefix}-shop") == [each.id for each in events]
    assert len(set(await batches_in(raw, f"{prefix}-shop"))) == 1


async def test_events_that_exceed_one_batch_are_sent_in_several(connection, raw, prefix, event):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    events = [event(f"{n}", "k") for n in range(BATCH + SMALLEST)]
    assert set(errors(await publisher.publish(events))) == {type(None)}
    assert await stored(raw, f"{prefix}-shop") == [each.id for each in events]
    batches = await batches_in(raw, f"{prefix}-shop")
    assert [batches.count(batch) for batch in dict.fromkeys(batches)] == [BATCH, SMALLEST]


async def test_each_stream_has_its_own_batch(connection, raw, prefix, event):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    events = [event(f"{n}", type=f"{'shop' if n % 2 else 'store'}.added.v1") for n in range(2 * SMALLEST)]
    assert set(errors(await publisher.publish(events))) == {type(None)}
    for domain in ("shop", "store"):
        batches = await batches_in(raw, f"{prefix}-{domain}")
        assert (len(batches), len(set(batches))) == (SMALLEST, 1)


async def test_few_events_or_events_without_batching_are_sent_one_by_one(connection, raw, prefix, event):
    few = [event(f"{n}") for n in range(SMALLEST - 1)]
    await NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED).publish(few)
    plain = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED, atomic_batches=False)
    await plain.publish([event(f"{n}") for n in range(100, 150)])
    assert set(await batches_in(raw, f"{prefix}-shop")) == {""}


async def test_a_batch_with_stored_events_is_completed_one_by_one(connection, raw, prefix, event):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    await publisher.publish([event(f"{n}", "k") for n in range(20)])
    for _ in range(2):
        results = await publisher.publish([event(f"{n}", "k") for n in range(60)])
        assert set(errors(results)) == {type(None)}
    assert await stored(raw, f"{prefix}-shop") == [f"{n}" for n in range(60)]


async def test_the_same_event_twice_in_a_batch_is_stored_once(connection, raw, prefix, event):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    events = [event(f"{n % 30}") for n in range(60)]
    assert set(errors(await publisher.publish(events))) == {type(None)}
    assert sorted(await stored(raw, f"{prefix}-shop"), key=int) == [f"{n}" for n in range(30)]


async def test_a_message_that_the_stream_refuses_is_identified_and_the_others_are_stored(
    connection, raw, prefix, event
):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED, size_grace=0)
    await publisher.publish([event("first")])
    await change_stream(raw, f"{prefix}-shop", max_msg_size=2000)
    events = [event(f"{n}", "k" if n in {7, 9} else None) for n in range(30)]
    events[7] = event("7", "k", data=b"x" * 3000)
    results = await publisher.publish(events)
    refused, held_back = results[7].error, results[9].error
    assert isinstance(refused, EventRefusedError)
    assert (refused.event_id, "10054" in refused.reason) == ("7", True)
    assert isinstance(held_back, EventHeldBackError)
    assert held_back.event_id == "9"
    assert sorted(await stored(raw, f"{prefix}-shop")) == sorted(
        ["first", *(f"{n}" for n in range(30) if n not in {7, 9})]
    )


async def test_a_message_too_large_for_the_connection_is_refused_and_the_others_form_a_batch(
    connection, raw, prefix, event
):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    events = [event(f"{n}") for n in range(30)]
    events[3] = event("3", data=b"x" * 2_000_000)
    events[4] = event("4", extensions={"note": "x" * 70_000})
    found = errors(await publisher.publish(events))
    assert (found[3], found[4]) == (EventRefusedError, EventRefusedError)
    assert found.count(type(None)) == 28
    assert len(set(await batches_in(raw, f"{prefix}-shop"))) == 1


async def test_a_message_whose_headers_leave_no_room_for_batch_headers_is_sent_alone(connection, raw, prefix, event):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    events = [event(f"{n}") for n in range(30)]
    plain = OutgoingMessage(event("4"), "shop", "s", to_headers(event("4", extensions={"note": ""}), application="app"))
    events[4] = event("4", extensions={"note": "x" * (65_535 - plain.header_size())})
    assert set(errors(await publisher.publish(events))) == {type(None)}
    assert (await batches_in(raw, f"{prefix}-shop")).count("") == 1


async def test_a_stream_without_batches_gets_the_events_one_by_one(connection, raw, prefix, event):
    await NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED).publish([event("first")])
    await change_stream(raw, f"{prefix}-shop", allow_atomic=False)
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    assert set(errors(await publisher.publish([event(f"{n}", "k") for n in range(40)]))) == {type(None)}
    assert await stored(raw, f"{prefix}-shop") == ["first", *(f"{n}" for n in range(40))]


async def test_batches_are_not_retried_after_the_stream_has_forbidden_them(connection, raw, prefix, event):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    await publisher.publish([event(f"a{n}") for n in range(20)])
    await change_stream(raw, f"{prefix}-shop", allow_atomic=False)
    client = await connection.client("publish", timeout=1)
    publish, batched = client.publish, 0

    async def counting(subject, payload, reply="", headers=None):
        nonlocal batched
        batched += "Nats-Batch-Id" in (headers or {})
        await publish(subject, payload, reply, headers)

    client.publish = counting
    for name in "bc":
        results = await publisher.publish([event(f"{name}{n}", "k") for n in range(20)])
        assert set(errors(results)) == {type(None)}
    assert batched == 20
    assert len(await stored(raw, f"{prefix}-shop")) == 60


async def test_events_are_stored_one_by_one_if_too_many_batches_are_open(connection, raw, prefix, event):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    await publisher.publish([event("first")])
    for n in range(60):
        headers = {"Nats-Batch-Id": f"open{n}", "Nats-Batch-Sequence": "1"}
        await raw.publish(f"{prefix}.shop.order-placed.0", b"", headers=headers)
    await raw.request("$JS.API.INFO")
    results = await publisher.publish([event(f"{n}", "k") for n in range(30)])
    assert set(errors(results)) == {type(None)}
    assert await stored(raw, f"{prefix}-shop") == ["first", *(f"{n}" for n in range(30))]
    assert set(await batches_in(raw, f"{prefix}-shop")) == {""}


async def test_concurrent_batches_get_their_own_results(connection, raw, prefix, event):
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=BATCHED)
    calls = [[event(f"{call}-{n}", f"k{call}") for n in range(25)] for call in range(12)]
    for call, results in zip(calls, await asyncio.gather(*map(publisher.publish, calls)), strict=True):
        assert [(result.event, result.error) for result in results] == [(each, None) for each in call]
    ids = await stored(raw, f"{prefix}-shop")
    for number in range(12):
        assert [one for one in ids if one.startswith(f"{number}-")] == [f"{number}-{n}" for n in range(25)]


@pytest.mark.parametrize("moment", [0.0, 0.002, 0.004, 0.01])
async def test_a_crash_during_a_batch_stores_all_or_nothing_and_a_resend_completes_it(server, event, moment):
    async with open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "app", settings=BATCHED)
        async with asyncio.timeout(10):
            while any(result.error for result in await publisher.publish([event("first")])):
                await asyncio.sleep(0.02)
        events = [event(f"{n}", "k") for n in range(300)]
        publishing = asyncio.create_task(publisher.publish(events))
        await asyncio.sleep(moment)
        await server.kill()
        found = errors(await asyncio.wait_for(publishing, 6))
        assert set(found) in ({PublisherUnavailableError}, {type(None)})
        await server.start()
        async with asyncio.timeout(20):
            client = await connection.client("publish", timeout=5)
            assert len(await stored(client, "events-shop")) in {1, 301}
            while any(result.error for result in await publisher.publish(events)):
                await asyncio.sleep(0.05)
        assert await stored(client, "events-shop") == ["first", *(f"{n}" for n in range(300))]


messages = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]), st.sampled_from([None, "k", "l"]), st.sampled_from(["", "stored", "failed"])
    ),
    max_size=30,
)


@given(messages, st.sets(st.sampled_from(["a", "b"])))
async def test_an_event_enters_a_batch_only_after_its_predecessors_of_the_same_key(given_messages, domains):
    made = [
        CloudEvent(f"{n}", f"{domain}.x.v1", datetime(2026, 1, 1, tzinfo=UTC), b"", partitionkey=key)
        for n, (domain, key, _) in enumerate(given_messages)
    ]
    in_flight = InFlight(
        [OutgoingMessage(each, domain_of(each.type), "s", {}) for each in made],
        [each.partitionkey for each in made],
        "broker",
        too_large=ValueError,
    )
    fate: dict[int, str] = {}
    for index, (_, _, wanted) in enumerate(given_messages):
        if wanted and index not in fate:
            earlier = [
                i for i in range(index) if made[i].partitionkey and made[i].partitionkey == made[index].partitionkey
            ]
            if all(fate.get(i) == "stored" for i in earlier):
                in_flight.settle(index, None if wanted == "stored" else PublisherUnavailableError("broker", "no"))
                fate[index] = wanted
    for domain in domains:
        line = in_flight.next_batch(domain, 1000)
        assert line == sorted(line)
        for place, index in enumerate(line):
            assert domain_of(made[index].type) == domain
            assert index not in fate
            key = made[index].partitionkey
            earlier = [i for i in range(index) if key and made[i].partitionkey == key]
            assert all(fate.get(i) == "stored" or i in line[:place] for i in earlier)
