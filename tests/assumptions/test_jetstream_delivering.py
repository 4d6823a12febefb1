"""Assumptions of consuming about nats-server: pull requests, acknowledgements, redelivery, order."""

import asyncio
import json

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from mediator.nats import NatsServer
from tests.assumptions.conftest import new_stream
from tests.assumptions.stream import SECOND, Pulls, RawStream, place, status

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")


async def settle(client: Client, message: Msg, body: bytes) -> None:
    await client.publish(message.reply, body)


async def filled(stream: RawStream, count: int = 3, **config: object) -> Pulls:
    """Return a consumer of a stream with some messages. The data of each message is its sequence."""
    for number in range(1, count + 1):
        await stream.send(f"{number}")
    await stream.consumer(**config)
    return await stream.pulls()


async def test_the_reply_subject_contains_deliveries_sequence_time_and_pending_count(stream: RawStream):
    """`NatsDelivery` reads attempt, sequence, storage time and `remaining` from the tokens of the reply subject."""
    message = await (await filled(stream)).take()
    tokens = message.reply.split(".")
    assert len(tokens) == 9
    assert tokens[:4] == ["$JS", "ACK", stream.name, "c"]
    assert (tokens[4:7], tokens[8]) == (["1", "1", "1"], "2")
    assert len(tokens[7]) == 19  # nanoseconds since 1970


async def test_an_acknowledged_message_is_not_redelivered(stream: RawStream):
    """`NatsDelivery.ack` relies on it."""
    pulls = await filled(stream, 2, ack_wait=SECOND // 5)
    await settle(stream.client, await pulls.take(), b"+ACK")
    assert [(await pulls.take()).data for _ in range(2)] == [b"2", b"2"]


async def test_a_second_acknowledgement_of_a_message_changes_nothing(stream: RawStream):
    """The process that handled an event and the process that found it in the inbox may both acknowledge it."""
    pulls = await filled(stream)
    message = await pulls.take()
    for body in (b"+ACK", b"+ACK", b"-NAK", b"+TERM", b"+WPI"):
        await settle(stream.client, message, body)
    assert (await pulls.take()).data == b"2"
    info = await stream.consumer_info()
    assert (info["ack_floor"]["stream_seq"], info["num_ack_pending"], info["num_redelivered"]) == (1, 1, 0)


async def test_a_late_acknowledgement_of_an_earlier_delivery_counts_for_the_message(stream: RawStream):
    """A handler slower than `ack_wait` acknowledges its earlier delivery, and that ends the redeliveries."""
    pulls = await filled(stream, 1, ack_wait=SECOND // 5)
    first = await pulls.take()
    again = await pulls.take()
    assert (place(first)[0], place(again)[0]) == (1, 2)
    await settle(stream.client, first, b"+ACK")
    async with asyncio.timeout(10):
        while (await stream.consumer_info())["num_ack_pending"]:
            await asyncio.sleep(0.01)


async def test_an_unacknowledged_message_is_redelivered_with_a_higher_count(stream: RawStream):
    """`Delivery.attempt` is this count. The consumer's own count of starts does not rely on it."""
    pulls = await filled(stream, 1, ack_wait=SECOND // 5)
    assert [place(await pulls.take())[0] for _ in range(3)] == [1, 2, 3]


async def test_in_progress_restarts_the_ack_wait(stream: RawStream):
    """`NatsDelivery.in_progress` prevents the redelivery of an event with a long handler."""
    pulls = await filled(stream, 2, ack_wait=3 * SECOND)
    first, _ = await pulls.take(), await pulls.take()
    await asyncio.sleep(0.5)  # of the ack wait of three seconds of both messages
    await settle(stream.client, first, b"+WPI")
    assert [(await pulls.take()).data for _ in range(2)] == [b"2", b"1"]


async def test_a_message_naked_without_a_delay_is_redelivered_and_others_may_overtake_it(stream: RawStream):
    """A puller naks messages for which it has no room. Without `max_ack_pending=1` that changes the order."""
    pulls = await filled(stream)
    await settle(stream.client, await pulls.take(), b"-NAK")
    received = [await pulls.take() for _ in range(3)]
    assert sorted((message.data, place(message)[0]) for message in received) == [(b"1", 2), (b"2", 1), (b"3", 1)]


@pytest.mark.parametrize("delay", [0.0, 0.2])
async def test_with_max_ack_pending_one_no_message_overtakes_a_naked_message(stream: RawStream, delay: float):
    """With `ordering="key"` each partition has a consumer with `max_ack_pending=1`, so retries keep the order."""
    pulls = await filled(stream, max_ack_pending=1)
    body = b"-NAK " + json.dumps({"delay": round(delay * SECOND)}).encode() if delay else b"-NAK"
    await settle(stream.client, await pulls.take(), body)
    received = []
    for _ in range(3):
        message = await pulls.take()
        received.append((message.data, place(message)[0]))
        await settle(stream.client, message, b"+ACK")
    assert received == [(b"1", 2), (b"2", 1), (b"3", 1)]


async def test_with_max_ack_pending_one_two_readers_share_one_message(stream: RawStream):
    """Therefore the processes of an ordered group need no leader."""
    pulls = await filled(stream, max_ack_pending=1)
    others = await stream.pulls()
    first = await pulls.take()
    await others.ask(batch=2)
    assert await others.is_quiet()
    await settle(stream.client, first, b"+ACK")
    assert (await others.next()).data == b"2"
    assert await others.is_quiet()


async def test_max_ack_pending_bounds_a_larger_request(stream: RawStream):
    """`max_ack_pending` applies to all processes of a group together."""
    pulls = await filled(stream, 3, max_ack_pending=2)
    await pulls.ask(batch=3)
    assert [(await pulls.next()).data for _ in range(2)] == [b"1", b"2"]
    assert await pulls.is_quiet()


async def test_a_terminated_message_is_not_redelivered(stream: RawStream):
    """`NatsDelivery.term` sends `+TERM` with a reason after it."""
    pulls = await filled(stream, 2, ack_wait=SECOND // 5)
    await settle(stream.client, await pulls.take(), b"+TERM no such type")
    assert [(await pulls.take()).data for _ in range(2)] == [b"2", b"2"]


async def test_an_expired_request_is_answered_with_408_and_the_unserved_count(stream: RawStream):
    """`Pull.expired` subtracts `Nats-Pending-Messages` from the number of requested messages."""
    await stream.consumer()
    pulls = await stream.pulls()
    await pulls.ask(batch=7, expires=0.1)
    message = await pulls.next()
    assert status(message)[0] == "408"
    assert (message.headers or {})["Nats-Pending-Messages"] == "7"
    assert not message.reply


async def test_a_waiting_request_receives_heartbeats_with_status_100(stream: RawStream):
    """`Pull.is_silent` treats a request without heartbeats as lost together with its server."""
    await stream.consumer()
    pulls = await stream.pulls()
    await pulls.ask(expires=5, idle_heartbeat=SECOND // 5)
    assert status(await pulls.next()) == ("100", "Idle Heartbeat")


async def test_a_heartbeat_that_is_too_long_for_its_request_is_refused_with_400(stream: RawStream):
    """`Puller._hear_status` checks the consumer again after a status other than 100 and 408."""
    await stream.consumer()
    pulls = await stream.pulls()
    await pulls.ask(expires=1, idle_heartbeat=SECOND)
    assert status(await pulls.next())[0] == "400"


async def test_deleting_a_consumer_ends_its_requests_with_409(stream: RawStream):
    """The puller then creates the consumer again."""
    await stream.consumer()
    pulls = await stream.pulls()
    await pulls.ask()
    assert await pulls.is_quiet()
    await stream.api(f"CONSUMER.DELETE.{stream.name}.c")
    assert status(await pulls.next()) == ("409", "Consumer Deleted")


async def test_too_many_requests_are_refused_with_409(stream: RawStream):
    """Therefore the puller keeps few requests outstanding."""
    await stream.consumer(max_waiting=1)
    pulls = await stream.pulls()
    await pulls.ask()
    await pulls.ask()
    assert status(await pulls.next()) == ("409", "Exceeded MaxWaiting")


async def test_a_request_to_a_consumer_that_is_missing_is_answered_with_503(stream: RawStream):
    """The puller notices the missing consumer at once and needs no timeout."""
    pulls = await stream.pulls()
    await pulls.ask()
    assert status(await pulls.next())[0] == "503"


async def test_a_consumer_keeps_its_position_when_subjects_are_added(stream: RawStream):
    """`ensure_consumer` adds the subjects of new event types. The consumer does not deliver their older messages."""
    await stream.send("1", "b")
    await stream.send("2", "a")
    await stream.consumer(filter_subjects=[f"{stream.name}.a"])
    pulls = await stream.pulls()
    await settle(stream.client, await pulls.take(), b"+ACK")
    await stream.consumer(filter_subjects=[f"{stream.name}.a", f"{stream.name}.b"])
    await stream.send("3", "b")
    await stream.send("4", "a")
    assert [(await pulls.take()).data for _ in range(2)] == [b"3", b"4"]


async def test_creating_a_consumer_that_exists_with_other_settings_is_refused_with_10148(stream: RawStream):
    """`create_consumer` sends `action: create`, and after this refusal compares the consumer of the other process."""
    await stream.consumer()
    config = {"name": "c", "durable_name": "c", "ack_policy": "explicit", "max_ack_pending": 7}
    body = {"stream_name": stream.name, "config": config, "action": "create"}
    assert (await stream.api(f"CONSUMER.CREATE.{stream.name}.c", body))["error"]["err_code"] == 10148


async def test_acknowledgements_and_delivery_counts_survive_a_restart(server: NatsServer):
    """`Delivery.attempt` continues its count after a regular restart of the broker."""
    async with await nats.connect(server.url) as client:
        stream = await new_stream(client)
        pulls = await filled(stream, 2, ack_wait=SECOND // 5)
        await settle(client, await pulls.take(), b"+ACK")
        assert [place(await pulls.take())[:2] for _ in range(2)] == [(1, 2), (2, 2)]
    await server.restart()
    async with await nats.connect(server.url) as client:
        message = await (await RawStream(client, stream.name).pulls()).take()
        assert place(message)[:2] == (3, 2)


async def test_only_the_acknowledgements_right_before_the_server_is_killed_may_be_lost(server: NatsServer):
    """An acknowledged event may be redelivered; the inbox then recognizes it (`Admission.DUPLICATE`)."""
    async with await nats.connect(server.url) as client:
        stream = await new_stream(client)
        pulls = await filled(stream, 3, ack_wait=30 * SECOND)
        message = await pulls.take()
        await client.request(message.reply, b"+ACK", timeout=10)  # answered: the server has recorded it
    await server.kill()
    await server.start()
    async with await nats.connect(server.url) as client:
        message = await (await RawStream(client, stream.name).pulls()).take()
        assert message.data in {b"1", b"2"}


@pytest.mark.parametrize("new", [True, False])
async def test_a_new_consumer_begins_where_its_policy_says(stream: RawStream, new: bool):
    """`DeliverFrom` sets the policy of a new group."""
    await stream.send("before")
    await stream.consumer(deliver_policy="new" if new else "all")
    await stream.send("after")
    assert (await (await stream.pulls()).take()).data == (b"after" if new else b"before")
