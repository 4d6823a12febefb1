"""Foreign texts are printable and bounded wherever they appear: in log lines, errors, notes, reports and tables."""

import asyncio
import dataclasses
import inspect
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import mediator.errors
from mediator.blocks import add_note
from mediator.cli.doctor.finding import Report, fault
from mediator.cli.rows import as_row, as_table, as_text, next_try
from mediator.distributed.callers import Caller
from mediator.distributed.parking import ParkedEvent
from mediator.distributed.requests import RemoteCall, RemoteReply, RemoteSender, ReplyStatus, RequestResponder
from mediator.errors import (
    MediatorError,
    MisuseError,
    NotAuthorizedError,
    PublisherUnavailableError,
    RemoteError,
    misuse,
    not_found,
)
from mediator.logger import Logger
from mediator.printable import LONGEST_REASON, LONGEST_REPORT, message_of, printable, shown, shown_error, traceback_of
from mediator.testing import InMemoryRequestChannel
from tests.unit.distributed.inbox.application import TYPE, Application
from tests.unit.distributed.requests.test_requests_in_time import Work
from tests.unit.wiring import handles, wire

SIZE = 1_000_000
ODD = [
    "\x1b[2J\x1b[31mred",
    "a\nb\r\n2026-01-01 [error] forged",
    "\u202egnp.exe\u2066",
    "\ud800 alone \udfff",
    "nul \x00 bell \x07 del \x7f c1 \x9b",
    "line\u2028paragraph\u2029next\x85",
    "\ufeff\u200b\u200e\xad",
]
HUGE = ["x" * SIZE, "\x1b" * SIZE, "\U000e0001" * SIZE, "\n" * SIZE, "ab\n" * (SIZE // 3)]
HOSTILE = st.one_of(
    st.sampled_from([*ODD, *HUGE]),
    st.text(),
    st.text(st.sampled_from("a\n\r\x1b\x00\u202e\ud800\u2028 \\"), max_size=300),
    st.builds(lambda odd, times: odd * times, st.sampled_from(ODD), st.integers(1, 3000)),
)


def fits(text: str, longest: int) -> bool:
    """Return whether a text is one printable line of at most `longest` characters."""
    return text.isprintable() and len(text) <= longest


def fits_in_lines(text: str) -> bool:
    return len(text) <= LONGEST_REPORT and text.replace("\n", "").isprintable()


def foreign_texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in foreign_texts_in(part)]
    if isinstance(value, list | tuple | set | frozenset):
        return [text for part in value for text in foreign_texts_in(part)]
    return []


def check_lines(logs: Any) -> None:
    for line in logs:
        for name, value in line.items():
            if name == "stack" and value is not None:
                assert fits_in_lines(value)
            else:
                assert all(fits(text, LONGEST_REASON) for text in foreign_texts_in(value)), name


@given(HOSTILE, st.integers(10, 3000))
def test_a_text_is_shown_as_one_bounded_printable_line_and_unchanged_if_possible(text: str, longest: int):
    found = shown(text, longest)
    assert fits(found, longest)
    assert shown(found, longest) == found
    if fits(text, longest):
        assert found == text
    elif len(text) <= longest // 10:
        assert found == "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


@given(HOSTILE, st.integers(100, 3000))
def test_a_shortened_multiline_text_keeps_its_lines_and_both_ends(text: str, longest: int):
    found = printable(text, longest)
    assert len(found) <= longest
    assert found.replace("\n", "").isprintable()
    if text.isprintable() and len(text) > longest:
        assert (found[:30], found[-30:]) == (text[:30], text[-30:])
    assert printable(text[:50]).count("\n") == text[:50].count("\n")


ERRORS = sorted(
    {
        cls
        for _, cls in inspect.getmembers(mediator.errors, inspect.isclass)
        if issubclass(cls, MediatorError) and dataclasses.is_dataclass(cls)
    },
    key=lambda cls: cls.__name__,
)
FOREIGN = {
    name: fields
    for fields, names in {
        ("reason", "text", "error", "reference"): [cls.__name__ for cls in ERRORS if issubclass(cls, RemoteError)],
        ("reason", "event_id", "event_type", "waiting_id", "differences"): [
            *("PublisherUnavailableError", "DuplicateDroppedError", "StreamNotFoundError", "StreamUnavailableError"),
            *("ConsumerNotFoundError", "StreamMismatchError", "EventNotDecodableError"),
            *("EventRefusedError", "EventHeldBackError", "ParkedEventConflictError"),
            *("NotAuthorizedError", "ClaimLostError"),
        ],
    }.items()
    for name in names
}
"""The fields of errors that repeat texts from the wire, from the broker or from another application."""


def make_error(cls: type, hostile: str, only: tuple[str, ...] | None) -> Any:
    """Make an error with a hostile text in all its fields, or only in the fields that contain foreign texts."""
    given: dict[str, Any] = {}
    for each in filter(lambda each: each.init, dataclasses.fields(cls)):
        name, kind = each.name, str(each.type)
        foreign = only is None or name in only
        if "Mapping" in kind:
            given[name] = {}
        elif "Sequence" in kind or "tuple" in kind or name in {"path", "known", "problems", "differences"}:
            given[name] = (hostile,) if foreign and "str" in kind else ()
        elif "str" in kind or name in {"message", "request", "query", "event"}:
            given[name] = hostile if foreign else "plain"
        elif "Exception" in kind:
            given[name] = ValueError(hostile)
        elif "type" in kind or name == "event_class":
            given[name] = str
        else:
            given[name] = 1
    return cls(**given)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_the_text_of_every_error_is_printable_and_bounded_for_any_field_values(cls: type):
    for hostile in (*ODD, *HUGE[:3]):
        error = make_error(cls, hostile, None)
        assert fits_in_lines(str(error))
        assert repr(error).isprintable()
        assert len(repr(error)) < 2 * LONGEST_REPORT


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_foreign_text_adds_no_line_to_the_text_of_an_error(name: str):
    for hostile in (*ODD, *HUGE):
        text = str(make_error(getattr(mediator.errors, name), hostile, FOREIGN[name]))
        assert fits(text, 3 * LONGEST_REASON), text[:300]


@pytest.mark.parametrize("misused", [misuse.event_schema, misuse.cache_key, partial(misuse.not_repeatable, part="it")])
def test_foreign_text_adds_no_line_to_the_text_of_a_misuse_error(misused: Callable[..., MisuseError]):
    for hostile in (*ODD, *HUGE):
        text = str(misused(str, reason=hostile))
        assert fits(text, 3 * LONGEST_REASON), text[:300]


@pytest.mark.parametrize("missing", [not_found.no_event_in_outbox, not_found.no_consumer_group])
def test_foreign_text_adds_no_line_to_the_text_of_a_not_found_error(missing: Callable[[str], MediatorError]):
    for hostile in (*ODD, *HUGE):
        assert fits(str(missing(hostile)), 3 * LONGEST_REASON)


@given(HOSTILE)
def test_every_text_of_a_log_line_is_printable_and_bounded(text: str):
    with capture_logs() as logs:
        log = Logger(worker=text).bind(subject=text)
        log.warning("line", reason=text, stack=text, listed=[text, (text,)], headers={text: text}, number=7, none=None)
        log.error("line", many=[text[:10]] * 10_000, deep=[[[[[[[text]]]]]]])
    assert (logs[0]["number"], logs[0]["none"]) == (7, None)
    assert len(logs[1]["many"]) <= 100
    check_lines(logs)


@given(HOSTILE)
def test_a_traceback_is_bounded_and_none_of_its_lines_begins_with_the_text_of_an_error(text: str):
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise LookupError(text) from error
    except LookupError as error:
        stack, message, line = traceback_of(error) or "", message_of(error), shown_error(error)
    assert fits_in_lines(stack)
    beginnings = ("Traceback ", " ", "ValueError", "LookupError", "The above exception")
    assert all(not each or each.startswith(beginnings) for each in stack.split("\n"))
    assert fits(message, LONGEST_REASON)
    assert fits(line, LONGEST_REASON)


@given(HOSTILE)
def test_a_note_on_an_error_is_one_line(text: str):
    error = ValueError()
    add_note(error, f"While closing: {text}")
    (note,) = error.__notes__
    assert fits(note, LONGEST_REASON)


async def _answers(channel: InMemoryRequestChannel) -> bool:
    try:
        await channel.call(RemoteCall(Work.request_type, b"!", 10.0, {"authorization": ""}))
    except PublisherUnavailableError:  # no responder serves the channel yet
        return False
    return True


class Foreign(InMemoryRequestChannel):
    """A channel that returns the answers of the test."""

    def __init__(self, reply: RemoteReply) -> None:
        super().__init__()
        self._reply = reply

    async def call(self, call: RemoteCall, /) -> RemoteReply:
        return self._reply


@pytest.mark.parametrize("status", list(ReplyStatus))
@pytest.mark.parametrize("hostile", [*ODD, *HUGE], ids=lambda text: ascii(text[:8]))
async def test_an_answer_of_another_application_is_printable_and_bounded(status: ReplyStatus, hostile: str):
    reply = RemoteReply(status, hostile.encode(errors="surrogatepass"), hostile, hostile, hostile)
    with pytest.raises(RemoteError) as caught:
        await RemoteSender(Foreign(reply)).send(Work("a"))
    error: Any = caught.value
    assert fits(str(error), 3 * LONGEST_REASON)
    for field in ("reason", "text", "error", "reference"):
        assert fits(getattr(error, field, ""), LONGEST_REASON)


@pytest.mark.parametrize("hostile", [*ODD, *HUGE], ids=lambda text: ascii(text[:8]))
async def test_a_foreign_event_leaves_printable_log_lines_and_a_printable_row(hostile: str):
    application = Application({})
    odd = dict.fromkeys(("ce-id", "ce-source", "ce-tenant", "ce-correlationid", "ce-partitionkey", "x-odd"), hostile)
    for number, kind in enumerate((hostile, f"{TYPE}.v1")):
        headers = {"ce-specversion": "1.0", **odd, "ce-id": f"{hostile}{number}", "ce-type": kind}
        application.broker.store_message(TYPE, headers, b"{}")
    application.now += 3600.0
    with capture_logs() as logs:
        async with application.running():
            await application.settled(2)
    assert logs
    check_lines(logs)
    rows = [as_row("parking", event, whole=True) for event in application.parking.events]
    assert len(rows) == 2
    listed = [
        row | {"next_try": next_try(event, None)} for row, event in zip(rows, application.parking.events, strict=True)
    ]
    assert all(fits(line, 500) for line in as_table(listed).split("\n"))
    for row in rows:
        above = as_text(row).rpartition("\n\n")[0].split("\n")
        assert len(above) < 40
        assert all(fits(line, 9000) for line in above)
        assert str(row["error"]).isprintable()


@pytest.mark.parametrize("hostile", [*ODD, *HUGE], ids=lambda text: ascii(text[:8]))
@pytest.mark.parametrize("knows", [True, False])
async def test_texts_of_a_caller_leave_printable_log_lines_before_and_after_authentication(hostile: str, knows: bool):
    async def authenticate(call: RemoteCall) -> Caller:
        if knows:
            return Caller("ada")
        raise NotAuthorizedError(call.name, None, f"no such token: {call.headers['authorization']}")

    async def repeat(request: Work) -> str:
        raise LookupError(request.name)

    channel = InMemoryRequestChannel()
    responder = RequestResponder(channel, wire(handles(Work, repeat)), exposes=[Work], authenticate=authenticate)
    running = asyncio.create_task(responder.run())
    said = dict.fromkeys(("messageid", "correlationid", "tenant", "authorization", "x-odd"), hostile)
    body = channel.codec.encode(Work(hostile.encode(errors="replace").decode()))
    with capture_logs() as logs:
        while not await _answers(channel):
            await asyncio.sleep(0)
        for headers, data in ((said, body), ({}, body), ({"authorization": hostile, "messageid": hostile}, b"{")):
            reply = await channel.call(RemoteCall(Work.request_type, data, 10.0, {"authorization": "", **headers}))
            assert reply.status in {ReplyStatus.REFUSED, ReplyStatus.FAILED}
            assert fits(reply.reference, 255)
    running.cancel()
    await asyncio.wait({running})
    assert len(logs) >= 3
    check_lines(logs)


@given(HOSTILE)
def test_a_stored_row_with_foreign_text_is_printed_as_one_line_of_a_table(text: str):
    event = ParkedEvent(
        direction="in", consumer=text, source=text, event_id=text, type=text, time=text, partition_key=text,
        content_type=text, extensions={text: text}, data=b"body", subject=text, headers={text: text}, sequence=1,
        reason=text, error=f"ValueError: {text}", attempts=1,
    )  # fmt: skip
    row = as_row("parking", event, whole=True) | {"next_try": next_try(event, None)}
    assert all(fits(line, 600) for line in as_table([row]).split("\n"))
    above = as_text(row).rpartition("\n\n")[0].split("\n")
    assert len(above) < 30
    assert all(fits(line, 9000) for line in above)


@given(HOSTILE)
def test_a_finding_of_the_doctor_is_one_line_with_a_remedy(text: str):
    report = Report([fault("stream-missing", text, text, f"Do {text}")])
    lines = report.as_text().split("\n")
    assert len(lines) == 4
    assert all(fits(line, 5000) for line in lines)
    assert len(json.dumps(json.loads(report.as_json()), ensure_ascii=False)) < 20_000
