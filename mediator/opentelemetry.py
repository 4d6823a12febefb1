"""Telemetry: a span and a duration for each message, each handler of a notification, and each stream.

It needs the extra `opentelemetry`, and does nothing noticeable until the application sets up OpenTelemetry's SDK.
Attributes are named by OpenTelemetry's semantic conventions for messaging where there is one; no payload is among them.
"""

import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import Any

from mediator.dispatches import kind_of, wire_name
from mediator.errors.root import name_of
from mediator.extras import Extra
from mediator.messages import Notification
from mediator.pipeline import CallNext, NotificationPipelineBehavior, PipelineBehavior
from mediator.scope import current_context
from mediator.streams import StreamNext, StreamPipelineBehavior

with Extra("opentelemetry"):
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import Span, Status, StatusCode, Tracer, TracerProvider

OPERATIONS = {"notification": "publish", "event": "process", "stream": "stream"}
"""The first word of a span, by the kind of the message; it is `send` for requests."""

_END: Any = object()


class _Telemetry:
    """What the behaviors below have in common.

    Args:
        tracer_provider: Where the spans go; the global one when not given.
        meter_provider: Where the durations go; the global one when not given.
        record_exceptions: Also put the text and the traceback of an error on its span. They may show what a message holds.
        clock: Monotonic time in seconds.
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
            "mediator.message.duration", unit="s", description="How long messages took, with all that they caused."
        )
        self._record_exceptions = record_exceptions
        self._clock = clock

    @contextmanager
    def _measured(self, message: object, name: str | None = None, **more: str) -> Generator[Span, None, None]:
        """A span for the body, which need not be the current one, and its duration."""
        kind = kind_of(type(message))
        fixed = {"mediator.message": name_of(message), "mediator.kind": kind, **more}
        operation = OPERATIONS.get(kind, "send")
        span = self._tracer.start_span(name or f"{operation} {fixed['mediator.message']}", attributes=fixed)
        span.set_attributes(_ids(message))
        started = self._clock()
        try:
            yield span
        except GeneratorExit:  # a consumer that wants no more items
            raise
        except BaseException as error:
            fixed["error.type"] = type(error).__qualname__
            self._fail(span, error)
            raise
        finally:
            self._durations.record(self._clock() - started, fixed)
            span.end()

    def _fail(self, span: Span, error: BaseException) -> None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
        if self._record_exceptions:
            span.record_exception(error)


def _ids(message: object) -> dict[str, str]:
    context = current_context()
    ids = {"messaging.message.id": context.message_id, "messaging.message.conversation_id": context.correlation_id}
    event_type = wire_name(type(message))
    return ids | ({"cloudevents.event_type": event_type} if event_type else {})


def _current(span: Span) -> Any:
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


class TelemetryBehavior(_Telemetry, PipelineBehavior[Any, Any]):
    """A span for every request, publish and delivered event. Place it outermost: `send EnrollStudent`."""

    async def handle(self, message: Any, call_next: CallNext[Any], /) -> Any:
        """Run the rest inside the span."""
        with self._measured(message) as span, _current(span):
            return await call_next()


class HandlerTelemetryBehavior(_Telemetry, NotificationPipelineBehavior[Notification]):
    """A span for every single handler of a notification, inside that of the publish: `handle AnnounceEnrollment`."""

    async def handle(self, notification: Notification, handler: type, call_next: CallNext[None], /) -> None:
        """Run one handler inside the span."""
        name = handler.__name__
        with self._measured(notification, f"handle {name}", **{"mediator.handler": name}) as span, _current(span):
            await call_next()


class StreamTelemetryBehavior(_Telemetry, StreamPipelineBehavior[Any, Any]):
    """A span for every stream, from its first step to its end; between the items it is not the current one."""

    async def handle(self, request: Any, call_next: StreamNext[Any], /) -> AsyncIterator[Any]:
        """Pass the items on and count them."""
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
                span.set_attribute("mediator.items", count)
