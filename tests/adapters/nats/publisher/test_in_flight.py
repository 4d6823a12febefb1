"""InFlight: how many messages are on their way, in which order, and how an answer makes room for the next ones."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import nats.errors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import (
    DuplicateDroppedError,
    EventHeldBackError,
    EventRefusedError,
    PublisherUnavailableError,
    StreamUnavailableError,
)
from mediator.nats.publisher.in_flight import (
    BATCH,
    MAX_BYTES_IN_FLIGHT,
    MAX_IN_FLIGHT,
    SMALLEST,
    AtomicBatches,
    InFlight,
    OutgoingMessage,
    refusal,
)
from tests.unit.virtual_time import settle

AWAY = PublisherUnavailableError("broker", "away")


class Wire:
    """Takes the messages that are sent, and answers none by itself."""

    def __init__(self, max_payload: int = 64 * 1024**2) -> None:
        self.max_payload = max_payload
        self.sent: list[str] = []
        self.replies: list[str] = []
        self.headers: dict[str, str] = {}
        self.error: Exception | None = None

    async def publish(self, subject: str, payload: bytes, reply: str = "", headers: Any = None) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.sent.append(headers["ce-id"])
        self.replies.append(reply)
        self.headers = headers
        del subject, payload


def message(event_id: str, *, domain: str = "shop", key: str | None = None, size: int = 10) -> OutgoingMessage:
    event = CloudEvent(event_id, f"{domain}.x.v1", datetime(2026, 1, 1, tzinfo=UTC), b"x" * size, partitionkey=key)
    return OutgoingMessage(event, domain, f"events.{domain}.x.0", {"ce-id": event_id})


def too_large(event: CloudEvent, size: int, limit: int) -> EventRefusedError:
    return refusal(event, f"{size} bytes are more than {limit}")


def flight_of(*messages: OutgoingMessage | EventRefusedError, refills: bool = False) -> InFlight:
    keys = [each.event.partitionkey if isinstance(each, OutgoingMessage) else None for each in messages]
    in_flight = InFlight(messages, keys, "broker", too_large=too_large, refills=refills)
    for domain in {each.domain for each in messages if isinstance(each, OutgoingMessage)}:
        in_flight.open(domain)
    return in_flight


@asynccontextmanager
async def running(in_flight: InFlight, wire: Wire) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(in_flight.run(wire, "inbox"))  # type: ignore[arg-type]
    await sent_all(wire)
    try:
        yield task
    finally:
        in_flight.give_up(AWAY)
        async with asyncio.timeout(5):
            await asyncio.wait((task,))
        task.result()


async def sent_all(wire: Wire) -> None:
    """Wait until nothing more is sent."""
    before = -1
    while before != len(wire.sent):
        before = len(wire.sent)
        await settle()


async def test_the_number_of_events_in_flight_is_limited_and_each_settled_event_frees_a_place() -> None:
    in_flight, wire = flight_of(*(message(f"{n}") for n in range(MAX_IN_FLIGHT + 40))), Wire()
    async with running(in_flight, wire):
        assert len(wire.sent) == MAX_IN_FLIGHT
        for landed in range(30):
            if landed % 3 == 0:
                in_flight.settle(landed, None)
            elif landed % 3 == 1:
                in_flight.known(landed)
            else:
                in_flight.refuse(landed, "no")
            await sent_all(wire)
            assert len(wire.sent) == MAX_IN_FLIGHT + landed + 1
        in_flight.settle(0, None)  # settled twice, it makes room once
        await sent_all(wire)
        assert len(wire.sent) == MAX_IN_FLIGHT + 30
    assert wire.sent == [f"{n}" for n in range(MAX_IN_FLIGHT + 30)]


async def test_the_bytes_in_flight_are_limited_and_a_settled_event_frees_its_bytes() -> None:
    size = MAX_BYTES_IN_FLIGHT // 4
    in_flight, wire = flight_of(*(message(f"{n}", size=size) for n in range(20))), Wire()
    async with running(in_flight, wire):
        assert len(wire.sent) == 4
        for landed in range(10):
            in_flight.settle(landed, None if landed % 2 else AWAY)
            await sent_all(wire)
            assert len(wire.sent) == 5 + landed


async def test_an_event_that_cannot_be_sent_takes_no_place() -> None:
    too_large = [message(f"large {n}", size=3000) for n in range(MAX_IN_FLIGHT + 5)]
    in_flight, wire = flight_of(*too_large, message("fits")), Wire(max_payload=2000)
    async with running(in_flight, wire) as task:
        assert wire.sent == ["fits"]
        in_flight.settle(MAX_IN_FLIGHT + 5, None)
        await task
    assert {type(error) for error in in_flight.errors[:-1]} == {EventRefusedError}


@pytest.mark.parametrize("error", [nats.errors.BadSubjectError(), nats.errors.MaxPayloadError()])
async def test_an_event_that_the_client_refuses_is_refused_permanently_and_takes_no_place(error: Exception) -> None:
    in_flight, wire = flight_of(*(message(f"{n}") for n in range(MAX_IN_FLIGHT + 5))), Wire()
    wire.error = error
    async with running(in_flight, wire) as task, asyncio.timeout(5):
        await task
        assert {type(each) for each in in_flight.errors} == {EventRefusedError}


async def test_a_connection_lost_while_sending_settles_every_event() -> None:
    in_flight, wire = flight_of(*(message(f"{n}", key="k" if n % 2 else None) for n in range(50))), Wire()
    wire.error = nats.errors.ConnectionClosedError()
    expected = in_flight.expect("b0", "shop")
    await asyncio.wait_for(in_flight.run(wire, "inbox"), 5)  # type: ignore[arg-type]
    assert {type(each) for each in in_flight.errors} == {PublisherUnavailableError}
    assert expected.done()
    assert in_flight.expect("b1", "shop").result() is None


async def test_one_event_per_key_is_in_flight_and_the_next_is_sent_after_it_is_stored() -> None:
    in_flight = flight_of(
        message("a1", key="a"), message("b1", key="b"), message("a2", key="a"), message("a3", key="a")
    )
    wire = Wire()
    async with running(in_flight, wire) as task:
        assert wire.sent == ["a1", "b1"]
        in_flight.settle(0, None)
        await sent_all(wire)
        assert wire.sent == ["a1", "b1", "a2"]
        in_flight.settle(2, None)
        in_flight.settle(1, None)
        await sent_all(wire)
        assert wire.sent == ["a1", "b1", "a2", "a3"]
        in_flight.settle(3, None)
        await task
    assert in_flight.errors == [None] * 4
    assert wire.replies == ["inbox.0", "inbox.1", "inbox.2", "inbox.3"]


async def test_later_events_of_the_key_of_a_failed_event_are_held_back() -> None:
    in_flight = flight_of(*(message(f"{n}", key="k") for n in range(5)), message("other"))
    wire = Wire()
    async with running(in_flight, wire) as task:
        in_flight.settle(0, None)
        await sent_all(wire)
        in_flight.settle(1, AWAY)
        in_flight.settle(5, None)
        await task
    assert wire.sent == ["0", "other", "1"]
    assert [type(error) for error in in_flight.errors] == [
        type(None),
        PublisherUnavailableError,
        *[EventHeldBackError] * 3,
        type(None),
    ]
    held = in_flight.errors[3]
    assert isinstance(held, EventHeldBackError)
    assert held.event_id == "3"


async def test_an_event_that_cannot_be_encoded_holds_back_its_key_from_the_start() -> None:
    first = message("1", key="k")
    messages = [refusal(first.event, "no"), message("2", key="k"), message("3")]
    in_flight = InFlight(messages, ["k", "k", None], "broker", too_large=too_large)
    in_flight.open("shop")
    wire = Wire()
    async with running(in_flight, wire):
        assert wire.sent == ["3"]
    assert [type(error) for error in in_flight.errors[:2]] == [EventRefusedError, EventHeldBackError]


async def test_a_closed_or_full_domain_does_not_delay_other_domains() -> None:
    many = [message(f"a{n}", domain="a") for n in range(MAX_IN_FLIGHT + 5)]
    others = [message(f"b{n}", domain="b") for n in range(3)]
    closed = [message("c", domain="c")]
    in_flight = InFlight([*many, *others, *closed], [None] * (MAX_IN_FLIGHT + 9), "broker", too_large=too_large)
    in_flight.open("a")
    in_flight.open("b")
    wire = Wire()
    async with running(in_flight, wire):
        assert len(wire.sent) == MAX_IN_FLIGHT + 3
        assert wire.sent[:6] == ["a0", "b0", "a1", "b1", "a2", "b2"]  # in turn
        in_flight.open("c")
        await sent_all(wire)
        assert wire.sent[-1] == "c"


def test_a_known_event_is_dropped_in_a_refill_and_stored_otherwise() -> None:
    for refills, kind in ((True, DuplicateDroppedError), (False, type(None))):
        in_flight = flight_of(message("1", key="k"), message("2", key="k"), refills=refills)
        in_flight.known(0)
        assert in_flight.duplicates == {0}
        assert in_flight.done is refills
        in_flight.known(1)
        assert type(in_flight.errors[0]) is kind
        assert isinstance(in_flight.errors[1], EventHeldBackError) is refills


def test_the_first_result_of_an_event_counts() -> None:
    in_flight = flight_of(message("1"), message("2"), message("3"))
    in_flight.settle(0, None)
    in_flight.settle(0, AWAY)
    in_flight.settle_all([0, 1], AWAY)
    in_flight.give_up(PublisherUnavailableError("broker", "later"))
    assert in_flight.errors[:2] == [None, AWAY]
    for unknown in (-1, 3, 99):
        in_flight.settle(unknown, None)
    assert in_flight.done


def test_a_settled_batch_releases_or_holds_back_the_successors_of_its_events() -> None:
    for error in (None, AWAY):
        in_flight = flight_of(*(message(f"{n}", key="k") for n in range(3)))
        in_flight.settle_all([0, 1], error)
        assert in_flight.next_batch("shop", 10_000) == ([2] if error is None else [])
        assert in_flight.done is (error is not None)


def test_the_events_of_a_batch_are_limited_in_number_and_bytes() -> None:
    in_flight = flight_of(*(message(f"{n}") for n in range(BATCH + 7)))
    assert in_flight.next_batch("shop", 10_000) == list(range(BATCH))
    heavy = flight_of(*(message(f"{n}", size=MAX_BYTES_IN_FLIGHT // 4) for n in range(9)))
    assert heavy.next_batch("shop", MAX_BYTES_IN_FLIGHT) == [0, 1, 2, 3]
    other = flight_of(message("1", domain="a", size=MAX_BYTES_IN_FLIGHT // 2), message("2", domain="b", size=9))
    assert [other.next_batch(domain, MAX_BYTES_IN_FLIGHT) for domain in ("a", "b")] == [[0], [1]]


def test_a_message_waits_for_its_predecessor_in_another_domain() -> None:
    in_flight = flight_of(
        message("1", domain="a", key="k"), message("2", domain="b", key="k"), message("3", domain="a", key="k")
    )
    assert [in_flight.next_batch(domain, 10_000) for domain in ("a", "b")] == [[0], []]
    in_flight.settle(0, None)
    assert [in_flight.next_batch(domain, 10_000) for domain in ("a", "b")] == [[], [1]]


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=8), st.data())
async def test_events_are_sent_once_and_in_key_order_for_any_order_of_results(
    keys: list[str | None], data: st.DataObject
) -> None:
    in_flight = flight_of(*(message(f"{n}", key=key) for n, key in enumerate(keys)))
    wire, landed = Wire(), set[str]()
    async with running(in_flight, wire):
        while not in_flight.done:
            open_ones = [each for each in wire.sent if each not in landed]
            assert len({keys[int(each)] for each in open_ones if keys[int(each)]}) == sum(
                keys[int(each)] is not None for each in open_ones
            )
            chosen = data.draw(st.sampled_from(open_ones))
            landed.add(chosen)
            in_flight.settle(int(chosen), None)
            await settle()
    assert sorted(wire.sent, key=int) == [f"{n}" for n in range(len(keys))]
    for key in "ab":
        mine = [int(each) for each in wire.sent if keys[int(each)] == key]
        assert mine == sorted(mine)


async def batched(in_flight: InFlight, answer: bytes | None, *, count: int = 20) -> Wire:
    """Send messages in one batch, to which the broker gives an answer."""
    wire = Wire()
    batches = AtomicBatches(in_flight, wire, "inbox", "broker", "events")  # type: ignore[arg-type]
    running = asyncio.create_task(batches.run("shop"))
    await sent_all(wire)
    assert len(wire.sent) == count
    assert wire.replies == [*[""] * (count - 1), "inbox.b0"]
    in_flight.answer("b0", answer)
    async with asyncio.timeout(5):
        await running
    return wire


async def test_an_answer_to_something_else_settles_no_event_of_the_batch() -> None:
    in_flight = flight_of(*(message(f"{n}") for n in range(20)))
    await batched(in_flight, b'{"stream": "s", "seq": 20, "batch": "another", "count": 3}')
    assert {type(each) for each in in_flight.errors} == {PublisherUnavailableError}


async def test_an_unanswered_batch_leaves_its_events_to_be_sent_one_by_one() -> None:
    in_flight = flight_of(*(message(f"{n}") for n in range(20)))
    await batched(in_flight, None)
    assert in_flight.next_batch("shop", 10_000) == list(range(20))


@pytest.mark.parametrize(
    ("said", "stored"),
    [({}, True), ({"count": SMALLEST - 1}, False), ({"count": None}, False), ({"batch": "another"}, False)],
)
async def test_a_batch_is_stored_if_the_answer_names_it_and_its_full_size(said: dict[str, Any], stored: bool) -> None:
    messages, wire = [message(f"{n}") for n in range(SMALLEST)], Wire()
    in_flight = InFlight(messages, [None] * SMALLEST, "broker", too_large=too_large)
    batches = AtomicBatches(in_flight, wire, "inbox", "broker", "events")  # type: ignore[arg-type]
    task = asyncio.create_task(batches.run("shop"))
    await sent_all(wire)
    answer = {"stream": "s", "seq": 1, "batch": wire.headers["Nats-Batch-Id"], "count": SMALLEST}
    in_flight.answer(wire.replies[-1].rpartition(".")[2], json.dumps(answer | said).encode())
    async with asyncio.timeout(5):
        await task
    assert [error is None for error in in_flight.errors] == [stored] * SMALLEST


async def test_events_of_a_batch_without_a_stream_are_not_sent_again() -> None:
    in_flight = flight_of(*(message(f"{n}") for n in range(20)))
    await batched(in_flight, b"")
    assert {type(each) for each in in_flight.errors} == {StreamUnavailableError}


@pytest.mark.parametrize(("code", "is_unable"), [(10174, True), (10199, True), (10201, False), (10077, False)])
async def test_only_an_error_that_every_batch_would_get_means_that_a_stream_takes_no_batches(
    code: int, is_unable: bool
) -> None:
    in_flight, wire = flight_of(*(message(f"{n}") for n in range(20))), Wire()
    batches = AtomicBatches(in_flight, wire, "inbox", "broker", "events")  # type: ignore[arg-type]
    task = asyncio.create_task(batches.run("shop"))
    await sent_all(wire)
    in_flight.answer("b0", b'{"error": {"code": 400, "err_code": %d, "description": "no"}}' % code)
    async with asyncio.timeout(5):
        await task
    assert batches.unable == ({"shop"} if is_unable else set())
    assert len(wire.sent) == 20
    assert not in_flight.done


async def test_a_batch_that_the_client_did_not_send_completely_is_not_awaited() -> None:
    class Refusing(Wire):
        async def publish(self, subject: str, payload: bytes, reply: str = "", headers: Any = None) -> None:
            if headers["ce-id"] == "5":
                raise nats.errors.MaxPayloadError
            await super().publish(subject, payload, reply, headers)

    in_flight, wire = flight_of(*(message(f"{n}") for n in range(20))), Refusing()
    batches = AtomicBatches(in_flight, wire, "inbox", "broker", "events")  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        await batches.run("shop")
    assert len(wire.sent) == 5
    assert in_flight.next_batch("shop", 10_000) == [n for n in range(20) if n != 5]


async def test_a_batch_with_a_denied_subject_is_not_awaited_and_other_batches_are() -> None:
    denied = OutgoingMessage(message("denied").event, "shop", "events.shop.y.0", {"ce-id": "denied"})
    shop = [message(f"{n}") for n in range(20)]
    in_flight, wire = flight_of(*shop, denied, *(message(f"bank {n}", domain="bank") for n in range(20))), Wire()
    batches = AtomicBatches(in_flight, wire, "inbox", "broker", "events")  # type: ignore[arg-type]
    running = [asyncio.create_task(batches.run(domain)) for domain in ("shop", "bank")]
    await sent_all(wire)
    assert len(wire.sent) == 41
    in_flight.deny("events.shop.y.0", lambda _: AWAY)
    async with asyncio.timeout(5):
        await running[0]
    await settle()
    assert not running[1].done()
    assert in_flight.next_batch("shop", 10_000) == list(range(20))
    in_flight.give_up(AWAY)
    await running[1]
