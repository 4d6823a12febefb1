"""Telemetry: records a span and a duration for each message, each handler of a notification, and each stream.

This module needs `mediator-uow[opentelemetry]`, and has no effect until the application sets up OpenTelemetry's SDK.
If OpenTelemetry's semantic conventions for messaging define a name for an attribute, the attribute has that name.
Payloads are never recorded.
"""

import time
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from mediator.blocks import contextmanager
from mediator.describe import kind_of, wire_name
from mediator.errors.root import name_of
from mediator.extras import Extra
from mediator.logger import Guard
from mediator.messages import Notification
from mediator.pipeline import CallNext, NotificationPipelineBehavior, PipelineBehavior
from mediator.scope import current_context
from mediator.streams import StreamNext, StreamPipelineBehavior

with Extra("opentelemetry"):
    from opentelemetry import context, metrics, trace
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode, Tracer, TracerProvider

OPERATIONS = {"notification": "publish", "event": "process", "stream": "stream"}
"""The first word of a span's name, by the kind of the message; all other kinds have `send`."""

_END: Any = object()


class _Telemetry:
    """The common base class of the behaviors below.

    Args:
        tracer_provider: Receives the spans; the global provider when not given.
        meter_provider: Receives the durations; the global provider when not given.
        record_exceptions: True also records the text and the traceback of an error on the span. Both may contain values
            of a message.
        clock: Returns the monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        record_exceptions: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._tracer: Tracer = trace.get_tracer("mediator", tracer_provider=tracer_provider)
        self._durations: Histogram = metrics.get_meter("mediator", meter_provider=meter_provider).create_histogram(
            "mediator.message.duration",
            unit="s",
            description="The duration of messages, including everything that they caused.",
        )
        self._record_exceptions = record_exceptions
        self._clock = clock
        self._guarded = Guard("telemetry")

    @contextmanager
    def _measured(self, message: object, name: str | None = None, **more: str) -> Generator[Span, None, None]:
        """Record a span and a duration for the body. The span is yielded, but not made the current span."""
        guarded = self._guarded
        kind = kind_of(type(message))
        fixed = {"mediator.message": name_of(message), "mediator.kind": kind, **more}
        operation = OPERATIONS.get(kind, "send")
        begun: Span | None = guarded(
            self._tracer.start_span, name or f"{operation} {fixed['mediator.message']}", attributes=fixed
        )
        span = INVALID_SPAN if begun is None else begun
        guarded(span.set_attributes, _ids(message))
        started = self._clock()
        try:
            yield span
        except GeneratorExit:  # the consumer of a stream stopped early, which is no error
            raise
        except BaseException as error:
            fixed["error.type"] = type(error).__qualname__
            guarded(self._fail, span, error)
            raise
        finally:
            guarded(self._durations.record, self._clock() - started, fixed)
            guarded(span.end)

    def _fail(self, span: Span, error: BaseException) -> None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
        if self._record_exceptions:
            span.record_exception(error)


def _ids(message: object) -> dict[str, str]:
    flow = current_context()
    ids = {"messaging.message.id": flow.message_id, "messaging.message.conversation_id": flow.correlation_id}
    event_type = wire_name(type(message))
    return ids | ({"cloudevents.event_type": event_type} if event_type else {})


@contextmanager
def _current(span: Span) -> Generator[None, None, None]:
    """Make a span the current span for the body. Errors of the body pass through unrecorded; the caller records them."""
    token = context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        context.detach(token)


class TelemetryBehavior(_Telemetry, PipelineBehavior[Any, Any]):
    """Records a span such as `send EnrollStudent` for each request, published notification and event.

    Declare this behavior first.
    """

    async def handle(self, message: Any, call_next: CallNext[Any], /) -> Any:
        with self._measured(message) as span, _current(span):
            return await call_next()


class HandlerTelemetryBehavior(_Telemetry, NotificationPipelineBehavior[Notification]):
    """Records a span such as `handle AnnounceEnrollment` for each handler of a notification.

    The span is a child of the notification's span.
    """

    async def handle(self, notification: Notification, handler: type, call_next: CallNext[None], /) -> None:
        name = handler.__name__
        with self._measured(notification, f"handle {name}", **{"mediator.handler": name}) as span, _current(span):
            await call_next()


class StreamTelemetryBehavior(_Telemetry, StreamPipelineBehavior[Any, Any]):
    """Records a span for each stream, from its first step to its end. The span is current only during a step."""

    async def handle(self, request: Any, call_next: StreamNext[Any], /) -> AsyncIterator[Any]:
        with self._measured(request) as span:
            items, count = call_next(), 0
            try:
                while True:
                    with _current(span):
                        item = await anext(items, _END)
                    if item is _END:
                        return
                    count += 1
                    yield item
            finally:
                self._guarded(span.set_attribute, "mediator.items", count)
