"""Times of publishing: every wait is bounded, each time, and nothing is kept of calls that have ended."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import nats.errors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import PublishResult
from mediator.errors import PublisherUnavailableError, StreamMismatchError, StreamUnavailableError
from mediator.nats import NatsEventPublisher
from mediator.nats.connection import AuthenticatedClient
from mediator.nats.topology import DEFAULT_SETTINGS
from mediator.nats.topology.streams import stream_config
from tests.adapters.nats.offline import OfflineClient, OfflineConnection
from tests.unit.virtual_time import in_virtual_time, now, settle


def event(event_id: str, domain: str = "shop", key: str | None = None) -> CloudEvent:
    return CloudEvent(event_id, f"{domain}.x.v1", datetime(2026, 1, 1, tzinfo=UTC), b"{}", partitionkey=key)


class Broker:
    """Existing streams. Streams of `silent` domains give no information, and `mute` ones store nothing."""

    def __init__(self) -> None:
        self.connection = OfflineConnection()
        self.silent: set[str] = set()
        self.mute: set[str] = set()
        self.answers: dict[str, dict[str, Any]] = {}
        self.stored: list[str] = []
        self.answer_takes = 0.0
        self.tasks: set[asyncio.Future[Any]] = set()
        self.serve(self.connection.current)

    def serve(self, client: OfflineClient) -> OfflineClient:
        client.answer = self._answer
        client.on_publish = self._on_publish
        return client

    async def _answer(self, subject: str, _body: bytes) -> dict[str, Any]:
        await asyncio.sleep(self.answer_takes)
        domain = subject.rpartition("-")[2]
        if domain in self.silent:
            await asyncio.Event().wait()
        return {"config": stream_config("events", domain, DEFAULT_SETTINGS)}

    async def _on_publish(self, subject: str, _data: bytes, reply: str, headers: dict[str, str]) -> None:
        if subject.startswith("events.") and subject.split(".")[1] not in self.mute:
            said = self.answers.get(headers["ce-id"])
            if said is None:
                self.stored.append(headers["ce-id"])
            asyncio.get_running_loop().call_soon(self._acknowledge, reply, said or {"stream": "s", "seq": 1})

    def _acknowledge(self, reply: str, said: dict[str, Any]) -> None:
        text = json.dumps(said, separators=(",", ":")).encode() if said != {"": ""} else b""
        task = asyncio.ensure_future(self.connection.current.deliver(reply, text))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def publisher(self, **options: Any) -> NatsEventPublisher:
        return NatsEventPublisher(self.connection, "app", **options)  # type: ignore[arg-type]

    def asked(self, domain: str) -> int:
        """Return how often the information of a stream was requested."""
        return sum(subject == f"$JS.API.STREAM.INFO.events-{domain}" for _, subject in self.connection.current.requests)


def reasons(results: Any) -> list[str | None]:
    found: list[PublishResult] = list(results)
    return [None if each.error is None else str(each.error) for each in found]


def nothing_is_kept(publisher: NatsEventPublisher) -> bool:
    return not publisher._publishing


@in_virtual_time
async def test_an_unacknowledged_event_fails_after_the_timeout_and_its_stream_is_checked_again() -> None:
    broker = Broker()
    publisher = broker.publisher(timeout=5.0)
    assert reasons(await publisher.publish([event("0")])) == [None]
    for again in (1, 2):
        broker.mute = {"shop"}
        began = now()
        lost, stored = await publisher.publish([event("1"), event("2", "bank")])
        assert now() - began == pytest.approx(5.0)
        assert "no acknowledgement within 5 s" in str(lost.error)
        assert stored.error is None
        broker.mute = set()
        assert reasons(await publisher.publish([event("1")])) == [None]
        assert (broker.asked("shop"), broker.asked("bank")) == (1 + again, 1)
    assert nothing_is_kept(publisher)


@in_virtual_time
async def test_the_check_of_a_silent_stream_ends_after_half_of_the_timeout() -> None:
    broker = Broker()
    publisher = broker.publisher(timeout=3.0)
    broker.silent = {"bank"}
    for _ in range(2):
        began = now()
        publishing = asyncio.create_task(publisher.publish([event("b", "bank"), event("s")]))
        await asyncio.sleep(0.1)
        assert "s" in broker.stored
        broker.stored.clear()
        silent, healthy = await publishing
        assert now() - began == pytest.approx(1.5)
        assert isinstance(silent.error, StreamUnavailableError)
        assert healthy.error is None


@in_virtual_time
async def test_streams_are_checked_concurrently_and_once_per_connection_for_all_publishes() -> None:
    broker = Broker()
    broker.answer_takes = 1.0
    publisher = broker.publisher(timeout=5.0)
    domains = ["a", "b", "c", "d", "e", "f"]
    events = [event(domain, domain) for domain in domains]
    results = await asyncio.gather(*(publisher.publish(events) for _ in range(3)))
    assert [reasons(each) for each in results] == [[None] * 6] * 3
    assert now() == pytest.approx(1.0, abs=0.1)
    assert [broker.asked(domain) for domain in domains] == [1] * 6
    broker.connection.lose()
    broker.connection.reconnect()
    await publisher.publish(events)
    await publisher.publish(events)
    assert [broker.asked(domain) for domain in domains] == [2] * 6


@in_virtual_time
async def test_a_stream_check_is_valid_only_for_its_connection() -> None:
    broker = Broker()
    broker.answer_takes = 1.0
    publisher = broker.publisher(timeout=5.0)
    for asked in (1, 3):
        publishing = asyncio.create_task(publisher.publish([event("1")]))
        await asyncio.sleep(0.5)
        broker.connection.lose()
        broker.connection.reconnect()
        await publishing
        assert broker.asked("shop") == asked
        assert reasons(await publisher.publish([event("1")])) == [None]
        assert broker.asked("shop") == asked + 1
        broker.connection.lose()
        broker.connection.reconnect()


@in_virtual_time
async def test_state_of_streams_of_earlier_connections_is_dropped() -> None:
    broker = Broker()
    publisher = broker.publisher()
    for _ in range(30):
        assert reasons(await publisher.publish([event("1"), event("2", "bank")])) == [None, None]
        broker.connection.lose()
        broker.connection.reconnect()
    assert len(publisher._streams) == 2
    assert nothing_is_kept(publisher)


@in_virtual_time
async def test_a_publish_without_a_connection_fails_after_a_second() -> None:
    broker = Broker()
    publisher = broker.publisher(timeout=5.0)
    broker.connection.lose()
    for _ in range(3):
        began = now()
        [result] = await publisher.publish([event("1")])
        assert isinstance(result.error, PublisherUnavailableError)
        assert now() - began == pytest.approx(1.0)
    [result] = await broker.publisher(timeout=0.25).publish([event("1")])
    assert now() - began == pytest.approx(1.25)


@in_virtual_time
async def test_a_lost_connection_fails_publishes_in_flight_at_once_and_later_ones_work() -> None:
    broker = Broker()
    publisher = broker.publisher(timeout=60.0)
    await publisher.publish([event("0")])
    for _ in range(3):
        broker.mute = {"shop"}
        publishing = [asyncio.create_task(publisher.publish([event(f"{n}"), event(f"{n}b")])) for n in range(3)]
        await settle()
        began = now()
        broker.connection.lose()
        for results in await asyncio.gather(*publishing):
            assert [isinstance(each.error, PublisherUnavailableError) for each in results] == [True, True]
        assert now() == began
        broker.mute = set()
        broker.connection.reconnect()
        assert reasons(await publisher.publish([event("1"), event("2")])) == [None, None]
    assert nothing_is_kept(publisher)
    assert len(broker.connection.current.subscriptions) == 1


@in_virtual_time
async def test_the_publisher_subscribes_once_to_acknowledgements_on_each_new_client() -> None:
    broker = Broker()
    publisher = broker.publisher()
    for _ in range(3):
        results = await asyncio.gather(*(publisher.publish([event(f"{n}")]) for n in range(4)))
        assert [reasons(each) for each in results] == [[None]] * 4
        assert len(broker.connection.current.subscriptions) == 1
        broker.connection.lose()
        broker.connection.reconnect(client=broker.serve(OfflineClient()))


class RefusingClient(OfflineClient, AuthenticatedClient):
    """A client that counts the listeners for permissions that its server refuses."""

    is_connected = True
    is_closed = False
    is_reconnecting = False
    max_payload = 1_000_000

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[str], None]] = []

    def on_any_denied(self, act: Callable[[str], None]) -> None:
        self.listeners.append(act)


@in_virtual_time
async def test_the_publisher_listens_once_for_refusals_of_each_client_and_fails_refused_events() -> None:
    broker = Broker()
    publisher = broker.publisher(timeout=5.0)
    for _ in range(2):
        client = RefusingClient()
        broker.connection.reconnect(client=broker.serve(client))
        for again in range(3):
            assert reasons(await publisher.publish([event(f"{again}")])) == [None]
        broker.mute = {"shop"}
        publishing = asyncio.create_task(publisher.publish([event("refused")]))
        await settle()
        (refused,) = client.listeners
        refused(client.sent_to("events.shop.*")[-1][1])
        [result] = await publishing
        assert "may not publish" in str(result.error)
        broker.mute = set()


@in_virtual_time
async def test_the_next_publish_repeats_a_failed_subscription_to_acknowledgements() -> None:
    broker = Broker()
    publisher, client = broker.publisher(timeout=5.0), broker.connection.current
    client.subscribe_error = nats.errors.ConnectionClosedError()
    [result] = await publisher.publish([event("1")])
    assert isinstance(result.error, PublisherUnavailableError)
    client.subscribe_error = None
    publishing = asyncio.create_task(publisher.publish([event("1")]))
    await asyncio.sleep(0)
    publishing.cancel()  # cancelled during its subscription
    await asyncio.wait((publishing,))
    assert reasons(await publisher.publish([event("1")])) == [None]
    assert len(client.subscriptions) in (1, 2)


@in_virtual_time
async def test_a_late_acknowledgement_of_a_cancelled_publish_settles_no_other_publish() -> None:
    broker = Broker()
    publisher = broker.publisher(timeout=5.0)
    await publisher.publish([event("0")])
    broker.mute = {"shop"}
    publishing = asyncio.create_task(publisher.publish([event("1")]))
    await settle()
    publishing.cancel()
    await asyncio.wait((publishing,))
    assert nothing_is_kept(publisher)
    late = broker.connection.current.sent_to("events.shop.*")[-1][3]
    again = asyncio.create_task(publisher.publish([event("2")]))
    await settle()
    await broker.connection.current.deliver(late, b'{"stream":"s","seq":1}')
    await settle()
    assert not again.done()
    await broker.connection.current.deliver(
        broker.connection.current.sent_to("events.shop.*")[-1][3], b'{"stream":"s","seq":1}'
    )
    assert reasons(await again) == [None]


@in_virtual_time
async def test_an_error_answer_fails_its_event_and_only_its_stream_is_checked_again() -> None:
    broker = Broker()
    publisher = broker.publisher(size_grace=0)
    broker.answers = {
        "full": {"error": {"code": 503, "err_code": 10077, "description": "maximum bytes exceeded"}},
        "large": {"error": {"code": 400, "err_code": 10054, "description": "message size exceeds maximum"}},
        "gone": {"": ""},
        "twice": {"stream": "s", "seq": 7, "duplicate": True},
    }
    names = ["full", "large", "gone", "twice", "good"]
    results = await publisher.publish([*(event(name) for name in names), event("bank", "bank")])
    kinds = [type(each.error).__name__ for each in results]
    assert kinds == [
        "StreamUnavailableError",
        "EventRefusedError",
        "StreamUnavailableError",
        "NoneType",
        "NoneType",
        "NoneType",
    ]
    assert [each.duplicate for each in results] == [False, False, False, True, False, False]
    assert "no stream answers (503)" in str(results[2].error)
    await publisher.publish([event("good"), event("bank", "bank")])
    assert (broker.asked("shop"), broker.asked("bank")) == (2, 1)


@in_virtual_time
async def test_a_stream_created_concurrently_by_another_process_is_compared() -> None:
    broker, asked = Broker(), list[str]()

    async def answer(subject: str, _body: bytes) -> dict[str, Any]:
        asked.append(subject)
        if subject.startswith("$JS.API.STREAM.CREATE"):
            return {"error": {"code": 400, "err_code": 10058, "description": "stream name already in use"}}
        if subject.startswith("$JS.API.STREAM.INFO") and asked.count(subject) == 1:
            return {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
        return {"config": stream_config("events", "shop", DEFAULT_SETTINGS) | {"retention": "workqueue"}}

    broker.connection.current.answer = answer
    [result] = await broker.publisher().publish([event("1")])
    assert isinstance(result.error, StreamMismatchError)
    assert broker.stored == []


# Signs of the broker.


@in_virtual_time
async def test_a_connection_newer_than_the_last_publish_is_a_sign_and_waiting_leaves_no_listener() -> None:
    broker = Broker()
    publisher, before = broker.publisher(), broker.connection.counts()
    await publisher.publish([event("1")])
    for _ in range(3):
        began = now()
        assert not await publisher.wait_for_recovery(10.0)
        assert now() - began == pytest.approx(10.0)
        waiting = asyncio.create_task(publisher.wait_for_recovery(10.0))
        await asyncio.sleep(4.0)
        broker.connection.lose()
        broker.connection.reconnect()
        assert await waiting
        assert now() - began == pytest.approx(14.0)
        assert await publisher.wait_for_recovery(10.0)  # the sign lasts until the next publish
        assert now() - began == pytest.approx(14.0)
        waiting = asyncio.create_task(publisher.wait_for_recovery(10.0))
        waiting.cancel()
        await asyncio.wait((waiting,))
        await publisher.publish([event("1")])
        assert broker.connection.counts()[:2] == before[:2]


@in_virtual_time
async def test_a_connection_made_after_a_failed_publish_is_a_sign() -> None:
    broker = Broker()
    publisher = broker.publisher()
    broker.connection.lose()
    publishing = asyncio.create_task(publisher.publish([event("1")]))
    await publishing
    broker.connection.reconnect()
    began = now()
    assert await publisher.wait_for_recovery(10.0)
    assert now() == began


@in_virtual_time
async def test_a_connection_that_existed_when_the_last_publish_failed_is_no_sign() -> None:
    broker = Broker()
    publisher = broker.publisher(timeout=5.0)
    await publisher.publish([event("1")])
    broker.connection.lose()
    broker.connection.reconnect()
    broker.connection.lose()
    await publisher.publish([event("1")])
    began = now()
    assert not await publisher.wait_for_recovery(10.0)
    assert now() - began == pytest.approx(10.0)
    broker.mute = {"shop"}
    publishing = asyncio.create_task(publisher.publish([event("1")]))
    await asyncio.sleep(0.5)
    broker.connection.reconnect()
    [result] = await publishing
    assert "no acknowledgement" in str(result.error)
    assert not await publisher.wait_for_recovery(10.0)


UNKNOWN = st.one_of(
    st.integers(2, 10**30).map(str),
    st.sampled_from(["²", "٣", "9" * 5000, "-1", "b0", "b99", ""]),
    st.text("0123456789bx²", max_size=9).filter(lambda index: not index or index.lstrip("0") not in {"", "1"}),
)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([
        b'{"stream":"s","seq":1}', b'{"stream":"s","duplicate":true}', b'{"error":{"err_code":10054}}', b'{"error":null}',
        b'{"error":{"err_code":[]}}', b'{"error":{"description":7,"code":"x"}}', b"[1]", b"null", b"[" * 10_000, b"",
    ]),
)  # fmt: skip


@pytest.mark.parametrize("refills", [False, True])
@settings(max_examples=100, deadline=None)
@given(forged=st.lists(st.tuples(UNKNOWN, BODIES), max_size=8), unreadable=BODIES)
def test_answers_that_somebody_forges_raise_nothing_and_settle_no_other_event(
    refills: bool, forged: list[tuple[str, bytes]], unreadable: bytes
) -> None:
    @in_virtual_time
    async def run() -> None:
        broker = Broker()
        publisher = broker.publisher(timeout=5.0)
        await publisher.publish([event("before")])
        broker.mute = {"shop"}
        send = publisher.refill if refills else publisher.publish
        publishing = asyncio.create_task(send([event("0"), event("1")]))
        await asyncio.sleep(1.0)
        client = broker.connection.current
        inbox = client.sent_to("events.shop.x.*")[-1][3].rpartition(".")[0]
        for index, data in forged:
            await client.deliver(f"{inbox}.{index}", data)
        await client.deliver(f"{inbox}.1", unreadable)
        await client.deliver(f"{inbox}.0", b'{"stream":"s","seq":1}')
        first, second = await publishing
        assert first.error is None
        assert second.event.id == "1"
        assert nothing_is_kept(publisher)

    run()
