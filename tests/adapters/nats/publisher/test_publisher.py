"""Publishing events into JetStream: stored once, in order and within bounds; every failure has its own error."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client
from structlog.testing import capture_logs

from mediator import OutboxRelay
from mediator.errors import (
    EventHeldBackError,
    EventRefusedError,
    PublisherUnavailableError,
    SettingError,
    StreamMismatchError,
    StreamNotFoundError,
    StreamUnavailableError,
)
from mediator.nats import NatsConnection, NatsEventPublisher, NatsServer, StreamSettings, open_connection
from mediator.nats.topology import JetStreamApi, provision
from mediator.nats.topology.streams import create_stream, stream_config
from mediator.testing import InMemoryDatabase, InMemoryOutbox


async def stored(client: Client, stream: str) -> list[str]:
    """Return the ids in a stream, in its order."""
    jetstream = client.jetstream()
    state = (await jetstream.stream_info(stream)).state
    messages = [await jetstream.get_msg(stream, seq, direct=True) for seq in range(1, state.last_seq + 1)]
    return [(message.headers or {})["ce-id"] for message in messages]


async def publish_until_stored(publisher: NatsEventPublisher, events) -> None:
    async with asyncio.timeout(20):
        while any(result.error for result in await publisher.publish(events)):
            await asyncio.sleep(0.05)


async def test_events_are_stored_with_source_and_subject(connection, raw, prefix, event) -> None:
    publisher = NatsEventPublisher(connection, "enrollment", prefix=prefix)
    given = event("a", "key")
    [result] = await publisher.publish([given])
    assert result.error is None
    assert result.event is given
    message = await raw.jetstream().get_msg(f"{prefix}-shop", 1, direct=True)
    assert message.subject == f"{prefix}.shop.order-placed.{given.bucket % 16}"
    assert message.headers["ce-source"] == "enrollment"
    assert message.data == given.data


async def test_a_source_that_is_set_is_kept(connection, raw, prefix, event) -> None:
    await NatsEventPublisher(connection, "enrollment", prefix=prefix).publish([event(source="other")])
    message = await raw.jetstream().get_msg(f"{prefix}-shop", 1, direct=True)
    assert message.headers["ce-source"] == "other"


async def test_the_same_event_sent_twice_is_stored_once(connection, raw, prefix, event) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix)
    for _ in range(2):
        assert [r.error for r in await publisher.publish([event("a"), event("b")])] == [None, None]
    assert await stored(raw, f"{prefix}-shop") == ["a", "b"]


async def test_publishing_no_events_does_nothing(connection) -> None:
    assert await NatsEventPublisher(connection, "app").publish([]) == []


async def test_many_events_of_several_keys_keep_their_order(connection, raw, prefix, event) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix)
    events = [event(f"{n}", f"k{n % 7}" if n % 3 else None) for n in range(700)]
    assert not [r for r in await publisher.publish(events) if r.error]
    ids = await stored(raw, f"{prefix}-shop")
    assert sorted(ids) == sorted(e.id for e in events)
    for key in {e.partitionkey for e in events} - {None}:
        assert [i for i in ids if int(i) % 3 and f"k{int(i) % 7}" == key] == [
            e.id for e in events if e.partitionkey == key
        ]


async def test_later_events_of_the_key_of_a_failed_event_are_not_sent(connection, raw, prefix, event) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix)
    too_large = event("2", "k", data=b"x" * 2_000_000)
    events = [event("1", "k"), too_large, event("3", "k"), event("4", "k"), event("5", "other"), event("6")]
    errors = [type(r.error) for r in await publisher.publish(events)]
    held_back = EventHeldBackError
    assert errors == [type(None), EventRefusedError, held_back, held_back, type(None), type(None)]
    assert sorted(await stored(raw, f"{prefix}-shop")) == ["1", "5", "6"]


async def test_an_event_that_cannot_be_encoded_is_refused_and_holds_back_its_key(connection, prefix, event) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix)
    results = await publisher.publish([event("1", "k", type="nonsense"), event("2", "k"), event("3")])
    assert [type(r.error) for r in results] == [EventRefusedError, EventHeldBackError, type(None)]


async def test_a_header_too_large_for_the_broker_is_refused_and_the_connection_lives(event) -> None:
    async with NatsServer(settings="max_payload: 2048") as server, open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "app", size_grace=0)
        extension = {"note": "x" * 1900}
        [fits_not] = await publisher.publish([event("1", data=b"x" * 500, extensions=extension)])
        assert isinstance(fits_not.error, EventRefusedError)
        [fits] = await publisher.publish([event("2", data=b"x" * 500)])
        assert fits.error is None
        assert connection.epoch("publish") == 1


async def test_the_checked_size_is_the_size_that_the_broker_counts(event) -> None:
    async with NatsServer(settings="max_payload: 2048") as server, open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "app", size_grace=0)
        sizes = range(1500, 2000)
        results = await publisher.publish([event(f"{size}", data=b"x" * size) for size in sizes])
        kinds = [type(r.error) for r in results]
        first_refused = kinds.index(EventRefusedError)
        assert set(kinds[:first_refused]) == {type(None)}
        assert set(kinds[first_refused:]) == {EventRefusedError}
        assert connection.epoch("publish") == 1


@pytest.mark.thorough("waits for streams that are silent")
async def test_events_fail_quickly_while_the_broker_is_down_and_can_be_stored_later(event) -> None:
    server = NatsServer()
    await server.start()
    await server.kill()
    events = [event("1", "k"), event("2", "k"), event("3")]
    try:
        async with open_connection(server.url) as connection:
            publisher = NatsEventPublisher(connection, "app")
            started = time.monotonic()
            results = await publisher.publish(events)
            assert time.monotonic() - started < 2
            assert {type(r.error) for r in results} == {PublisherUnavailableError}
            await server.start()
            await publish_until_stored(publisher, events)
            client = await connection.client("publish", timeout=1)
            assert sorted(await stored(client, "events-shop")) == ["1", "2", "3"]
    finally:
        await server.stop()


async def test_a_broker_crash_between_publishes_neither_loses_nor_duplicates_events(server, event) -> None:
    async with open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "app")
        await publish_until_stored(publisher, [event("1", "k"), event("2", "k")])
        await server.kill()
        await server.start()
        await publish_until_stored(publisher, [event("2", "k"), event("3", "k")])
        client = await connection.client("publish", timeout=5)
        assert await stored(client, "events-shop") == ["1", "2", "3"]


async def test_events_in_flight_fail_at_once_when_the_connection_breaks(server, event) -> None:
    async with open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "app", timeout=30)
        await publish_until_stored(publisher, [event("0")])
        server.suspend()
        publishing = asyncio.create_task(publisher.publish([event(f"{n}") for n in range(1, 50)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert not publishing.done()
        await server.kill()
        results = await asyncio.wait_for(publishing, 3)
        assert {type(r.error) for r in results} == {PublisherUnavailableError}
        assert "lost" in str(results[0].error)


async def test_a_frozen_broker_costs_no_more_than_the_timeout(server, event) -> None:
    async with open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "app", timeout=0.3)
        await publish_until_stored(publisher, [event("0")])
        server.suspend()
        [result] = await asyncio.wait_for(publisher.publish([event("1")]), 2)
        assert isinstance(result.error, PublisherUnavailableError)
        assert "0.3 s" in str(result.error)
        server.resume()
        await publish_until_stored(publisher, [event("1"), event("2")])


async def test_publishing_can_be_cancelled_and_repeated(server, event) -> None:
    async with open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "app")
        await publish_until_stored(publisher, [event("0")])
        server.suspend()
        publishing = asyncio.create_task(publisher.publish([event("1"), event("2")]))
        await asyncio.sleep(0.05)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        server.resume()
        await publish_until_stored(publisher, [event("1"), event("2")])
        assert await stored(await connection.client("publish", timeout=5), "events-shop") == ["0", "1", "2"]


async def test_concurrent_publishes_get_their_own_results(connection, prefix, event) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix)
    batches = [[event(f"{b}-{n}") for n in range(20)] + [event(f"{b}", type="bad")] for b in range(20)]
    for batch, results in zip(batches, await asyncio.gather(*map(publisher.publish, batches)), strict=True):
        assert [r.event for r in results] == batch
        assert [r.error is None for r in results] == [True] * 20 + [False]


async def test_a_missing_stream_without_provision_is_reported_and_other_domains_publish(
    connection, prefix, event
) -> None:
    await NatsEventPublisher(connection, "app", prefix=prefix).publish([event(type="there.x.v1")])
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, provision=False)
    results = await publisher.publish([event("1"), event("2", type="there.x.v1")])
    assert isinstance(results[0].error, StreamNotFoundError)
    assert results[0].error.stream == f"{prefix}-shop"
    assert results[1].error is None


async def test_a_stream_with_different_settings_is_reported_and_not_changed(connection, raw, prefix, event) -> None:
    small = StreamSettings(max_bytes=1_000_000, partitions=8, max_age=3600, duplicate_window=60)
    await NatsEventPublisher(connection, "app", prefix=prefix, settings=small).publish([event("1")])
    before = (await raw.jetstream().stream_info(f"{prefix}-shop")).config
    [result] = await NatsEventPublisher(connection, "app", prefix=prefix).publish([event("2")])
    assert isinstance(result.error, StreamMismatchError)
    assert [d.split(" ")[0] for d in result.error.differences] == ["duplicate_window", "max_age", "mediator.partitions"]
    assert (await raw.jetstream().stream_info(f"{prefix}-shop")).config == before


async def test_a_publisher_accepts_a_retention_changed_by_another_version_until_its_next_connection(
    server, prefix, event
) -> None:
    async with open_connection(server.url) as connection:
        older, newer = (
            NatsEventPublisher(connection, "app", prefix=prefix, settings=StreamSettings(max_age=age))
            for age in (7200, 3600)
        )
        await publish_until_stored(older, [event("1")])
        [result] = await newer.publish([event("2")])
        assert isinstance(result.error, StreamMismatchError)
        api = JetStreamApi(await connection.client("publish", timeout=5), "")
        await provision(api, newer.topology([event().type]), done=lambda item: None, update_streams=True)
        for publisher in (older, newer):
            [result] = await publisher.publish([event("3")])
            assert result.error is None
        await server.kill()
        await server.start()
        await publish_until_stored(newer, [event("4")])
        [result] = await older.publish([event("5")])
        assert isinstance(result.error, StreamMismatchError)
        assert result.error.differences == ["max_age is 3600 s, not 7200 s"]


async def test_a_stream_is_created_with_the_given_settings(connection, raw, prefix, event) -> None:
    await NatsEventPublisher(connection, "app", prefix=prefix).publish([event()])
    config = (await raw.jetstream().stream_info(f"{prefix}-shop")).config
    assert config.subjects == [f"{prefix}.shop.>"]
    assert (config.discard, config.retention, config.storage) == ("new", "limits", "file")
    assert (config.max_age, config.duplicate_window) == (7 * 24 * 3600, 600)
    assert (bool(config.allow_atomic), config.allow_direct) == (False, True)
    assert config.metadata["mediator.partitions"] == "16"


async def test_a_stream_that_was_deleted_is_created_again(connection, raw, prefix, event) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix)
    await publisher.publish([event("1")])
    await raw.jetstream().delete_stream(f"{prefix}-shop")
    [result] = await publisher.publish([event("2")])
    assert isinstance(result.error, PublisherUnavailableError)
    await publish_until_stored(publisher, [event("2")])


@pytest.mark.parametrize("count", [1, 20])
async def test_a_checked_stream_that_stops_answering_is_checked_again(
    connection, raw, prefix, event, count: int
) -> None:
    """It was deleted, and the broker does not report that, because another client subscribes to its subjects."""
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, timeout=0.5)
    await publish_until_stored(publisher, [event("0")])
    await raw.subscribe(f"{prefix}.shop.>")
    await raw.jetstream().delete_stream(f"{prefix}-shop")
    events = [event(f"{number}") for number in range(1, count + 1)]  # alone, and as one batch
    reasons = {str(result.error) for result in await publisher.publish(events)}
    assert len(reasons) == 1
    assert "no acknowledgement within 0.5 s" in reasons.pop()
    await publish_until_stored(publisher, events)
    assert sorted(await stored(raw, f"{prefix}-shop")) == sorted(each.id for each in events)


async def test_a_full_stream_leaves_events_to_be_sent_again(connection, raw, prefix, event) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=StreamSettings(max_bytes=10_000))
    results = await publisher.publish([event(f"{n}", data=b"x" * 1000) for n in range(20)])
    errors = [r.error for r in results if r.error]
    assert errors
    assert {type(error) for error in errors} == {StreamUnavailableError}
    assert "10077" in str(errors[0])
    await raw.jetstream().purge_stream(f"{prefix}-shop")
    assert (await publisher.publish([results[-1].event]))[0].error is None


async def test_a_broker_without_room_for_the_stream_is_reported(event) -> None:
    async with NatsServer(jetstream="max_file: 1M") as server, open_connection(server.url) as connection:
        [result] = await NatsEventPublisher(connection, "app").publish([event()])
        assert isinstance(result.error, PublisherUnavailableError)
        assert "storage" in str(result.error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"application": ""},
        {"application": " "},
        {"application": "a\nb"},
        {"application": "a" * 129},
        {"prefix": "a.b"},
        {"timeout": 0},
    ],
)
async def test_invalid_settings_are_refused(connection: NatsConnection, wrong) -> None:
    with pytest.raises(SettingError):
        NatsEventPublisher(connection, **({"application": "app"} | wrong))


@pytest.mark.parametrize("wrong", [{"partitions": 0}, {"partitions": 65}, {"max_age": 0}, {"duplicate_window": 10**9}])
def test_invalid_stream_settings_are_refused(wrong) -> None:
    with pytest.raises(SettingError):
        StreamSettings(**wrong)


@pytest.mark.thorough("waits for streams that are silent")
async def test_the_return_of_the_broker_is_noticed_at_once(server, prefix, event) -> None:
    async with open_connection(server.url) as connection:
        publisher = NatsEventPublisher(connection, "shop", prefix=prefix)
        assert [result.error for result in await publisher.publish([event()])] == [None]
        assert await publisher.wait_for_recovery(0.01) is False
        await server.stop()
        [result] = await publisher.publish([event("2")])
        assert isinstance(result.error, PublisherUnavailableError)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            waiting = group.create_task(publisher.wait_for_recovery(60))
            await server.start()
        assert waiting.result() is True


SILENT = 3.5
"""Seconds until the events of other domains are stored: the time of one unanswered check, and a margin."""


@asynccontextmanager
async def broker_with_silent_domains(count: int) -> AsyncIterator[tuple[NatsConnection, list[str]]]:
    """Yield a connection whose user may not read the information of some existing streams, and their domains."""
    domains = [f"silent{number}" for number in range(count)]
    denied = ", ".join(f'"$JS.API.STREAM.INFO.events-{domain}"' for domain in domains)
    users = f'{{ user: app, password: "pw", permissions: {{ publish: {{ deny: [{denied}] }} }} }}'
    users += ', { user: admin, password: "pw" }'
    async with NatsServer(settings=f"authorization {{ users: [ {users} ] }}") as server:
        async with open_connection(server.url, user="admin", password="pw") as connection:
            api = JetStreamApi(await connection.client("publish", timeout=10), "")
            for domain in domains:
                await create_stream(api, stream_config("events", domain, StreamSettings(max_bytes=1024**2)))
        async with open_connection(server.url, user="app", password="pw") as connection:
            await connection.client("publish", timeout=10)
            yield connection, domains


@pytest.mark.thorough("waits for streams that are silent")
@pytest.mark.parametrize("count", [1, 3, 8])
async def test_many_silent_streams_delay_the_other_streams_as_briefly_as_one(event, count: int) -> None:
    async with broker_with_silent_domains(count) as (connection, domains):
        publisher = NatsEventPublisher(connection, "app")
        events = [event(domain, type=f"{domain}.changed.v1") for domain in domains]
        events.insert(count // 2, event("healthy"))
        started = time.monotonic()
        results = await publisher.publish(events)
        assert time.monotonic() - started < SILENT
        assert [result.event for result in results] == events
        errors = {result.event.id: result.error for result in results}
        assert errors.pop("healthy") is None
        for domain in domains:
            assert isinstance(errors[domain], PublisherUnavailableError)
            assert f"this application's user may not publish to $JS.API.STREAM.INFO.events-{domain}" in str(
                errors[domain]
            )
        client = await connection.client("publish", timeout=1)
        assert await stored(client, "events-shop") == ["healthy"]


@pytest.mark.thorough("waits for streams that are silent")
@pytest.mark.parametrize(("count", "batch_size"), [(1, 500), (3, 500), (8, 500), (1, 1), (3, 2)])
async def test_a_relay_publishes_the_other_domains_while_many_streams_are_silent(
    event, count: int, batch_size: int
) -> None:
    """This holds also when their events fill whole batches."""
    async with broker_with_silent_domains(count) as (connection, domains):
        database = InMemoryDatabase()
        database.outbox += [event(domain, type=f"{domain}.changed.v1") for domain in domains]
        database.outbox.append(event("healthy"))
        outbox = InMemoryOutbox(database)
        with capture_logs() as logs:
            publisher = NatsEventPublisher(connection, "app")
            relay = asyncio.create_task(OutboxRelay(outbox, publisher, batch_size=batch_size).run())
            async with asyncio.timeout(30):
                while not database.archive:
                    await asyncio.sleep(0.05)
            relay.cancel()
            await asyncio.wait([relay])
        assert [archived.id for archived in database.archive] == ["healthy"]
        assert {line["context"] for line in logs if line["event"] == "context waits"} == {*domains}


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_relay_publishes_the_other_domains_when_events_for_a_full_stream_fill_its_batches(
    connection, prefix, event, atomic: bool
) -> None:
    small = StreamSettings(max_bytes=10_000, atomic_batches=atomic)
    database = InMemoryDatabase()
    database.outbox += [event(f"{number}", data=b"x" * 1000) for number in range(100)]
    database.outbox.append(event("healthy", type="stock.changed.v1"))
    publisher = NatsEventPublisher(connection, "app", prefix=prefix, settings=small)
    with capture_logs() as logs:
        relay = asyncio.create_task(OutboxRelay(InMemoryOutbox(database), publisher, batch_size=20).run())
        async with asyncio.timeout(20):
            while "healthy" not in {archived.id for archived in database.archive}:
                await asyncio.sleep(0.05)
        relay.cancel()
        await asyncio.wait([relay])
    waits = [line for line in logs if line["event"].endswith(" waits")]
    assert {(line["event"], line.get("context"), line["error"]) for line in waits} == {
        ("context waits", "shop", "StreamUnavailableError")
    }
    assert f"The stream {prefix}-shop" in waits[0]["reason"]


@pytest.mark.thorough("waits for streams that are silent")
async def test_later_events_of_a_key_wait_for_the_event_of_a_silent_stream(event) -> None:
    async with broker_with_silent_domains(1) as (connection, [silent]):
        publisher = NatsEventPublisher(connection, "app")
        events = [event("1", "k"), event("2", "k", type=f"{silent}.changed.v1"), event("3", "k"), event("4", "other")]
        results = await publisher.publish(events)
        assert [result.error is None for result in results] == [True, False, False, True]
        client = await connection.client("publish", timeout=1)
        assert sorted(await stored(client, "events-shop")) == ["1", "4"]


@pytest.mark.thorough("waits for streams that are silent")
async def test_half_of_the_timeout_remains_for_streams_that_answer(event) -> None:
    async with broker_with_silent_domains(2) as (connection, domains):
        publisher = NatsEventPublisher(connection, "app", timeout=3)
        events = [*(event(domain, type=f"{domain}.changed.v1") for domain in domains), event("healthy")]
        *silent, healthy = await publisher.publish(events)
        assert healthy.error is None
        for result in silent:
            assert isinstance(result.error, PublisherUnavailableError)
            assert "the broker did not describe it within 1.5 s" in str(result.error)


@pytest.mark.thorough("waits for streams that are silent")
async def test_a_publish_does_not_wait_for_the_check_of_a_silent_stream_by_another_publish(event) -> None:
    async with broker_with_silent_domains(1) as (connection, [silent]):
        publisher = NatsEventPublisher(connection, "app")
        await publish_until_stored(publisher, [event("0")])
        waiting = asyncio.create_task(publisher.publish([event("silent", type=f"{silent}.changed.v1")]))
        await asyncio.sleep(0)
        [result] = await publisher.publish([event("1")])
        assert result.error is None
        assert not waiting.done()
        [result] = await waiting
        assert isinstance(result.error, PublisherUnavailableError)


async def test_a_publish_cancelled_while_it_checks_a_stream_leaves_no_state(event) -> None:
    async with broker_with_silent_domains(3) as (connection, domains):
        publisher = NatsEventPublisher(connection, "app")
        await publish_until_stored(publisher, [event("0")])
        before = asyncio.all_tasks()
        events = [event(domain, type=f"{domain}.changed.v1") for domain in domains]
        publishing = asyncio.create_task(publisher.publish([*events, event("healthy")]))
        await asyncio.sleep(0.05)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        assert asyncio.all_tasks() == before
        await publish_until_stored(publisher, [event("healthy")])
