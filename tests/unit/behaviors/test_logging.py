"""LoggingBehavior: the fields of its log lines."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from mediator import Command, LoggingBehavior, MessageContext
from mediator.behaviors import add_message_context
from tests.unit.samples import EnrollStudent, ExpelStudent, StudentChanged, answer_name, answer_none
from tests.unit.wiring import bind, handles, listens, wire


class Clock:
    """A clock that advances by a quarter of a second at each reading."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


async def logged(message: Any, work: Any = answer_name, **options: Any) -> list[Any]:
    """Return the log lines of the handling of a message."""
    with capture_logs() as lines:
        behavior = bind(LoggingBehavior, lambda: LoggingBehavior(clock=Clock(), **options))
        mediator = wire(handles(type(message), work), behaviors=[behavior], ids=lambda: "inner")
        async with mediator.scope(context=MessageContext("outer", "flow")):
            with contextlib.suppress(ValueError, asyncio.CancelledError):
                await mediator.send(message)
    return lines


async def test_a_handled_message_is_one_line_with_name_duration_and_ids_and_no_payload():
    assert await logged(EnrollStudent("secret")) == [
        {
            "event": "handled",
            "log_level": "info",
            "message_type": "EnrollStudent",
            "milliseconds": 250.0,
            "message_id": "inner",
            "correlation_id": "flow",
            "causation_id": "outer",
        }
    ]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_failed_message_is_one_line_with_the_type_of_the_error(error: type[BaseException]):
    async def fail(_message: Any) -> None:
        raise error("secret")

    (line,) = await logged(EnrollStudent("secret"), fail)
    assert (line["event"], line["log_level"], line["error"]) == ("failed", "error", error.__name__)
    assert line["milliseconds"] == 250.0
    assert "secret" not in str(line)


async def test_a_payload_is_logged_only_on_request_and_redacted():
    (line,) = await logged(EnrollStudent("secret"), log_payload=True)
    assert line["payload"] == {"name": "***"}


async def test_redaction_by_default_names_inherited_fields_too():
    @dataclass(frozen=True)
    class Transfer(EnrollStudent):
        school: str = "secret"

    (line,) = await logged(Transfer(), log_payload=True)
    assert line["payload"] == {"name": "***", "school": "***"}


async def test_a_message_without_fields_has_an_empty_payload():
    class Ping(Command[None]):
        pass

    (line,) = await logged(Ping(), answer_none, log_payload=True)
    assert line["payload"] == {}


async def test_class_variables_are_not_part_of_the_payload():
    @dataclass(frozen=True)
    class Transfer(EnrollStudent):
        evaluated: ClassVar[str] = "secret"
        written: "ClassVar[str]" = "secret"
        bare: ClassVar = "secret"

    (line,) = await logged(Transfer("secret"), log_payload=True)
    assert line["payload"] == {"name": "***"}


async def test_the_logged_payload_is_the_result_of_redact():
    (line,) = await logged(EnrollStudent("Ada"), log_payload=True, redact=lambda message: message.name[0])
    assert line["payload"] == "A"


async def test_redact_is_not_called_unless_payloads_are_asked_for():
    (line,) = await logged(EnrollStudent("Ada"), redact=lambda message: message.name)
    assert "payload" not in line


async def test_inner_messages_are_logged_before_outer_ones_with_one_correlation_id():
    async def outer(_message: Any) -> None:
        await mediator.send(ExpelStudent())
        await mediator.publish(StudentChanged())

    parts = [handles(EnrollStudent, outer), handles(ExpelStudent, answer_none), listens(StudentChanged, answer_none)]
    mediator = wire(*parts, behaviors=[LoggingBehavior])
    with capture_logs() as lines:
        await mediator.send(EnrollStudent())
    assert [line["message_type"] for line in lines] == ["ExpelStudent", "StudentChanged", "EnrollStudent"]
    assert len({line["correlation_id"] for line in lines}) == 1
    assert {line["causation_id"] for line in lines[:2]} == {lines[2]["message_id"]}


ADA = MessageContext("outer", "flow", None, "ada", "acme", {"Authorization": "secret", "accept-language": "de"})


async def logged_for_ada(**options: Any) -> Any:
    behavior = bind(LoggingBehavior, lambda: LoggingBehavior(**options))
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[behavior])
    with capture_logs() as lines:
        await mediator.send(EnrollStudent(), context=ADA)
    return lines[0]


async def test_principal_and_tenant_are_in_the_line_and_headers_are_not():
    line = await logged_for_ada()
    assert (line["correlation_id"], line["causation_id"]) == ("flow", "outer")
    assert (line["principal"], line["tenant"]) == ("ada", "acme")
    assert "headers" not in line
    assert "secret" not in str(line)


async def test_only_the_requested_headers_are_in_the_line():
    line = await logged_for_ada(log_headers=["Accept-Language", "missing"])
    assert line["headers"] == {"Accept-Language": "de"}
    assert "secret" not in str(line)


async def test_the_processor_adds_the_context_to_lines_of_the_application_and_keeps_their_fields():
    async def say(_message: Any) -> Any:
        return add_message_context(None, "info", {"event": "hello", "tenant": "mine"})

    mediator = wire(handles(EnrollStudent, say), ids=lambda: "inner")
    line: Any = await mediator.send(EnrollStudent(), context=ADA)
    assert line == {
        "event": "hello",
        "message_id": "inner",
        "correlation_id": "flow",
        "causation_id": "outer",
        "principal": "ada",
        "tenant": "mine",
    }
    assert add_message_context(None, "info", {"event": "hello"}) == {"event": "hello"}
