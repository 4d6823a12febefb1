"""Reading a stream: all messages, in order, despite disturbances, and without leaving a consumer behind."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.aio.client import Client

from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import PublisherUnavailableError, SettingError
from mediator.nats import NatsConnection, NatsEventPublisher, NatsServer, StreamSettings, open_connection
from mediator.nats.stream_contents import HeaderScan
from mediator.nats.topology import JetStreamApi

Make = Callable[..., CloudEvent]
SMALL = StreamSettings(max_bytes=64 * 1024**2)


async def fill(publisher: NatsEventPublisher, make: Make, count: int) -> list[str]:
    events = [make(str(number)) for number in range(count)]
    for start in range(0, count, 500):
        results = await publisher.publish(events[start : start + 500])
        assert all(result.error is None for result in results)
    return [event.id for event in events]


async def ids(publisher: NatsEventPublisher) -> list[str]:
    pages = publisher.contents.ids("shop")
    return [own_id(each) async for page in pages for each in page]


def own_id(held: tuple[str, str]) -> str:
    """Return the id of an event that the shop has published."""
    source, event_id = held
    assert source == "shop"
    return event_id


async def test_a_stream_of_several_batches_with_gaps_is_read_completely_and_no_consumer_remains(
    connection: NatsConnection, raw: Client, prefix: str, event: Make
):
    publisher = NatsEventPublisher(connection, "shop", prefix=prefix, settings=SMALL)
    sent = await fill(publisher, event, 4100)
    for sequence in (1, 2000, 2001, 4100):
        await raw.jetstream().delete_msg(f"{prefix}-shop", sequence)
    assert sorted(await ids(publisher), key=int) == [each for each in sent if each not in ("0", "1999", "2000", "4099")]
    pages = publisher.contents.ids("shop")
    await anext(pages)
    await pages.aclose()  # reading that stops early leaves none either
    assert (await raw.jetstream().stream_info(f"{prefix}-shop")).state.consumer_count == 0


async def test_messages_of_foreign_producers_are_skipped(
    connection: NatsConnection, raw: Client, prefix: str, event: Make
):
    publisher = NatsEventPublisher(connection, "shop", prefix=prefix, settings=SMALL)
    await publisher.publish([event("a")])
    jetstream, subject = raw.jetstream(), f"{prefix}.shop.order-placed.0"
    await jetstream.publish(subject, b"no event at all")
    await jetstream.publish(subject, b"{}", headers={"ce-source": "shop"})
    await jetstream.publish(subject, b"{}", headers={"ce-id": "%ff", "ce-source": "shop"})
    await jetstream.publish(subject, b"{}", headers={"ce-id": "b", "ce-source": "%ff"})
    await publisher.publish([event("c")])
    assert await ids(publisher) == ["a", "c"]


async def test_a_stream_is_read_from_its_beginning_if_no_event_came_since_the_given_time(
    connection: NatsConnection, prefix: str, event: Make
):
    publisher = NatsEventPublisher(connection, "shop", prefix=prefix, settings=SMALL)
    await publisher.publish([event("a")])
    since = datetime.now(UTC) + timedelta(hours=1)
    found = [own_id(each) async for page in publisher.contents.ids("shop", since=since) for each in page]
    assert found == ["a"]


@pytest.mark.thorough("waits for a server that is away")
async def test_a_server_killed_during_the_read_costs_time_and_no_id(event: Make, tmp_path):
    async with NatsServer(tmp_path) as server, open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "shop", settings=SMALL)
        sent = await fill(publisher, event, 5000)
        pages = publisher.contents.ids("shop")
        found = [own_id(each) for each in await anext(pages)]
        await server.kill()
        await server.start()
        async with asyncio.timeout(60):
            found += [own_id(each) async for page in pages for each in page]
    assert sorted(found, key=int) == sent
    assert len(found) == len(set(found))


async def test_a_lost_message_is_read_again(
    connection: NatsConnection, prefix: str, event: Make, monkeypatch: pytest.MonkeyPatch
):
    publisher = NatsEventPublisher(connection, "shop", prefix=prefix, settings=SMALL)
    sent = await fill(publisher, event, 300)
    client = await connection.client("consume", timeout=5)
    dropped = False
    subscribe = client.subscribe

    async def lossy(subject: str, *, cb, **options: Any):
        async def sieve(message):
            nonlocal dropped
            if message.reply.split(".")[5:6] == ["150"] and not dropped:
                dropped = True
                return
            await cb(message)

        return await subscribe(subject, cb=sieve, **options)

    monkeypatch.setattr(client, "subscribe", lossy)
    assert sorted(await ids(publisher), key=int) == sent
    assert dropped


@pytest.mark.thorough("waits for a server that is away")
async def test_a_permanently_unreachable_server_is_an_error_after_a_timeout(
    event: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mediator.nats.stream_contents._SILENCE_SECONDS", 0.1)
    async with NatsServer() as server, open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "shop", settings=SMALL)
        await fill(publisher, event, 10)

        async def api() -> JetStreamApi:
            return JetStreamApi(await connection.client("consume", timeout=0.1), "nats")

        scan = HeaderScan(api, "events-shop", after=0, last=10, since=None)
        await connection.client("consume", timeout=10)
        await server.kill()
        with pytest.raises(PublisherUnavailableError):
            async with asyncio.timeout(60):
                async for _ in scan.pages():
                    pass


async def test_the_state_of_a_stream_tells_whether_its_limits_remove_events(
    connection: NatsConnection, raw: Client, prefix: str
):
    contents = NatsEventPublisher(connection, "shop", prefix=prefix).contents
    assert await contents.state("shop") is None
    api = JetStreamApi(raw, "nats")
    config = {"name": f"{prefix}-shop", "subjects": [f"{prefix}.shop.>"], "discard": "old", "max_msgs": 2}
    await api.call(f"STREAM.CREATE.{prefix}-shop", config)
    for _ in range(3):
        await raw.jetstream().publish(f"{prefix}.shop.a.0", b"")
    state = await contents.state("shop")
    assert state is not None
    assert (state.drops_oldest, state.max_age, state.last_sequence) == (True, None, 3)
    assert abs((state.created_at - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize("mark", ["a b", "x.y", "x" * 65, "ü"])
async def test_a_mark_that_is_invalid_in_a_header_is_refused(connection: NatsConnection, event: Make, mark: str):
    with pytest.raises(SettingError, match="mark"):
        await NatsEventPublisher(connection, "shop").refill([event()], mark=mark)


async def test_a_refilled_batch_is_stored_under_a_suffixed_message_id_and_its_own_event_id(
    connection: NatsConnection, raw: Client, prefix: str, event: Make
):
    publisher = NatsEventPublisher(connection, "shop", prefix=prefix, settings=SMALL)
    events = [event(str(number), "k") for number in range(40)]
    await publisher.publish(events)
    await raw.jetstream().purge_stream(f"{prefix}-shop")
    assert all(result.error for result in await publisher.refill(events))
    assert not any(result.error or result.duplicate for result in await publisher.refill(events, mark="m"))
    first = await raw.jetstream().get_msg(f"{prefix}-shop", 41)
    assert first.headers is not None
    assert (first.headers["ce-id"], first.headers["Nats-Msg-Id"]) == ("0", "0.m")
    assert await ids(publisher) == [each.id for each in events]


READING = """
authorization { users: [
  { user: sales, password: "publishes", permissions: {
      publish: ["events.shop.>", "$JS.API.STREAM.INFO.events-shop"]
      subscribe: ["_INBOX.>"] } }
  { user: auditor, password: "verifies", permissions: {
      publish: ["events.shop.>", "$JS.API.STREAM.INFO.events-shop", "$JS.API.CONSUMER.CREATE.events-shop.>",
                "$JS.API.CONSUMER.MSG.NEXT.events-shop.>", "$JS.API.CONSUMER.DELETE.events-shop.>",
                "$JS.API.STREAM.MSG.GET.events-shop"]
      subscribe: ["_INBOX.>"] } }
  { user: admin, password: "administrator" }
] }
"""


@pytest.mark.thorough("waits for a server that is away")
async def test_a_user_with_read_rights_can_verify_and_one_without_gets_an_error(
    event: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mediator.nats.stream_contents._PAUSE", 0.01)
    async with NatsServer(settings=READING) as server:
        async with open_connection(server.url, user="admin", password="administrator") as connection:
            admin = NatsEventPublisher(connection, "shop", settings=SMALL)
            await fill(admin, event, 3)
            client = await connection.client("publish", timeout=5)
            await client.jetstream().delete_msg("events-shop", 3)
        async with open_connection(server.url, user="auditor", password="verifies") as connection:
            auditor = NatsEventPublisher(connection, "shop", settings=SMALL)
            assert await ids(auditor) == ["0", "1"]
            assert [each.error for each in await auditor.refill([event("2")], mark="m")] == [None]
        async with open_connection(server.url, user="sales", password="publishes") as connection:
            with pytest.raises(PublisherUnavailableError, match="may not publish to .*CONSUMER.CREATE"):
                await ids(NatsEventPublisher(connection, "shop", settings=SMALL))
