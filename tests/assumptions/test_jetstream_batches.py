"""Assumptions of atomic batches about nats-server 2.12 and later (ADR-50)."""

import asyncio
import json
import uuid
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from mediator.nats import NatsServer
from tests.assumptions.conftest import new_stream
from tests.assumptions.stream import RawStream

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")


@pytest.fixture
async def stream(client: Client) -> RawStream:
    return await new_stream(client, allow_atomic=True)


async def batch(
    stream: RawStream, *places: int, commit: bool = True, ids: tuple[str, ...] = (), last: dict[str, str] | None = None
) -> dict[str, Any]:
    """Send a message for each place, and return the answer to the last message, which commits the batch."""
    identity = uuid.uuid4().hex
    for index, number in enumerate(places):
        headers = {"Nats-Batch-Id": identity, "Nats-Batch-Sequence": f"{number}"}
        headers |= {"Nats-Msg-Id": ids[index]} if ids else {}
        if index + 1 < len(places):
            await stream.client.publish(f"{stream.name}.a", b"", headers=headers)
    headers |= {"Nats-Batch-Commit": "1"} if commit else {}
    answer: dict[str, Any] = json.loads(
        (await stream.client.request(f"{stream.name}.a", b"", timeout=10, headers=headers | (last or {}))).data or b"{}"
    )
    return answer


async def messages(stream: RawStream) -> int:
    count: int = (await stream.state())["messages"]
    return count


async def test_a_batch_is_acknowledged_once_with_its_id_and_count(stream: RawStream):
    """`AtomicBatches._settle` compares id and count, and treats any other answer as an outage."""
    answer = await batch(stream, 1, 2, 3)
    assert (answer["count"], answer["seq"]) == (3, 3)
    assert len(answer["batch"]) == 32
    assert await messages(stream) == 3


async def test_a_gap_in_a_batch_stores_nothing_and_is_answered_with_10176(stream: RawStream):
    """The events of a batch that was not sent completely are sent again one by one."""
    assert (await batch(stream, 1, 3))["error"]["err_code"] == 10176
    assert await messages(stream) == 0


async def test_a_batch_without_its_beginning_stores_nothing(stream: RawStream):
    """This happens when a connection is lost in the middle of a batch."""
    assert (await batch(stream, 5))["error"]["err_code"] == 10176
    assert await messages(stream) == 0


async def test_a_batch_without_a_commit_stores_nothing(stream: RawStream):
    """`AtomicBatches._send` may stop in the middle; the server then discards the incomplete batch."""
    assert await batch(stream, 1, 2, commit=False) == {}
    assert await messages(stream) == 0


async def test_a_batch_of_a_thousand_is_stored_and_one_more_is_too_many(stream: RawStream):
    """`in_flight.BATCH` is 1,000. After a refusal with 10199 the publisher sends no more batches to the stream."""
    assert (await batch(stream, *range(1, 1001)))["count"] == 1000
    assert (await batch(stream, *range(1, 1002)))["error"]["err_code"] == 10199
    assert await messages(stream) == 1000


async def test_a_stream_that_does_not_allow_batches_answers_with_10174(client: Client):
    """After a refusal with 10174 the publisher sends the events of the stream one by one."""
    stream = await new_stream(client)
    assert (await batch(stream, 1, 2))["error"]["err_code"] == 10174
    assert await messages(stream) == 0


async def test_a_stored_id_makes_the_server_refuse_the_whole_batch(stream: RawStream):
    """The events of a refused batch are sent one by one; the answers show which events the broker has."""
    await stream.send(Nats_Msg_Id="x")
    assert (await batch(stream, 1, 2, ids=("y", "x")))["error"]["err_code"] == 10201
    assert await messages(stream) == 1


async def test_a_repeated_id_makes_the_server_refuse_the_whole_batch(stream: RawStream):
    """The events are then sent one by one, and the second event is acknowledged as a duplicate."""
    assert (await batch(stream, 1, 2, ids=("x", "x")))["error"]["err_code"] == 10201
    assert await messages(stream) == 0


async def test_ids_of_a_batch_are_duplicates_for_single_messages(stream: RawStream):
    """A relay that missed the acknowledgement of a batch may repeat its events in a batch or one by one."""
    await batch(stream, 1, 2, ids=("x", "y"))
    assert (await stream.send(Nats_Msg_Id="y"))["duplicate"]


async def test_a_batch_is_complete_or_absent_after_the_server_was_killed(server: NatsServer):
    """A crash of the broker in the middle of a batch leaves no event of the batch."""
    async with await nats.connect(server.url) as client:
        stream = await new_stream(client, allow_atomic=True)
        await batch(stream, 1, 2)
        await batch(stream, 1, 2, 3, commit=False)
    await server.kill()
    await server.start()
    async with await nats.connect(server.url) as client:
        assert await messages(RawStream(client, stream.name)) == 2


async def test_a_publisher_to_a_stream_that_allows_batches_can_delete_the_stream(stream: RawStream):
    """Therefore `StreamSettings(atomic_batches=False)` exists. If this test fails, the server has been fixed."""
    headers = {"Nats-Batch-Id": uuid.uuid4().hex, "Nats-Batch-Sequence": "1"}
    await stream.client.publish(f"{stream.name}.a", b"", f"$JS.API.STREAM.DELETE.{stream.name}", headers)
    async with asyncio.timeout(10):
        while "error" not in await stream.api(f"STREAM.INFO.{stream.name}"):
            await asyncio.sleep(0.01)
