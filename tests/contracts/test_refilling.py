"""Reading an outbox and its archive, in memory, in SQLite and in PostgreSQL; reading streams and refilling them, in memory
and on a real nats-server."""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import EventPublisher, OutboxFilter, Place, StreamContents
from mediator.errors import DuplicateDroppedError, EventHeldBackError, NotFoundError, PublisherUnavailableError
from mediator.nats import NatsEventPublisher, NatsServer, open_connection
from mediator.nats.topology import JetStreamApi
from mediator.testing import InMemoryBroker, InMemoryEventPublisher
from mediator.testing.conformance import StorageUnderTest
from mediator.testing.conformance.storage import FUTURE, Elsewhere, Written, add
from tests.conformance import storages
from tests.postgres import PostgresServer

ARCHIVED = OutboxFilter("archived")
WAITING = OutboxFilter("waiting")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageUnderTest]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            opening = storages.in_memory()
        elif request.param == "sqlite":
            opening = storages.in_database(f"sqlite:///{tmp_path}/contract.db")
        else:
            server: PostgresServer = request.getfixturevalue("postgres")
            opening = storages.in_database(await stack.enter_async_context(server.database()))
        yield await stack.enter_async_context(opening)


async def archive(storage: StorageUnderTest, limit: int = 1000) -> None:
    async with storage.outbox.claim(limit) as batch:
        await batch.settle([event.id for event in batch.events])


async def ids(storage: StorageUnderTest, which: OutboxFilter, **options: int) -> list[str]:
    return [record.id for record in await storage.outbox.contents.find(which, **options)]


async def test_events_are_found_with_their_place_in_the_order_of_their_key(storage: StorageUnderTest):
    sent = await add(storage, Written("a", "k"), Written("b", "k"))
    await archive(storage)
    waiting = await add(storage, Written("c", "k"))
    delayed = await add(storage, Written("d", "k"), after=FUTURE)
    contents = storage.outbox.contents
    assert (await ids(storage, ARCHIVED), await ids(storage, WAITING)) == (sent, waiting)
    assert await ids(storage, OutboxFilter("delayed")) == delayed
    [record] = await contents.find(WAITING)
    assert (record.place, record.type, record.partition_key) == ("waiting", "contract.written.v1", "k")
    assert (record.domain, record.size, record.moved_at) == ("contract", len(b'{"text":"c","key":"k"}'), None)
    assert abs((record.time - datetime.now(UTC)).total_seconds()) < 60
    [late] = await contents.find(OutboxFilter("delayed"))
    assert 3500 < (late.moved_at or 0) - time.time() <= 3600
    first, _ = await contents.find(ARCHIVED)
    assert abs((first.moved_at or 0) - time.time()) < 60


async def test_a_filter_excludes_events_that_do_not_match(storage: StorageUnderTest):
    a, b, c = await add(storage, Written("a", "k"), Written("b"), Elsewhere("c"))
    await archive(storage)
    assert await ids(storage, replace(ARCHIVED, key="k")) == [a]
    assert await ids(storage, replace(ARCHIVED, type="elsewhere.written.v1")) == [c]
    assert await ids(storage, replace(ARCHIVED, domain="contract")) == [a, b]
    assert await ids(storage, replace(ARCHIVED, domain="contrac")) == []
    assert await ids(storage, replace(ARCHIVED, ids=(c, a, "unknown"))) == [a, c]
    assert await ids(storage, replace(ARCHIVED, since=time.time() + 60)) == []
    assert await ids(storage, replace(ARCHIVED, since=time.time() - 60)) == [a, b, c]
    assert await storage.outbox.contents.count(replace(ARCHIVED, since=time.time() + 60)) == replace(
        await storage.outbox.contents.count(ARCHIVED), events=0, oldest=None
    )


@pytest.mark.parametrize("text", ["a\0b", "\udcff", "x" * 10_000, "%", "contr_ct"])
@pytest.mark.parametrize("place", ["waiting", "archived"])
async def test_a_filter_with_impossible_values_finds_no_event_and_is_no_error(
    storage: StorageUnderTest, place: Place, text: str
):
    await add(storage, Written("a", "k"))
    if place == "archived":
        await archive(storage)
    for which in {"key": text}, {"type": text}, {"domain": text}, {"ids": (text,)}:
        assert await ids(storage, replace(OutboxFilter(place), **which)) == []
        assert (await storage.outbox.contents.count(replace(OutboxFilter(place), **which))).events == 0
    with pytest.raises(NotFoundError, match="have no event with the id"):
        await storage.outbox.contents.get(text)


@pytest.mark.parametrize("place", ["waiting", "delayed"])
async def test_the_age_of_an_event_that_is_not_archived_counts_from_its_creation(
    storage: StorageUnderTest, place: Place
):
    await add(storage, Written("a"), after=FUTURE if place == "delayed" else None)
    contents = storage.outbox.contents
    count = await contents.count(OutboxFilter(place))
    assert count.events == 1
    assert abs((count.oldest or 0) - time.time()) < 60
    assert len(await contents.find(OutboxFilter(place, since=time.time() - 60))) == 1
    assert len(await contents.find(OutboxFilter(place, since=time.time() + 60))) == 0


async def test_events_are_read_page_by_page(storage: StorageUnderTest):
    sent = await add(storage, *(Written(str(number)) for number in range(7)))
    await archive(storage)
    contents, after, found = storage.outbox.contents, 0, []
    while page := await contents.find(ARCHIVED, after=after, limit=3):
        assert len(page) <= 3
        after = page[-1].sequence
        found += [record.id for record in page]
    assert found == sent


async def test_archived_events_are_read_completely_and_in_order_without_deleted_ones(storage: StorageUnderTest):
    sent = await add(storage, Written("a", "k"), Written("b", "o"), Written("c", "o"))
    await archive(storage)
    contents = storage.outbox.contents
    sequences = [record.sequence for record in await contents.find(ARCHIVED)]
    await storage.outbox.erase("k")
    events = await contents.archived(sequences[::-1])
    assert [event.id for event in events] == sent[1:]
    assert (events[0].data, events[0].partitionkey, events[0].source) == (b'{"text":"b","key":"o"}', "o", "")
    assert await contents.archived([]) == []


async def test_a_single_event_is_found_in_every_place(storage: StorageUnderTest):
    [sent] = await add(storage, Written("a"))
    await archive(storage)
    [waiting] = await add(storage, Written("b"))
    [delayed] = await add(storage, Written("c"), after=FUTURE)
    for event_id, place, letter in ((sent, "archived", "a"), (waiting, "waiting", "b"), (delayed, "delayed", "c")):
        record, event = await storage.outbox.contents.get(event_id)
        assert (record.place, record.id, event.id) == (place, event_id, event_id)
        assert event.data == f'{{"text":"{letter}","key":null}}'.encode()
    with pytest.raises(NotFoundError, match="have no event with the id"):
        await storage.outbox.contents.get("a\0b")
    with pytest.raises(NotFoundError, match="no event with the id 'unknown'"):
        await storage.outbox.contents.get("unknown")


# Streams.


@dataclass
class Transport:
    publisher: EventPublisher
    other: EventPublisher
    lose: Callable[..., Awaitable[None]]
    stop: Callable[[], Awaitable[None]]

    @property
    def contents(self) -> StreamContents:
        found = self.publisher.contents
        assert found is not None
        return found

    async def ids(self, **options: object) -> list[str]:
        """Return the ids of the events of this application."""
        found = [each async for page in self.contents.ids("shop", **options) for each in page]
        return [event_id for source, event_id in found if source == "shop"]

    async def publish(self, *events: CloudEvent) -> list[bool]:
        results = await self.publisher.publish(events)
        assert all(result.error is None for result in results), results
        return [result.duplicate for result in results]


@asynccontextmanager
async def in_memory() -> AsyncIterator[Transport]:
    broker = InMemoryBroker()

    async def lose(*ids: str) -> None:
        broker.lose(*ids, remember=True)

    async def stop() -> None:
        broker.available = False

    yield Transport(
        InMemoryEventPublisher(broker, application="shop"),
        InMemoryEventPublisher(broker, application="other"),
        lose,
        stop,
    )


@asynccontextmanager
async def on_nats() -> AsyncIterator[Transport]:
    prefix = f"t{uuid.uuid4().hex[:10]}"
    async with NatsServer() as server, open_connection(server.url) as connection:

        async def lose(*ids: str) -> None:
            client = await connection.client("consume", timeout=5)
            api, stream = JetStreamApi(client, ""), f"{prefix}-shop"
            info = await api.stream(stream)
            assert info is not None
            jetstream = client.jetstream()
            for sequence in range(1, info["state"]["last_seq"] + 1):
                message = await jetstream.get_msg(stream, sequence)
                if (message.headers or {})["ce-id"] in ids:
                    await jetstream.delete_msg(stream, sequence)

        yield Transport(
            NatsEventPublisher(connection, "shop", prefix=prefix),
            NatsEventPublisher(connection, "other", prefix=prefix),
            lose,
            server.kill,
        )


@pytest.fixture(params=["memory", "nats"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    async with in_memory() if request.param == "memory" else on_nats() as opened:
        yield opened


def event(event_id: str, key: str | None = "k") -> CloudEvent:
    return CloudEvent(event_id, "shop.order-placed.v1", datetime.now(UTC), b"{}", partitionkey=key)


async def test_a_stream_lists_the_source_and_id_of_each_event_in_order(transport: Transport):
    assert await transport.ids() == []
    await transport.publish(event("a"), event("b"), event("c ü%"))
    await transport.other.publish([event("theirs")])
    assert await transport.ids() == ["a", "b", "c ü%"]
    found = [each async for page in transport.contents.ids("shop") for each in page]
    assert found == [("shop", "a"), ("shop", "b"), ("shop", "c ü%"), ("other", "theirs")]
    assert [each async for page in transport.contents.ids("elsewhere") for each in page] == []


async def test_a_stream_can_be_read_from_a_sequence_or_a_time(transport: Transport):
    await transport.publish(event("a"))
    state = await transport.contents.state("shop")
    assert state is not None
    await transport.publish(event("b"))
    assert await transport.ids(after=state.last_sequence) == ["b"]
    assert await transport.ids(after=state.last_sequence + 1) == []
    assert await transport.ids(since=datetime.now(UTC) - timedelta(hours=1)) == ["a", "b"]
    assert state.name == transport.contents.stream("shop")
    assert state.oldest_at is not None
    assert abs((state.oldest_at - datetime.now(UTC)).total_seconds()) < 60
    assert not state.drops_oldest


async def test_a_publisher_reports_duplicates(transport: Transport):
    assert await transport.publish(event("a"), event("b", None)) == [False, False]
    assert await transport.publish(event("a"), event("c")) == [True, False]
    await transport.lose("a")
    assert await transport.publish(event("a")) == [True]
    assert await transport.ids() == ["b", "c"]


async def test_a_refill_stops_at_an_event_of_a_key_that_the_broker_remembers_but_no_longer_holds(transport: Transport):
    await transport.publish(event("a"))
    await transport.lose("a")
    results = await transport.publisher.refill([event("a"), event("b"), event("x", "other"), event("y", None)])
    errors = [type(result.error) for result in results]
    assert errors == [DuplicateDroppedError, EventHeldBackError, type(None), type(None)]
    assert sorted(await transport.ids()) == ["x", "y"]


async def test_a_refill_with_a_mark_is_stored_in_order_under_the_same_ids_and_once(transport: Transport):
    events = [event("a"), event("b"), event("c", None)]
    await transport.publish(*events)
    await transport.lose("a", "b")
    for duplicates in ([False, False, False], [True, True, True]):
        results = await transport.publisher.refill(events, mark="m1")
        assert [(result.error, result.duplicate) for result in results] == [(None, each) for each in duplicates]
    found = await transport.ids()
    assert [each for each in found if each != "c"] == ["a", "b"]
    assert found.count("c") == 2  # only a missing event needs a mark


@pytest.mark.thorough("waits for a server that is away")
async def test_an_unavailable_broker_is_not_reported_as_an_empty_stream(transport: Transport):
    await transport.publish(event("a"))
    await transport.stop()
    with pytest.raises(PublisherUnavailableError):
        await transport.ids()
    with pytest.raises(PublisherUnavailableError):
        await transport.contents.state("shop")
