"""Telemetry: spans and durations of messages, handlers and streams, without payloads."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mediator import MessageContext, StreamRequest
from mediator.opentelemetry import HandlerTelemetryBehavior, StreamTelemetryBehavior, TelemetryBehavior
from tests.unit.samples import EnrollStudent, StudentEnrolled, answer_name
from tests.unit.wiring import handles, listens, streams, wire


class ListStudents(StreamRequest[str]):
    pass


@dataclass
class Telemetry:
    """The collected spans and metrics."""

    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    options: dict[str, Any]

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    @property
    def points(self) -> list[Any]:
        data = self.reader.get_metrics_data()
        metrics = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]
        (metric,) = metrics
        assert (metric.name, metric.unit) == ("mediator.message.duration", "s")
        return list(metric.data.data_points)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    exporter, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    yield Telemetry(exporter, reader, {"tracer_provider": tracers, "meter_provider": meters})
    tracers.shutdown()
    meters.shutdown()


def behaviors(telemetry: Telemetry, **options: Any) -> list[Any]:
    classes = (TelemetryBehavior, HandlerTelemetryBehavior, StreamTelemetryBehavior)
    return [cls(**telemetry.options, **options) for cls in classes]


async def test_a_message_and_its_consequences_are_one_trace(telemetry: Telemetry):
    async def enroll(_message: Any) -> str:
        await mediator.publish(StudentEnrolled())
        return "42"

    async def hear(_message: Any) -> None:
        pass

    parts = [handles(EnrollStudent, enroll), listens(StudentEnrolled, hear)]
    mediator = wire(*parts, behaviors=behaviors(telemetry))
    await mediator.send(EnrollStudent("Ada"), context=MessageContext("m-1", "flow-1", principal="mallory"))

    send, publish, handle = (telemetry.spans[f"{name}"] for name in SENT)
    assert publish.parent.span_id == send.context.span_id
    assert handle.parent.span_id == publish.context.span_id
    assert len({span.context.trace_id for span in (send, publish, handle)}) == 1
    assert send.attributes["mediator.kind"] == "command"
    assert send.attributes["messaging.message.conversation_id"] == "flow-1"
    assert publish.attributes["messaging.message.conversation_id"] == "flow-1"
    assert handle.attributes["mediator.handler"] == "Listener"
    assert "Ada" not in str([span.to_json() for span in telemetry.spans.values()])
    assert "mallory" not in str([span.to_json() for span in telemetry.spans.values()])


SENT = ("send EnrollStudent", "publish StudentEnrolled", "handle Listener")


async def test_durations_are_recorded_by_message_and_outcome(telemetry: Telemetry):
    time = iter([10.0, 10.5, 20.0, 20.25])

    async def flaky(message: EnrollStudent) -> str:
        if not message.name:
            raise LookupError
        return "42"

    mediator = wire(handles(EnrollStudent, flaky), behaviors=behaviors(telemetry, clock=lambda: next(time)))
    await mediator.send(EnrollStudent("Ada"))
    with pytest.raises(LookupError):
        await mediator.send(EnrollStudent(""))
    assert {(point.attributes.get("error.type"), point.sum, point.count) for point in telemetry.points} == {
        (None, 0.5, 1),
        ("LookupError", 0.25, 1),
    }


@pytest.mark.parametrize("error", [LookupError("secret"), asyncio.CancelledError("secret")])
@pytest.mark.parametrize("record", [False, True])
async def test_the_span_of_a_failed_message_has_error_status_and_shows_the_text_only_on_request(
    telemetry: Telemetry, error, record
):
    async def fail(_message: Any) -> None:
        raise error

    mediator = wire(handles(EnrollStudent, fail), behaviors=behaviors(telemetry, record_exceptions=record))
    with pytest.raises(type(error)):
        await mediator.send(EnrollStudent())
    (span,) = telemetry.spans.values()
    assert not span.status.is_ok
    assert span.attributes["error.type"] == type(error).__name__
    assert ("secret" in span.to_json()) is record


async def test_the_span_of_a_stream_is_current_in_its_steps_and_not_between_them(telemetry: Telemetry):
    inside: list[Any] = []

    async def names(_request: Any) -> Any:
        for name in ("Ada", "Bob", "Cyd"):
            inside.append(trace.get_current_span().get_span_context().span_id)
            yield name

    outer = trace.get_current_span()
    mediator = wire(streams(ListStudents, names), behaviors=behaviors(telemetry))
    async with mediator.stream(ListStudents()) as items:
        assert await anext(items) == "Ada"
        assert trace.get_current_span() is outer
        assert await anext(items) == "Bob"
    (span,) = telemetry.spans.values()
    assert (span.name, span.status.is_ok) == ("stream ListStudents", True)
    assert span.attributes["mediator.items"] == 2
    assert set(inside) == {span.context.span_id}


async def test_a_completed_or_failed_stream_has_one_span(telemetry: Telemetry):
    async def names(_request: Any) -> Any:
        yield "Ada"
        raise LookupError

    async def one(_request: Any) -> Any:
        yield "Ada"

    with pytest.raises(LookupError):
        async with wire(streams(ListStudents, names), behaviors=behaviors(telemetry)).stream(ListStudents()) as items:
            _ = [item async for item in items]
    async with wire(streams(ListStudents, one), behaviors=behaviors(telemetry)).stream(ListStudents()) as items:
        assert [item async for item in items] == ["Ada"]
    failed, done = telemetry.exporter.get_finished_spans()
    assert (failed.status.is_ok, failed.attributes["mediator.items"]) == (False, 1)
    assert (done.status.is_ok, done.attributes["mediator.items"]) == (True, 1)


async def test_concurrent_messages_have_separate_spans(telemetry: Telemetry):
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=behaviors(telemetry))
    await asyncio.gather(*(mediator.send(EnrollStudent(str(number))) for number in range(10)))
    spans = telemetry.exporter.get_finished_spans()
    assert len({span.context.trace_id for span in spans}) == len(spans) == 10


async def test_the_behavior_has_no_effect_without_an_sdk():
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[TelemetryBehavior()])
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
