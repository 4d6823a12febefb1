"""The limits of the values in a message context, also in sent events and requests."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import DistributedEvent, MessageContext
from mediator.context import NOTHING_SAID, Headers, Unverified
from mediator.distributed.callers import stated_by, trust_stream, vouched_context
from mediator.distributed.cloudevents import CloudEvent, incoming, outgoing
from mediator.distributed.unit_of_work.running import CollectedEvent
from mediator.errors import ContextError
from mediator.msgspec import MsgspecCodec
from tests.unit.samples import EnrollStudent
from tests.unit.test_context import see
from tests.unit.wiring import handles, wire

TEXTS = st.text(max_size=300) | st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=300)
FIELDS = ("message_id", "correlation_id", "causation_id", "principal", "tenant")
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def fits(text: str) -> bool:
    return 1 <= len(text) <= 255 and text.isprintable()


@given(st.sampled_from(FIELDS), TEXTS)
def test_a_text_is_accepted_unchanged_or_refused_without_being_shown(field: str, text: str):
    values: dict[str, Any] = {"message_id": "m", "correlation_id": "c", field: text}
    if fits(text):
        assert getattr(MessageContext(**values), field) == text
    else:
        with pytest.raises(ContextError) as caught:
            MessageContext(**values)
        assert caught.value.field == field
        assert len(text) < 30 or text not in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "value", ["a\nb", "\x1b[2J", "a\u2028b", "\u202eadmin", "\udc80", "", "x" * 256, 3, b"ada", True]
)
def test_a_value_that_could_forge_a_log_line_or_is_no_string_is_refused_by_every_function(value: Any):
    with pytest.raises(ContextError):
        MessageContext.new(principal=value)
    with pytest.raises(ContextError):
        MessageContext("m", "c", tenant=value)


@pytest.mark.parametrize(
    "options", [{"principal": ""}, {"tenant": "a\n"}, {"headers": {"a": "\0"}}, {"correlation_id": ""}]
)
async def test_a_context_that_is_refused_changes_nothing(options: Any):
    mediator = wire(handles(EnrollStudent, see))
    with pytest.raises(ContextError):
        async with mediator.context(**options):
            pass
    assert (await mediator.send(EnrollStudent())).causation_id is None


def test_a_new_context_begins_a_flow_or_continues_one():
    new = MessageContext.new(principal="ada", tenant="acme", headers={"A": "1"}, ids=lambda: "id")
    assert new == MessageContext("id", "id", None, "ada", "acme", {"a": "1"})
    assert MessageContext.new(correlation_id="flow", ids=lambda: "id") == MessageContext("id", "flow")


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
VALUES = st.text(max_size=1100).filter(str.isprintable)


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_header_names_are_case_insensitive_and_other_objects_than_mappings_are_refused(values: dict[str, str]):
    lowered = {name.lower(): value for name, value in values.items()}
    size = sum(len(name) + len(value) for name, value in lowered.items())
    if len(lowered) < len(values) or size > 4096 or any(len(value) > 1024 for value in values.values()):
        with pytest.raises(ContextError):
            Headers(values)
        return
    headers = Headers(values)
    assert dict(headers) == lowered
    assert all(headers[name] == value and name in headers for name, value in values.items())
    assert headers == Headers(lowered)
    assert hash(headers) == hash(Headers(lowered))


@pytest.mark.parametrize(
    "values",
    [
        {"": "a"},
        {"a b": "a"},
        {"a:": "a"},
        {"ä": "a"},
        {"a\n": "a"},
        {"n" * 65: "a"},
        {"a": "b\r\nc"},
        {"a": "x" * 1025},
        {"a": 1},
        {1: "a"},
        {"a": "1", "A": "2"},
        {f"name{number}": "x" * 1000 for number in range(5)},
    ],
)
def test_headers_that_are_too_large_or_badly_named_are_refused(values: Any):
    with pytest.raises(ContextError, match="headers"):
        MessageContext("m", "c", headers=values)


def test_headers_are_immutable_and_do_not_show_their_values():
    source = {"Authorization": "Bearer secret"}
    context = MessageContext("m", "c", headers=source)
    source["Authorization"] = "changed"
    assert context.headers["authorization"] == "Bearer secret"
    assert "secret" not in repr(context)
    assert "authorization=***" in repr(context)
    with pytest.raises(TypeError):
        context.headers["authorization"] = "x"  # type: ignore[index]


def test_an_inner_message_inherits_principal_tenant_and_headers():
    context = MessageContext("a", "flow", None, "ada", "acme", {"h": "1"})
    assert context.caused("b") == MessageContext("b", "flow", "a", "ada", "acme", {"h": "1"})
    assert hash(context.caused("b")) == hash(MessageContext("b", "flow", "a", "ada", "acme", {"h": "1"}))


@dataclass(frozen=True, slots=True)
class Changed(DistributedEvent):
    event_type: ClassVar[str] = "university.changed"
    name: str = "Ada"


def sent(context: MessageContext) -> CloudEvent:
    return CollectedEvent(Changed(), "event", NOW, context).encode(MsgspecCodec(), 1000)


def test_only_correlation_causation_and_tenant_are_sent():
    context = MessageContext("message", "flow", "cause", "ada", "acme", {"authorization": "secret"})
    assert sent(context).extensions == {"correlationid": "flow", "causationid": "message", "tenant": "acme"}
    assert sent(MessageContext("message", "flow")).extensions == {"correlationid": "flow", "causationid": "message"}


FITTING = st.text(min_size=1, max_size=255).filter(fits)


@given(FITTING, FITTING, st.none() | FITTING)
def test_sent_attributes_arrive_and_the_tenant_is_trusted_only_if_vouched_for(
    message_id: str, correlation_id: str, tenant: str | None
):
    context = MessageContext(message_id, correlation_id, "cause", "ada", tenant, {"a": "1"})
    event, said = sent(context), NOTHING_SAID if tenant is None else Unverified(tenant)
    arrived = MessageContext("event", correlation_id, message_id, vouched_by=None, unverified=said)
    assert incoming(event) == (arrived, [])
    believed = replace(arrived, tenant=tenant, vouched_by="trust_stream")
    assert vouched_context(arrived, stated_by(event), trust_stream) == believed


ATTRIBUTES = st.dictionaries(st.sampled_from(["correlationid", "causationid", "tenant", "traceparent"]), TEXTS)


@given(TEXTS, ATTRIBUTES)
def test_attributes_out_of_bounds_are_dropped_from_the_context(event_id: str, extensions: dict[str, str]):
    context, dropped = incoming(CloudEvent(event_id, "a.b.v1", NOW, b"", "other", extensions=extensions))
    unfit = [name for name in ("correlationid", "causationid", "tenant") if not fits(extensions.get(name, "fits"))]
    assert dropped == (unfit if fits(event_id) else ["id", *unfit])
    fit = {name: value for name, value in extensions.items() if name not in unfit}
    assert context.message_id == event_id or "id" in dropped
    assert context.correlation_id == fit.get("correlationid", context.message_id)
    assert (context.causation_id, context.unverified.tenant) == (fit.get("causationid"), fit.get("tenant"))
    assert (context.tenant, context.vouched_by) == (None, None)
    assert (context.principal, dict(context.headers), outgoing(context)["causationid"]) == (
        None,
        {},
        context.message_id,
    )
