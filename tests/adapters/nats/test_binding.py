"""Events as NATS messages: how they are written and read."""

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import EventNotDecodableError, SettingError
from mediator.nats.binding import checked_prefix, from_message, stream_name, subject_of, to_headers

STORED_AT = datetime(2026, 5, 6, tzinfo=UTC)
MINIMAL = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "shop", "ce-type": "shop.order-placed.v1"}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
filled = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
names = st.from_regex(r"[a-z0-9]{1,12}", fullmatch=True).filter(
    lambda name: name not in {"specversion", "id", "source", "type", "time", "datacontenttype", "partitionkey", "data"}
)
events = st.builds(
    CloudEvent,
    id=filled,
    type=filled,
    time=st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    data=st.binary(max_size=50),
    source=filled,
    datacontenttype=filled,
    partitionkey=st.none() | filled,
    extensions=st.dictionaries(names, text, max_size=4),
)


def read(headers: dict[str, str] | None, data: bytes = b"{}") -> CloudEvent:
    return from_message(headers, data, fallback_id="events-shop:7", stored_at=STORED_AT)


@pytest.mark.thorough("waits in real time, or does much work")
@given(events)
def test_an_event_with_an_empty_key_is_not_written(event: CloudEvent) -> None:
    with pytest.raises(ValueError, match="partition key is empty"):
        to_headers(replace(event, partitionkey=""))


@given(events)
def test_an_event_is_decoded_as_it_was_encoded(event: CloudEvent) -> None:
    headers = to_headers(event)
    assert read(headers, event.data) == event
    assert all(value.isascii() and value.isprintable() and " " not in value for value in headers.values())


@given(events)
def test_header_names_are_read_in_any_case(event: CloudEvent) -> None:
    headers = {name.upper(): value for name, value in to_headers(event).items()}
    assert read(headers, event.data) == event


def test_the_message_id_is_the_event_id_and_trace_context_is_also_a_plain_header() -> None:
    event = CloudEvent("a b", "shop.x.v1", STORED_AT, b"", "s", extensions={"traceparent": "00-1-2-01"})
    headers = to_headers(event)
    assert headers["Nats-Msg-Id"] == headers["ce-id"] == "a%20b"
    assert headers["traceparent"] == headers["ce-traceparent"] == "00-1-2-01"


def test_a_plain_traceparent_is_read_as_an_extension() -> None:
    assert read(MINIMAL | {"Traceparent": "00-1-2-01"}).extensions == {"traceparent": "00-1-2-01"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [("%c3%a4", "ä"), ("%C3%A4", "ä"), ('"a \\"b\\" c"', 'a "b" c'), ("%41bc", "Abc"), ("ä", "ä"), ('"a%20b"', "a b")],
)
def test_leniently_written_values_are_understood(written: str, meant: str) -> None:
    assert read(MINIMAL | {"ce-source": written}).source == meant


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ce-source": "%ff"}, "utf-8"),
        ({"ce-source": "\ufffd"}, "UTF-8"),
        ({"ce-specversion": "0.3"}, "specversion"),
        ({"ce-type": ""}, "type"),
        ({"ce-time": "yesterday"}, "isoformat"),
        ({"ce-time": "2026-01-01T00:00:00"}, "time zone"),
    ],
)
def test_a_broken_attribute_is_reported(change: dict[str, str], reason: str) -> None:
    with pytest.raises(EventNotDecodableError, match=reason):
        read(MINIMAL | change)


@pytest.mark.parametrize("headers", [None, {}, {"traceparent": "00-1-2-01"}])
def test_a_message_without_attributes_is_not_an_event(headers: dict[str, str] | None) -> None:
    with pytest.raises(EventNotDecodableError, match="specversion"):
        read(headers)


def test_a_foreign_event_without_id_and_time_gets_its_position_in_the_stream() -> None:
    event = read({name: value for name, value in MINIMAL.items() if name != "ce-id"})
    assert event.id == "events-shop:7"
    assert event.time == STORED_AT


def structured(**members: object) -> CloudEvent:
    body = {"specversion": "1.0", "id": "1", "source": "s", "type": "t.u.v1"} | members
    return read({"content-type": "Application/CloudEvents+JSON; charset=utf-8"}, json.dumps(body).encode())


def test_structured_json_is_read_with_json_data_text_data_and_binary_data() -> None:
    assert json.loads(structured(data={"a": [1, None]}).data) == {"a": [1, None]}
    assert structured(data="hi", datacontenttype="text/plain").data == b"hi"
    assert structured(data="hi").data == b'"hi"'
    assert structured(data_base64="aGk=").data == b"hi"
    assert structured().data == b""


def test_structured_attributes_of_other_types_become_text() -> None:
    event = structured(partitionkey="k", flag=True, number=3, nothing=None, time="2026-01-02T03:04:05z")
    assert event.extensions == {"flag": "true", "number": "3"}
    assert (event.partitionkey, event.time) == ("k", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"data_base64": "?"}', b"[" * 100_000])
def test_broken_structured_bodies_are_reported(body: bytes) -> None:
    with pytest.raises(EventNotDecodableError):
        read({"Content-Type": "application/cloudevents"}, body)


def test_unknown_structured_formats_are_reported() -> None:
    with pytest.raises(EventNotDecodableError, match="batch"):
        read({"Content-Type": "application/cloudevents-batch+json"}, b"[]")


@given(st.dictionaries(text, text, max_size=5), st.binary(max_size=60))
def test_any_message_is_decoded_or_has_a_problem(headers: dict[str, str], data: bytes) -> None:
    for extra in ({}, MINIMAL, {"content-type": "application/cloudevents+json"}):
        with contextlib.suppress(EventNotDecodableError):
            assert read(extra | headers, data).type


@pytest.mark.parametrize(
    "change",
    [
        {"extensions": {"Upper": "x"}},
        {"extensions": {"id": "x"}},
        {"time": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"source": "\ud800"},
    ],
)
def test_an_event_that_cannot_be_encoded_is_refused(event, change) -> None:
    with pytest.raises(ValueError):
        to_headers(event(**change))


def test_times_are_written_in_utc(event) -> None:
    zone = timezone(timedelta(hours=2))
    assert to_headers(event(time=datetime(2026, 1, 1, 2, tzinfo=zone)))["ce-time"] == "2026-01-01T00:00:00+00:00"


def test_subject_and_stream_are_named_after_prefix_context_name_and_partition(event) -> None:
    keyed = event(key="student-1")
    assert subject_of("events", keyed, 16) == f"events.shop.order-placed.{keyed.bucket % 16}"
    assert stream_name("events", "shop") == "events-shop"


@pytest.mark.parametrize("prefix", ["", "a.b", "A", "a b", "*", "a" * 65, "a\n"])
def test_a_prefix_is_one_plain_token(prefix: str) -> None:
    with pytest.raises(SettingError):
        checked_prefix(prefix)
