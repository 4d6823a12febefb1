"""Strangers on the wire: hostile values in our events, foreign producers, and foreign consumers of ours."""

import asyncio
import json
import re
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from mediator import EventConsumer
from mediator.distributed.cloudevents import bucket_of
from mediator.distributed.inbox import Delivery, ParkedReplay
from mediator.distributed.parking import ParkedFilter
from mediator.errors import EventRefusedError
from mediator.nats import NatsEventPublisher, NatsEventSubscription, NatsServer, StreamSettings, open_connection
from tests.adapters.nats.deliveries import take
from tests.unit.distributed.inbox.application import Application

TYPE = "shop.order-placed"
HOSTILE = [
    "a\r\nNats-Rollup: all",
    "a\nce-type: shop.stolen.v1",
    "\r\n\r\nPUB shop.x 0\r\n",
    "a b",
    " lead and trail ",
    "\t",
    "*",
    ">",
    "a.>.b",
    "$JS.API.STREAM.DELETE.shop",
    "nul\0nul",
    'quote"quote',
    '"quoted"',
    "100%41",
    "%",
    "ä€😀",
    "\u2028\u202e\ufeff",
    "\x1b[31m",
    "x" * 4000,
]
OURS = {
    "ce-specversion",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-time",
    "ce-datacontenttype",
    "ce-partitionkey",
    "ce-note",
    "Nats-Msg-Id",
}
OF_BATCHES = {"Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"}


@pytest.fixture
async def stream(connection, prefix, event) -> str:
    """A stream that holds one event, with the id "ours"."""
    [result] = await NatsEventPublisher(connection, "app", prefix=prefix).publish([event("ours")])
    assert result.error is None
    return f"{prefix}-shop"


async def received(connection, prefix: str, count: int) -> list[Delivery]:
    """Return what a group receives, without our own event at the start."""
    deliveries = []
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=50) as opened:
        for _ in range(count + 1):
            deliveries.append(await take(opened))
            await deliveries[-1].ack()
    return deliveries[1:]


async def send_bytes(url: str, subject: bytes, headers: bytes, body: bytes) -> None:
    """Publish bytes as a producer that checks nothing."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    writer.write(b"HPUB %s %d %d\r\n" % (subject, len(headers), len(headers) + len(body)) + headers + body + b"\r\n")
    writer.write(b"PING\r\n")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"PONG")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("batched", [True, False])
async def test_hostile_values_are_transported_as_plain_values(connection, raw, prefix, event, batched) -> None:
    settings = StreamSettings(atomic_batches=batched)
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=settings)
    sent = [
        event(text, text, source=text, extensions={"note": text}, datacontenttype=text, data=text.encode())
        for text in HOSTILE
    ]
    assert {result.error for result in await publisher.publish(sent)} == {None}
    async with NatsEventSubscription(connection, "g", prefix=prefix).open([TYPE], prefetch=50) as opened:
        deliveries = [await take(opened) for _ in HOSTILE]
    for delivery in deliveries:
        assert set(delivery.headers) - OF_BATCHES == OURS
        assert delivery.headers["ce-type"] == f"{TYPE}.v1"
        assert delivery.subject.rpartition(".")[0] == f"{prefix}.{TYPE}"
    events = [delivery.event for delivery in deliveries]
    assert sorted(events, key=lambda each: each.id) == sorted(sent, key=lambda each: each.id)
    assert (await raw.jetstream().stream_info(f"{prefix}-shop")).state.messages == len(HOSTILE)


@pytest.mark.parametrize(
    "wire",
    [
        "",
        "shop",
        "shop.x",
        "shop.*.v1",
        "shop.>.v1",
        "*.x.v1",
        "shop.a b.v1",
        "shop.x.v1\r\n",
        "shop.x\r\nPUB a 0.v1",
        "shop.x.y.v1",
        "Shop.x.v1",
        "shop.x.v0",
        "$JS.API.v1",
        "shop.\u00e4.v1",
        f"shop.{'x' * 250}.v1",
        f"shop.{'x' * 10_000}.v1",
        f"{'x' * 10_000}.shop.v1",
    ],
)
async def test_an_invalid_type_is_refused_before_sending(connection, raw, prefix, event, wire) -> None:
    heard: list[str] = []

    async def hear(message) -> None:
        heard.append(message.subject)

    await raw.subscribe(">", cb=hear)
    publisher = NatsEventPublisher(connection, "app", prefix=prefix)
    [refused, sent] = await publisher.publish([event("1", type=wire), event("2")])
    assert isinstance(refused.error, EventRefusedError)
    assert sent.error is None
    await raw.request("$JS.API.INFO")
    assert [subject for subject in heard if subject.startswith(prefix)] == [f"{prefix}.{TYPE}.{event('2').bucket % 16}"]
    assert connection.epoch("publish") == 1


@pytest.mark.parametrize("name", ["a b", "a\r\nb", "A", "", "id", "type", "data", "a-b", "ä"])
async def test_an_invalid_extension_name_is_refused(connection, prefix, event, name) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix)
    [refused, sent] = await publisher.publish([event("1", extensions={name: "x"}), event("2")])
    assert isinstance(refused.error, EventRefusedError)
    assert sent.error is None


USERS = """authorization { users: [
    { user: app, password: "secret" },
    { user: stranger, password: "secret", permissions: { publish: ["events.shop.>"], subscribe: ["_INBOX.>"] } },
] }"""
API = ["STREAM.DELETE.events-shop", "STREAM.PURGE.events-shop", "CONSUMER.DELETE.events-shop.g"]
ANSWERED = [
    {},
    {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"},
    {"Nats-Batch-Id": "c", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    {"Nats-Batch-Id": "d", "Nats-Batch-Sequence": "2"},
    {"Nats-Expected-Stream": "x"},
    {"Nats-Rollup": "all"},
    {"Nats-Msg-Id": "1"},
]


async def test_replies_of_the_broker_to_events_of_a_stranger_change_no_stream(event) -> None:
    """The broker replies to a stranger's subject with its own permissions, but never with a valid API request."""
    async with (
        NatsServer(settings=USERS) as server,
        open_connection(server.url, user="app", password="secret") as connection,
        open_connection(server.url, user="stranger", password="secret") as other,
    ):
        raw = await connection.client("publish", timeout=10)
        stranger = await other.client("publish", timeout=10)
        [stored] = await NatsEventPublisher(connection, "app").publish([event("1")])
        assert stored.error is None
        async with NatsEventSubscription(connection, "g").open([TYPE], prefetch=1) as opened:
            await (await take(opened)).ack()
        for subject in API:
            for headers in ANSWERED:
                await stranger.publish(f"events.{TYPE}.0", b"{}", f"$JS.API.{subject}", headers)
        await stranger.request(f"events.{TYPE}.0", b"{}")
        state = (await raw.jetstream().stream_info("events-shop")).state
        assert (state.first_seq, state.consumer_count) == (1, 1)


async def test_a_plain_nats_consumer_understands_published_events(connection, raw, prefix, event) -> None:
    extensions = {"correlationid": "c-1", "traceparent": "00-1-2-01"}
    await NatsEventPublisher(connection, "app", prefix=prefix).publish([event("a b", "key 1", extensions=extensions)])
    stranger = await raw.jetstream().pull_subscribe(f"{prefix}.shop.order-placed.*", durable="stranger")
    [message] = await stranger.fetch(1, timeout=5)
    await message.ack()
    assert json.loads(message.data) == {"order": 1}
    assert message.headers == {
        "ce-specversion": "1.0",
        "ce-id": "a%20b",
        "ce-source": "app",
        "ce-type": "shop.order-placed.v1",
        "ce-time": "2026-01-02T03:04:05.000678+00:00",
        "ce-datacontenttype": "application/json",
        "ce-partitionkey": "key%201",
        "ce-correlationid": "c-1",
        "ce-traceparent": "00-1-2-01",
        "traceparent": "00-1-2-01",
        "Nats-Msg-Id": "a%20b",
    }


async def test_every_encoding_of_foreign_producers_that_the_specification_allows_is_understood(
    connection, raw, stream, prefix
) -> None:
    jetstream, subject = raw.jetstream(), f"{prefix}.shop.order-placed.3"
    binary = {"ce-specversion": "1.0", "ce-type": "shop.order-placed.v1", "ce-source": "legacy", "ce-id": "1"}
    await jetstream.publish(subject, b'{"a": 1}', headers=binary)
    await jetstream.publish(subject, b"{}", headers={name.upper(): value for name, value in binary.items()})
    await jetstream.publish(subject, b"{}", headers={n: v for n, v in binary.items() if n != "ce-id"})
    whole = {"specversion": "1.0", "type": "shop.order-placed.v2", "source": "legacy", "id": "4", "data": {"b": [1]}}
    for content_type in ("application/cloudevents+json; charset=UTF-8", "application/cloudevents"):
        await jetstream.publish(subject, json.dumps(whole).encode(), headers={"Content-Type": content_type})
    await jetstream.publish(subject, b"\xff\xfe\0", headers=binary | {"ce-datacontenttype": "image/png"})
    deliveries = await received(connection, prefix, 6)
    assert [each.problem for each in deliveries] == [""] * 6
    without_id = deliveries[2].event.id
    assert [each.event.id for each in deliveries] == ["1", "1", without_id, "4", "4", "1"]
    assert re.fullmatch(rf"{stream}:4@\d{{19}}", without_id)
    assert [each.event.data for each in deliveries] == [
        b'{"a": 1}',
        b"{}",
        b"{}",
        b'{"b": [1]}',
        b'{"b": [1]}',
        b"\xff\xfe\0",
    ]
    assert {each.event.source for each in deliveries} == {"legacy"}
    assert {each.partition for each in deliveries} == {3}


HEAD = b"NATS/1.0\r\nce-specversion: 1.0\r\nce-type: shop.order-placed.v1\r\nce-source: x\r\n"


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        (HEAD + b"ce-id: \xff\xfe\r\n\r\n", "UTF-8"),
        (HEAD + b"ce-id: %ff\r\n\r\n", "utf-8"),
        (HEAD + b"ce-id: 1\r\nce-time: tomorrow\r\n\r\n", "isoformat"),
        (HEAD.replace(b"specversion", b"version") + b"ce-id: 1\r\n\r\n", "specversion"),
        (HEAD.replace(b"1.0\r\nce-type", b"2.0\r\nce-type") + b"ce-id: 1\r\n\r\n", "specversion"),
        (b"NATS/1.0\r\n\r\n", "specversion"),
        (b"NATS/1.0\r\nno colon at all\r\n\r\n", "specversion"),
        (b"NATS/1.0\r\nContent-Type: application/cloudevents+json\r\n\r\n", ""),
        (b"NATS/1.0\r\nContent-Type: application/cloudevents-batch+json\r\n\r\n", "batch"),
        (b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", "specversion"),
        (b"NATS/1.0 409 Consumer Deleted\r\n\r\n", "specversion"),
        (b"NATS/1.0\r\nStatus: 503\r\n\r\n", "specversion"),
        (b"XX\r\n\r\n", "specversion"),
        (b"\r\n\r\n", "specversion"),
        (b"NATS/1.0", "specversion"),
        (b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", "specversion"),
        (b"NATS/1.0 503 \xff\r\n\r\n", "specversion"),
    ],
)
@pytest.mark.usefixtures("stream")
async def test_a_broken_event_is_delivered_with_its_problem_and_blocks_no_other(
    connection, shared_server, prefix, headers, problem
) -> None:
    subject = f"{prefix}.shop.order-placed.0"
    await send_bytes(shared_server.url, subject.encode(), headers, b'{"specversion": "\xff"}')
    good = {"ce-specversion": "1.0", "ce-type": "shop.order-placed.v1", "ce-source": "x", "ce-id": "good"}
    await (await connection.client("publish", timeout=1)).jetstream().publish(subject, b"{}", headers=good)
    with capture_logs() as logs:
        broken, fine = await received(connection, prefix, 2)
    assert broken.event is None
    assert problem in broken.problem
    assert broken.data == b'{"specversion": "\xff"}'
    assert fine.event.id == "good"
    assert {line["event"] for line in logs} <= {"connected", "closed"}


@pytest.mark.parametrize("structured", [False, True])
async def test_a_broken_event_is_delivered_with_its_type_and_key(connection, raw, stream, prefix, structured) -> None:
    attributes = {"specversion": "1.0", "id": "1", "source": "x", "type": f"{TYPE}.v1", "partitionkey": "a b"}
    broken = attributes | {"time": "tomorrow"}
    headers = {f"ce-{name}": value.replace(" ", "%20") for name, value in broken.items()}
    if structured:
        headers = {"Content-Type": "application/cloudevents+json"}
    await raw.jetstream().publish(f"{prefix}.{TYPE}.3", json.dumps(broken).encode(), headers=headers)
    [delivery] = await received(connection, prefix, 1)
    assert (delivery.event, delivery.unreadable.type, delivery.unreadable.partitionkey) == (None, f"{TYPE}.v1", "a b")
    assert "cannot be decoded" not in delivery.problem


async def test_an_unreadable_event_parks_its_key_and_is_replayed_first_after_an_edit(
    connection, raw, stream, prefix
) -> None:
    jetstream, application = raw.jetstream(), Application()
    subject = f"{prefix}.{TYPE}.{bucket_of('a', '') % 16}"

    async def send(number: int, key: str, **more: str) -> dict[str, str]:
        headers = {"ce-specversion": "1.0", "ce-type": f"{TYPE}.v1", "ce-source": "x", "ce-id": f"{number}"}
        headers |= {"ce-partitionkey": key}
        await jetstream.publish(subject, b'{"number": %d}' % number, headers=headers | more)
        return headers

    whole = await send(1, "a", **{"ce-time": "tomorrow"})
    await send(2, "a")
    await send(3, "of the same partition")
    consumer = EventConsumer(
        NatsEventSubscription(connection, "g", prefix=prefix),
        application.inbox,
        application.unit_of_work,
        application.mediator,
        parking=application.parking,
        ordering="key",
        retry_delays=(0.0,),
    )
    async with application.running(consumer), asyncio.timeout(20):
        assert await application.started.get() == 3
        unreadable = next(each for each in application.parking.events if each.sequence == 2)
        assert (unreadable.reason, unreadable.partition_key, unreadable.type) == ("undecodable", "a", f"{TYPE}.v1")
        await application.parking.edit(unreadable.number, headers=whole)
        replay = ParkedReplay(application.parking, [consumer])
        which = ParkedFilter(numbers=(unreadable.number,))
        assert [result.outcome async for result in replay.run(which)] == ["replayed", "replayed"]
    assert application.effects == [3, 1, 2]


async def test_repeated_and_unknown_headers_do_no_harm(connection, shared_server, stream, prefix):
    headers = HEAD + b"ce-id: 1\r\nce-id: 2\r\nx-\xc3\xa4: y\r\nce-: z\r\nce-note:\r\n\r\n"
    await send_bytes(shared_server.url, f"{prefix}.shop.order-placed.0".encode(), headers, b"{}")
    [delivery] = await received(connection, prefix, 1)
    assert delivery.problem == ""
    assert delivery.event.id in {"1", "2"}


@pytest.mark.parametrize("token", [b"\xff", b"a\vb", b"a\fb", b"\f", b"\v5", b"a\rb", b"\x00", b"a\x1c\x85b", b"\f 1"])
@pytest.mark.parametrize("size", [2, 10_000])
@pytest.mark.usefixtures("stream")
async def test_an_invalid_subject_does_not_stop_the_subscription(
    connection, shared_server, prefix, token, size
) -> None:
    """The server accepts any bytes in a token except separators."""
    headers = HEAD + b"ce-id: strange\r\n\r\n"
    await send_bytes(shared_server.url, f"{prefix}.shop.order-placed.".encode() + token, headers, b"x" * size)
    good = {"ce-specversion": "1.0", "ce-type": "shop.order-placed.v1", "ce-source": "x", "ce-id": "good"}
    publishing = await connection.client("publish", timeout=1)
    for _ in range(2):
        await publishing.jetstream().publish(f"{prefix}.shop.order-placed.0", b"y" * size, headers=good)
    with capture_logs() as logs:
        deliveries = await received(connection, prefix, 3)
    assert [(each.event.id, each.partition) for each in deliveries] == [("strange", None), ("good", 0), ("good", 0)]
    assert [len(each.data) for each in deliveries] == [size] * 3
    assert {line["event"] for line in logs} <= {"connected", "closed"}


async def test_a_subject_without_a_partition_number_has_no_partition(connection, raw, stream, prefix) -> None:
    good = {"ce-specversion": "1.0", "ce-type": "shop.order-placed.v1", "ce-source": "x", "ce-id": "1"}
    await raw.jetstream().publish(f"{prefix}.shop.order-placed.all", b"{}", headers=good)
    [delivery] = await received(connection, prefix, 1)
    assert (delivery.partition, delivery.event.id) == (None, "1")
