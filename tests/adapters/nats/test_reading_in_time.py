"""Reading streams, consumers and brokers: each field from its place, despite disturbances, within bounded time."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from mediator.cli.doctor.inspection import AccountState, ConsumerState, StreamState, _consumer, _stream, inspect_broker
from mediator.errors import PublisherUnavailableError
from mediator.nats.stream_contents import HeaderScan, NatsStreamContents, _held
from mediator.nats.topology import ConsumerSettings, JetStreamApi, Topology, WantedConsumer
from tests.adapters.nats.offline import OfflineClient, OfflineConnection
from tests.unit.virtual_time import in_virtual_time, now

TIME = "2026-01-02T03:04:05Z"


def stream_info(**config: Any) -> dict[str, Any]:
    return {
        "created": "2026-01-01T00:00:00Z",
        "config": {
            "name": "events-shop",
            "num_replicas": 3,
            "storage": "file",
            "discard": "old",
            "retention": "limits",
            "max_age": 7_000_000_000,
            "max_bytes": 800,
            "duplicate_window": 9_000_000_000,
            "allow_atomic": True,
            "persist_mode": "async",
            "metadata": {"mediator.partitions": "16"},
            **config,
        },
        "state": {"messages": 11, "bytes": 12, "first_seq": 13, "last_seq": 14, "first_ts": TIME},
        "cluster": {
            "replicas": [
                {"name": "away", "offline": True, "current": True},
                {"name": "behind", "current": False},
                {"name": "fine", "current": True},
                {"name": "both", "offline": True, "current": False},
            ]
        },
    }


def test_each_field_of_a_stream_is_read_from_its_key() -> None:
    assert _stream(stream_info()) == StreamState(
        name="events-shop",
        replicas=3,
        storage="file",
        discard="old",
        retention="limits",
        max_age=7.0,
        max_bytes=800,
        duplicate_window=9.0,
        persist_mode="async",
        partitions=16,
        messages=11,
        bytes=12,
        offline_replicas=("away", "behind", "both"),
    )


def test_each_field_of_a_consumer_is_read_from_its_key() -> None:
    info = {
        "stream_name": "events-shop",
        "name": "g",
        "config": {"max_deliver": 5, "ack_wait": 6_000_000_000, "max_ack_pending": 7},
        "paused": True,
        "num_pending": 8,
        "num_ack_pending": 9,
        "num_redelivered": 10,
        "ack_floor": {"stream_seq": 11, "consumer_seq": 12},
        "delivered": {"stream_seq": 13, "consumer_seq": 14},
        "num_waiting": 15,
    }
    assert _consumer(info) == ConsumerState("events-shop", "g", 5, 6.0, 7, True, 8, 9, 11, 15)


@pytest.mark.parametrize(
    ("config", "drops"),
    [
        ({}, True),
        ({"discard": "new"}, False),
        ({"max_bytes": -1}, False),
        ({"max_bytes": -1, "max_msgs": 5}, True),
        ({"max_bytes": 0}, False),
    ],
)
def test_a_stream_discards_old_events_only_with_a_limit_and_the_discard_policy_old(
    config: dict[str, Any], drops: bool
) -> None:
    held = _held(stream_info(**config))
    assert held.drops_oldest is drops
    assert (held.name, held.last_sequence, held.max_age) == ("events-shop", 14, 7.0)
    assert held.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert held.oldest_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    empty = stream_info(max_age=0)
    empty["state"]["messages"] = 0
    assert (_held(empty).oldest_at, _held(empty).max_age) == (None, None)


class Version:
    major, minor, patch = 2, 14, 1


@in_virtual_time
async def test_the_report_contains_the_answers_of_the_broker_and_each_problem_once() -> None:
    connection = OfflineConnection()
    client: Any = connection.current
    client.connected_server_version, client.servers = Version, ["a", "b"]

    async def answer(subject: str, _body: bytes) -> dict[str, Any]:
        if subject == "$JS.API.INFO":
            limits = {"max_storage": 4, "max_memory": 9}
            return {"api": {"level": 2}, "storage": 3, "memory": 8, "limits": limits, "streams": 5, "consumers": 6}
        if subject.endswith(("events-a", "events-b", "events-a.g")):
            return {"error": {"code": 503, "err_code": 10008, "description": "no leader"}}
        if subject.endswith("events-gone.g"):
            return {"error": {"code": 404, "err_code": 10014, "description": "consumer not found"}}
        if subject.endswith("events-gone"):
            return {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
        return stream_info()

    client.answer = answer
    names = [_Wanted(f"events-{name}") for name in ("shop", "a", "b", "gone")]
    consumers = tuple(WantedConsumer(f"events-{name}", "g", ConsumerSettings("g", ["x"])) for name in ("a", "gone"))
    report = await inspect_broker(connection, Topology(tuple(names), consumers), timeout=3)  # type: ignore[arg-type]
    assert report.account == AccountState(3, 4)
    assert (report.server_version, report.servers, report.jetstream) == ("2.14.1", 2, True)
    assert [stream.name for stream in report.streams] == ["events-shop"]
    assert report.missing_streams == ("events-gone",)
    assert report.missing_consumers == (("events-gone", "g"),)
    assert len(report.problems) == 1


class _Wanted:
    def __init__(self, name: str) -> None:
        self.name = name


@in_virtual_time
async def test_an_unreachable_broker_is_awaited_for_the_given_timeout() -> None:
    connection = OfflineConnection()
    connection.lose()
    for timeout in (3.0, 11.0):
        began = now()
        report = await inspect_broker(connection, Topology((), ()), timeout=timeout)  # type: ignore[arg-type]
        assert now() - began == pytest.approx(timeout)
        assert not report.reachable


# Reading a stream.


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        monotonic = staticmethod(now)

    monkeypatch.setattr("mediator.nats.stream_contents.time", Clock)


@in_virtual_time
async def test_the_state_of_a_stream_is_retried_for_ten_seconds_during_an_election() -> None:
    connection = OfflineConnection()
    contents = NatsStreamContents(connection, prefix="events")  # type: ignore[arg-type]
    answers = [{"error": {"code": 503, "err_code": 10008, "description": "no leader"}}]

    async def answer(_subject: str, _body: bytes) -> dict[str, Any]:
        return answers[0]

    connection.current.answer = answer
    for _ in range(2):
        answers[0] = {"error": {"code": 503, "err_code": 10008, "description": "no leader"}}
        asyncio.get_running_loop().call_later(9, answers.__setitem__, 0, stream_info())
        held = await contents.state("shop")
        assert held is not None
        assert held.last_sequence == 14
    answers[0] = {"error": {"code": 503, "err_code": 10008, "description": "no leader"}}
    began, asked = now(), len(connection.current.requests)
    with pytest.raises(PublisherUnavailableError):
        await contents.state("shop")
    assert 10.0 <= now() - began <= 10.3
    assert len(connection.current.requests) - asked <= 52


@pytest.mark.parametrize("after", [14, 15])
async def test_no_consumer_is_created_to_read_a_stream_without_new_events(after: int) -> None:
    connection = OfflineConnection()
    contents = NatsStreamContents(connection, prefix="events")  # type: ignore[arg-type]

    async def answer(_subject: str, _body: bytes) -> dict[str, Any]:
        return stream_info()

    connection.current.answer = answer
    assert [page async for page in contents.ids("shop", after=after)] == []
    assert [subject for _, subject in connection.current.requests] == ["$JS.API.STREAM.INFO.events-shop"]


class Stream:
    """A stream whose consumers a test disturbs: each message in `losses` gets lost once on its way."""

    def __init__(self, last: int) -> None:
        self.client = OfflineClient()
        self.client.answer = self._answer
        self.client.on_publish = self._on_publish
        self.last = last
        self.losses: set[int] = set()
        self.silent = 0
        self.lagging = 0
        self.consumers: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def _answer(self, subject: str, body: bytes) -> dict[str, Any]:
        kind = subject.removeprefix("$JS.API.")
        name = subject.rpartition(".")[2]
        if kind.startswith("CONSUMER.CREATE"):
            config = json.loads(body)["config"]
            self.created.append(config)
            first = config.get("opt_start_seq", 1)
            end = self.last
            if self.lagging:
                self.lagging -= 1
                end = max(first - 1, self.last - 3)
            self.consumers[name] = {"next": first, "number": 0, "end": end}
            return {"num_pending": end - first + 1}
        if kind.startswith("CONSUMER.DELETE"):
            del self.consumers[name]
            return {"success": True}
        if kind.startswith("STREAM.MSG.GET"):
            wanted = json.loads(body)["seq"]
            if wanted > self.last:
                return {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
            return {"message": {"seq": wanted}}
        return {"error": {"code": 404, "err_code": 0, "description": kind}}

    async def _on_publish(self, subject: str, _body: bytes, reply: str, _headers: dict[str, str]) -> None:
        task = asyncio.ensure_future(self._serve(subject.rpartition(".")[2], reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, name: str, inbox: str) -> None:
        if self.silent:
            self.silent -= 1
            return
        consumer = self.consumers[name]
        for _ in range(4):
            sequence = consumer["next"]
            if sequence > consumer["end"]:
                await self.client.deliver(inbox, headers={"Status": "404"})
                return
            consumer["next"] += 1
            consumer["number"] += 1
            if sequence in self.losses:
                self.losses.discard(sequence)
                continue
            left = consumer["end"] - sequence
            reply = f"$JS.ACK.s.{name}.1.{sequence}.{consumer['number']}.1700000000000000000.{left}"
            await self.client.deliver(inbox, headers={"ce-id": f"{sequence}"}, reply=reply, published="s.x")

    async def read(self, *, after: int = 0, last: int | None = None, since: datetime | None = None) -> list[int]:
        async def api() -> JetStreamApi:
            return JetStreamApi(self.client, "nats://offline")  # type: ignore[arg-type]

        scan = HeaderScan(api, "s", after=after, last=self.last if last is None else last, since=since)
        return [int(headers["ce-id"]) async for page in _pages(scan) for headers in page]


async def _pages(scan: HeaderScan) -> AsyncIterator[list[Any]]:
    async for page in scan.pages():
        yield page


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediator.nats.stream_contents._BATCH", 4)


@pytest.mark.usefixtures("small_batches")
@in_virtual_time
async def test_every_message_is_read_once_despite_losses_and_silent_consumers() -> None:
    stream = Stream(30)
    assert await stream.read() == list(range(1, 31))
    assert await stream.read(after=10, last=20) == list(range(11, 21))
    stream.losses = {3, 4, 9, 17, 18, 19, 30}
    assert await stream.read() == list(range(1, 31))
    began = now()
    stream.silent = 2
    assert await stream.read(after=1) == list(range(2, 31))
    assert now() - began <= 2 * (3.0 + 0.5) + 0.1
    stream.lagging = 3
    assert await stream.read() == list(range(1, 31))
    stream.losses = {29}  # the last batch ends without this message
    assert await stream.read() == list(range(1, 31))
    assert stream.consumers == {}
    assert stream.client.subscriptions == {}


@pytest.mark.usefixtures("small_batches")
@in_virtual_time
async def test_reading_a_stream_is_given_up_only_without_progress() -> None:
    stream = Stream(40)
    stream.losses = set(range(2, 41, 2))  # far more often than it is tried without progress
    assert await stream.read() == list(range(1, 41))
    stream.silent = 1000
    began = now()
    with pytest.raises(PublisherUnavailableError):
        await stream.read()
    assert now() - began == pytest.approx(6 * 3.5, abs=0.6)
    assert stream.consumers == {}
    assert stream.client.subscriptions == {}


@pytest.mark.usefixtures("small_batches")
@in_virtual_time
async def test_reading_starts_by_time_and_resumes_by_sequence() -> None:
    stream, since = Stream(9), datetime(2026, 1, 1, tzinfo=UTC)
    stream.losses = {7}
    assert await stream.read(since=since) == list(range(1, 10))
    starts = [
        (each["deliver_policy"], each.get("opt_start_seq"), each.get("opt_start_time")) for each in stream.created
    ]
    assert starts[0] == ("by_start_time", None, "2026-01-01T00:00:00Z")
    assert all(policy == "by_start_sequence" for policy, _, _ in starts[1:])
    assert {each["ack_policy"] for each in stream.created} == {"none"}
    assert all(each["headers_only"] and each["inactive_threshold"] == 30_000_000_000 for each in stream.created)


@pytest.mark.usefixtures("small_batches")
@in_virtual_time
async def test_an_empty_answer_of_a_lagging_replica_is_not_believed() -> None:
    stream = Stream(2)
    stream.lagging = 1
    assert await stream.read(since=datetime(2026, 1, 1, tzinfo=UTC)) == [1, 2]
    assert [each["deliver_policy"] for each in stream.created] == ["by_start_time", "all"]


async def test_a_silent_monitoring_is_awaited_for_the_given_timeout() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    done = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = OfflineConnection()
    connection.closed = True
    try:
        async with asyncio.timeout(10):
            report = await inspect_broker(
                connection,  # type: ignore[arg-type]
                Topology((), ()),
                timeout=0.2,
                monitoring=f"http://127.0.0.1:{port}",
            )
    finally:
        done.set()
        server.close()
        await server.wait_closed()
    assert report.sync_always is None
    assert any("could not be read" in each for each in report.problems)


@in_virtual_time
async def test_an_answer_of_the_api_is_awaited_for_two_seconds_each_time() -> None:
    client = OfflineClient()
    for _ in range(2):
        began = now()
        with pytest.raises(PublisherUnavailableError, match="no answer from JetStream"):
            await JetStreamApi(client, "nats://offline").stream("events-shop")  # type: ignore[arg-type]
        assert now() - began == pytest.approx(2.0)
