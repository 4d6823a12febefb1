"""Assumptions of publishing about nats-server: deduplication, acknowledgements, refusals."""

import asyncio
import json

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from mediator.nats import NatsServer
from tests.assumptions.conftest import new_stream
from tests.assumptions.stream import SECOND, RawStream

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")


async def test_a_known_id_is_acknowledged_as_a_duplicate_with_the_sequence_of_the_first_message(stream: RawStream):
    """`NatsEventPublisher` treats `duplicate` as success: a relay repeats events whose outcome is unknown."""
    first = await stream.send("1", Nats_Msg_Id="x")
    again = await stream.send("2", Nats_Msg_Id="x")
    assert "duplicate" not in first
    assert (again["seq"], again["duplicate"]) == (first["seq"], True)
    assert (await stream.state())["messages"] == 1


async def test_an_acknowledgement_begins_with_the_stream_and_a_refusal_does_not(stream: RawStream):
    """`NatsEventPublisher._acknowledged` skips parsing if an answer begins like this and contains no `error`."""
    answer = await stream.client.request(f"{stream.name}.a", b"", timeout=10)
    assert answer.data.startswith(b'{"stream":')
    refused = await stream.client.request(
        f"{stream.name}.a", b"", timeout=10, headers={"Nats-Expected-Stream": "other"}
    )
    assert b'"error"' in refused.data


async def test_ids_are_unique_per_stream_across_all_subjects(stream: RawStream):
    """Message ids contain the application and the event id, but no subject, so they must be unique per stream."""
    await stream.send(subject="a", Nats_Msg_Id="x")
    assert (await stream.send(subject="b", Nats_Msg_Id="x"))["duplicate"]


async def test_ids_survive_a_killed_server(server: NatsServer):
    """A relay that repeats events after a crash of the broker stores no event twice (docs/distributed-events.md)."""
    async with await nats.connect(server.url) as client:
        stream = await new_stream(client)
        first = await stream.send(Nats_Msg_Id="x")
    await server.kill()
    await server.start()
    async with await nats.connect(server.url) as client:
        again = await RawStream(client, stream.name).send(Nats_Msg_Id="x")
        assert (again["seq"], again["duplicate"]) == (first["seq"], True)


async def test_acknowledged_messages_survive_a_killed_server(server: NatsServer):
    """A relay moves an event to the archive as soon as it is acknowledged."""
    async with await nats.connect(server.url) as client:
        stream = await new_stream(client)
        for number in range(50):
            await stream.send(f"{number}")
    await server.kill()
    await server.start()
    async with await nats.connect(server.url) as client:
        assert (await RawStream(client, stream.name).state())["last_seq"] == 50


async def test_an_id_is_forgotten_at_the_end_of_the_duplicate_window(client: Client):
    """A repeated publish is safe only within `StreamSettings.duplicate_window`."""
    stream = await new_stream(client, duplicate_window=SECOND // 10)
    await stream.send(Nats_Msg_Id="x")
    async with asyncio.timeout(10):
        while "duplicate" in await stream.send(Nats_Msg_Id="x"):
            await asyncio.sleep(0.02)  # measured by the server's clock
    assert (await stream.state())["messages"] == 2


async def test_a_purge_does_not_make_the_stream_forget_ids(stream: RawStream):
    """Refilling raises `DuplicateDroppedError` for a known id that the stream lost, and sends the event with a mark."""
    await stream.send(Nats_Msg_Id="x")
    await stream.api(f"STREAM.PURGE.{stream.name}")
    assert (await stream.send(Nats_Msg_Id="x"))["duplicate"]
    assert (await stream.state())["messages"] == 0


async def test_a_purge_keeps_the_last_sequence(stream: RawStream):
    """`mediator.nats.stream_contents` and refilling rely on sequences that never decrease in one stream."""
    await stream.send()
    await stream.send()
    await stream.api(f"STREAM.PURGE.{stream.name}")
    state = await stream.state()
    assert (state["last_seq"], state["first_seq"]) == (2, 3)
    assert (await stream.send())["seq"] == 3


async def test_sequences_follow_the_order_of_sending_on_one_connection(stream: RawStream):
    """A relay sends the oldest event first with many in flight (`InFlight`), and relies on this order in the stream."""
    for number in range(200):
        await stream.client.publish(f"{stream.name}.a", f"{number}".encode())
    async with asyncio.timeout(10):
        while (await stream.state())["messages"] < 200:
            await asyncio.sleep(0)
    stored = [await stream.client.jetstream().get_msg(stream.name, seq, direct=True) for seq in range(1, 201)]
    assert [int(message.data or b"") for message in stored] == list(range(200))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        pytest.param({"Nats-Expected-Stream": "other"}, 10060, id="another stream is expected"),
        pytest.param({"Nats-Expected-Last-Sequence": "99"}, 10071, id="another sequence is expected"),
        pytest.param({"Nats-TTL": "1h"}, 10166, id="a time to live is not allowed"),
    ],
)
async def test_each_permanent_refusal_has_its_own_error_code(stream: RawStream, headers: dict[str, str], code: int):
    """Events refused with a code in `_REFUSALS` are parked; every other error is an outage and is retried."""
    assert (await stream.send_with(headers))["error"]["err_code"] == code


async def test_a_message_above_the_size_limit_of_the_stream_is_refused_with_10054(client: Client):
    """`_REFUSALS` of the publisher contains this code."""
    stream = await new_stream(client, max_msg_size=10)
    assert (await stream.send("x" * 11))["error"]["err_code"] == 10054


async def test_headers_of_64_kib_are_refused_with_10097_and_one_byte_less_is_stored(stream: RawStream):
    """`_MAX_HEADER_BYTES` in `in_flight` is this limit; headers are measured as the server measures them."""
    frame = len("NATS/1.0\r\n") + len("x: ") + 2 * len("\r\n")
    assert "seq" in await stream.send(x="v" * (65_535 - frame))
    assert (await stream.send(x="v" * (65_536 - frame)))["error"]["err_code"] == 10097


async def test_a_full_stream_refuses_new_messages_and_keeps_its_messages(client: Client):
    """With `discard: new` no old message is dropped. The relay treats 10077 as an outage and waits."""
    stream = await new_stream(client, discard="new", max_msgs=1)
    await stream.send("first")
    assert (await stream.send("second"))["error"]["err_code"] == 10077
    assert (await stream.state())["first_seq"] == 1


async def test_a_publish_to_a_subject_without_a_stream_is_answered_with_503_and_no_data(client: Client):
    """`NatsEventPublisher._failed` treats an empty answer as a missing stream, which is an outage."""
    inbox = client.new_inbox()
    answers: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue()

    async def arrived(message) -> None:
        answers.put_nowait((message.data, (message.headers or {}).get("Status", "")))

    await client.subscribe(inbox, cb=arrived)
    await client.publish("nowhere.at.all", b"x", inbox)
    async with asyncio.timeout(10):
        assert await answers.get() == (b"", "503")


async def test_a_message_is_stored_although_its_acknowledgement_came_too_late(server: NatsServer):
    """After a timeout of `publish` the outcome is unknown, so the relay repeats the event with the same id."""
    async with await nats.connect(server.url) as client:
        stream = await new_stream(client)
        server.suspend()
        with pytest.raises(nats.errors.TimeoutError):
            await client.request(f"{stream.name}.a", b"", timeout=0.1, headers={"Nats-Msg-Id": "x"})
        server.resume()
        assert (await stream.send(Nats_Msg_Id="x"))["duplicate"]


async def test_creating_a_stream_that_exists_with_other_settings_is_refused_with_10058(stream: RawStream):
    """Two processes may create a stream; the process that is refused compares its settings with the existing stream."""
    config = {"name": stream.name, "subjects": [f"{stream.name}.>"], "storage": "file", "max_msgs": 7}
    assert (await stream.api(f"STREAM.CREATE.{stream.name}", config))["error"]["err_code"] == 10058


async def test_a_stream_keeps_unknown_metadata(client: Client):
    """The stream's metadata contains the number of partitions. The server adds its own entries."""
    stream = await new_stream(client, metadata={"mediator.partitions": "16"})
    config = (await stream.api(f"STREAM.INFO.{stream.name}"))["config"]
    assert config["metadata"]["mediator.partitions"] == "16"


async def test_a_setting_that_the_server_does_not_know_is_refused(client: Client):
    """`create_stream` sends `allow_atomic` only to servers of API level 2, because older servers refuse the stream."""
    body = {"name": "unknown", "subjects": ["unknown.>"], "no_such_setting": True}
    answer = json.loads(
        (await client.request("$JS.API.STREAM.CREATE.unknown", json.dumps(body).encode(), timeout=10)).data
    )
    assert answer["error"]["err_code"] == 10025


async def test_the_server_reports_its_api_level(client: Client):
    """`_stores_batches` of `mediator.nats.topology.streams` reads the level."""
    answer = json.loads((await client.request("$JS.API.INFO", b"", timeout=10)).data)
    assert answer["api"]["level"] >= 2
