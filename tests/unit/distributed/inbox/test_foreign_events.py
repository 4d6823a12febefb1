"""Events of foreign producers: any event is handled or parked completely, and the next event is handled."""

import asyncio
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mediator.distributed.inbox import ParkedReplay
from mediator.distributed.parking import ParkedFilter
from tests.unit.distributed.inbox.application import TYPE, Application, failing

CE = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "legacy", "ce-type": f"{TYPE}.v1"}
GOOD = b'{"number": 7}'


async def consumed(*messages: tuple[dict[str, str], bytes], **options: Any) -> Application:
    """Return an application that has consumed the given messages and a valid message after them."""
    application = Application(options)
    for headers, data in messages:
        application.broker.store_message(TYPE, headers, data)
    application.publish(99)
    application.now += 60.0
    async with application.running():
        await application.settled(len(messages) + 1)
    assert 99 in application.effects
    return application


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        ({}, b"no event at all"),
        ({}, b""),
        ({**CE, "ce-specversion": "0.3"}, GOOD),
        ({name: value for name, value in CE.items() if name != "ce-source"}, GOOD),
        ({**CE, "ce-id": "\ufffd"}, GOOD),
        ({**CE, "ce-id": "%FF"}, GOOD),
        ({**CE, "ce-time": "yesterday"}, GOOD),
        (CE, b""),
        (CE, b"\xff\xfe"),
        (CE, b"[" * 100_000),
        (CE, b'{"number": ' + b"[" * 100_000),
        (CE, b'{"number": "seven"}'),
        (CE, b'{"number": 1e999}'),
        ({**CE, "ce-datacontenttype": "application/x" + "y" * 1000}, b"<order/>"),
        ({"content-type": "application/cloudevents+json"}, b"[" * 100_000),
        ({"content-type": "application/cloudevents+json"}, json.dumps({"specversion": "1.0", "id": 3}).encode()),
        ({"content-type": "application/cloudevents+avro"}, b"\x00"),
        ({f"x-{number}": "y" * 1000 for number in range(50)}, b"huge headers"),
        ({"\x1b[2J": "\x00"}, b"\x00"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_an_unreadable_message_is_parked_completely_and_at_once(headers: dict[str, str], data: bytes):
    application = await consumed((headers, data))
    (parked,) = application.parking.events
    assert (parked.reason, parked.headers, parked.data) == ("undecodable", headers, data)
    assert parked.error.startswith("EventNotDecodableError: ")
    assert len(parked.error) <= 4096
    assert application.effects == [99]


@pytest.mark.parametrize(
    ("changes", "event_id"),
    [
        ({}, "1"),
        ({"ce-id": ""}, "memory:1@"),
        ({"ce-id": "no uuid: \u00e4 / %25"}, "no uuid: \u00e4 / %"),
        ({"ce-id": "x" * 10_000}, "x" * 10_000),
        ({"ce-id": "%00"}, "\x00"),
        ({"ce-id": "%1B[2J"}, "\x1b[2J"),
        ({"ce-source": "s" * 10_000}, "1"),
        ({"ce-source": "%00%0A"}, "1"),
        ({"ce-partitionkey": "k" * 10_000}, "1"),
        ({"ce-partitionkey": "%00"}, "1"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_events_with_odd_ids_sources_and_keys_are_handled_once_and_unchanged(
    changes: dict[str, str], event_id: str
):
    application = await consumed(({**CE, **changes}, GOOD), ({**CE, **changes}, GOOD), ordering="key")
    seen = application.database.tables["reservations"]
    assert seen[7] == event_id or (changes.get("ce-id") == "" and seen[7].startswith("memory:"))
    assert application.starts[7] == (2 if changes.get("ce-id") == "" else 1)  # without an id, each is a separate event
    assert application.parked() == []
    for consumer, source, known in application.database.inbox:
        for column in (consumer, source, known):
            assert len(column) <= 255
            assert column.isprintable()


async def test_two_unreadable_messages_are_two_parked_events_and_a_redelivered_one_is_one():
    application = await consumed(({}, b"a"), ({}, b"a"), ({}, b"b"))
    assert [event.data for event in application.parking.events] == [b"a", b"a", b"b"]


async def test_a_message_at_the_same_position_of_a_recreated_stream_is_a_different_message():
    without_id = {name: value for name, value in CE.items() if name != "ce-id"}
    application = await consumed((without_id, GOOD), ({}, b"no event"))
    again = Application({}, database=application.database)
    again.broker.store_message(TYPE, without_id, GOOD)
    again.broker.store_message(TYPE, {}, b"no event")
    async with again.running():
        await again.settled(2)
    assert again.starts[7] == 1
    assert [event.data for event in again.parking.events] == [b"no event", b"no event"]


async def test_events_without_an_id_and_unreadable_messages_are_recognized_by_the_ids_of_earlier_versions():
    without_id = {name: value for name, value in CE.items() if name != "ce-id"}
    application = Application({})
    application.broker.store_message(TYPE, {"x": "y"}, b"no event")
    application.broker.store_message(TYPE, without_id, GOOD)
    application.database.inbox |= {
        ("warehouse", "", f"memory.{TYPE}.0:1:75ca4c1e05679686256c4d494257602c"),
        ("warehouse", "legacy", "memory:2"),
    }
    async with application.running():
        await application.settled(2)
    assert (application.effects, application.parking.events) == ([], ())


async def test_a_record_older_than_the_stored_event_does_not_make_the_event_a_duplicate():
    """A record that is older than the event belongs to another event at this position: the stream was recreated."""
    without_id = {name: value for name, value in CE.items() if name != "ce-id"}
    application, asked = Application({}), list[datetime | None]()

    async def older(*_row: str, since: datetime | None = None) -> bool:
        asked.append(since)
        return since is None

    application.inbox.contains = older  # type: ignore[method-assign]
    application.broker.store_message(TYPE, without_id, GOOD)
    async with application.running():
        await application.settled(1)
    assert asked == [stored_at for _, stored_at, _ in application.broker.held]
    assert application.effects == [7]


async def test_an_empty_key_of_a_foreign_event_counts_as_no_key():
    """A parked event with an empty key does not hold back other events with an empty key."""
    empty = {**CE, "ce-partitionkey": ""}
    broken = {**empty, "ce-id": "2", "ce-time": "tomorrow"}
    application = await consumed((broken, GOOD), (empty, GOOD), ordering="key")
    assert set(application.effects) == {7, 99}
    assert [event.partition_key for event in application.parking.events] == [None]


async def test_an_unreadable_message_does_not_make_a_readable_one_of_the_same_id_a_duplicate():
    broken = {**CE, "ce-time": "tomorrow"}
    application = await consumed((broken, GOOD), (broken, GOOD), (CE, GOOD))
    assert [event.headers for event in application.parking.events] == [broken, broken]
    assert (application.effects, application.starts[7]) == ([7, 99], 1)


@pytest.mark.parametrize(
    ("headers", "shown", "key"),
    [
        ({}, "", None),
        ({**CE, "ce-type": "%FF"}, "", None),
        ({"ce-type": "%1B[2J" + "x" * 500, "ce-partitionkey": "k"}, "\\x1b[2J", "k"),
        ({"ce-type": "t", "ce-partitionkey": "%00"}, "t", "sha256:"),
        ({"ce-type": "t", "ce-partitionkey": "k" * 10_000}, "t", "sha256:"),
        ({**CE, "content-type": "application/cloudevents"}, f"{TYPE}.v1", None),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_the_type_and_key_of_an_unreadable_message_have_the_same_bounds_as_those_of_events(
    headers: dict[str, str], shown: str, key: str | None
):
    (parked,) = (await consumed((headers, b"?"))).parking.events
    assert (parked.type[: len(shown) or None], parked.reason) == (shown, "undecodable")
    assert (parked.partition_key or "")[: len(key or "") or None] == (key or "")
    assert max(len(parked.type), len(parked.partition_key or "")) <= 255
    assert parked.type.isprintable()


async def test_an_event_of_an_unknown_type_is_parked_completely_after_its_grace():
    application = Application({"unknown_type_grace": 100.0})
    headers = {**CE, "ce-type": "shop.order-placed.v2"}
    application.broker.store_message(TYPE, headers, GOOD)
    application.publish(1)
    with capture_logs() as logs:
        async with application.running():
            await application.settled(1)
            assert (application.effects, application.parked()) == ([1], [])
        application.now += 101.0
        async with application.running(application.consuming()):
            await application.settled(2)
    assert application.parked() == [("1", "unknown-type", 0)]
    (parked,) = application.parking.events
    assert (parked.type, parked.headers, parked.data) == ("shop.order-placed.v2", headers, GOOD)
    (waiting,) = (line for line in logs if line["event"] == "delivery failed")
    assert 0 < waiting["retry_in"] <= 1.0
    assert waiting["log_level"] == "warning"
    assert "handles this type and version" in waiting["reason"]


@pytest.mark.parametrize(
    "wire",
    [
        "shop.order-placed",
        "shop.order-placed.v0",
        "shop.other.v1",
        "other.order-placed.v1",
        "com.legacy.Order",
        "x",
        "%00",
    ],
)
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_an_event_whose_type_is_no_version_of_the_subscribed_type_is_parked_without_a_grace(
    wire: str, ordering: str
):
    application = await consumed(({**CE, "ce-type": wire}, GOOD), ordering=ordering, unknown_type_grace=300.0)
    assert application.parked() == [("1", "unknown-type", 0)]


async def test_a_type_that_is_too_long_or_cannot_be_printed_is_cut_and_escaped():
    application = await consumed(({**CE, "ce-type": "%1B[2J" + "x" * 500}, GOOD), unknown_type_grace=0.0)
    (parked,) = application.parking.events
    assert parked.type.startswith("\\x1b[2Jxxx")
    assert len(parked.type) <= 255


async def test_terminal_escape_sequences_stay_out_of_the_log():
    with capture_logs() as logs:
        await consumed(
            ({**CE, "ce-id": "%1B[2J", "ce-type": "%1B[31m"}, GOOD),
            ({**CE, "ce-id": "%1B[3J"}, b"\x1b[31m"),
            ({"\x1b[31m": "\x1b[31m"}, b"\x1b[31m"),
            unknown_type_grace=0.0,
        )
        application = Application({"retry_delays": ()})
        application.acts[1] = failing(ValueError("\x1b[2J is no order"))
        application.publish(1)
        async with application.running():
            await application.settled(1)
        replay = ParkedReplay(application.parking, [application.consumer])
        assert [result.outcome async for result in replay.run(ParkedFilter())] == ["failed"]
    assert {"event parked", "replay failed"} <= {line["event"] for line in logs}
    for line in logs:
        for value in line.values():
            assert "\x1b" not in str(value), line


async def test_an_unreadable_event_is_replayed_after_it_was_edited():
    application = await consumed(({}, b"no event at all"))
    (parked,) = application.parking.events
    await application.parking.edit(parked.number, headers=CE, data=GOOD)
    replay = ParkedReplay(application.parking, [application.consumer])
    assert [result.outcome async for result in replay.run(ParkedFilter())] == ["replayed"]
    assert sorted(application.effects) == [7, 99]
    assert application.parked() == []


texts = st.text(max_size=300)


@settings(max_examples=60)
@given(
    headers=st.dictionaries(
        st.sampled_from([*CE, "ce-time", "ce-partitionkey", "content-type", "ce-datacontenttype", "ce-tenant", "x"]),
        texts,
    ),
    data=st.one_of(st.binary(max_size=100), st.just(GOOD)),
    complete=st.booleans(),
    ordering=st.sampled_from(["none", "key"]),
)
def test_any_message_is_handled_or_parked(headers: dict[str, str], data: bytes, complete: bool, ordering: str):
    async def check() -> None:
        application = await consumed(
            ({**(CE if complete else {}), **headers}, data), ordering=ordering, unknown_type_grace=0.0
        )
        assert len(application.parked()) + (7 in application.effects) == 1

    asyncio.run(check())


async def test_a_flood_of_unreadable_events_is_parked_completely_and_logged_in_a_few_lines():
    with capture_logs() as logs:
        application = await consumed(*[({**CE, "ce-id": f"{number}"}, b"?") for number in range(200)])
    assert len(application.parking.events) == 200
    assert len([line for line in logs if line["event"] == "event parked"]) < 100
    assert application.effects == [99]
