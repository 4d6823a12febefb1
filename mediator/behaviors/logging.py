"""LoggingBehavior: one structured log line for each message or stream that was handled or failed."""

import inspect
import time
from collections.abc import AsyncIterator, Callable, Collection, MutableMapping
from typing import Any

import structlog

from mediator.ambient import running_fields
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import current_context
from mediator.streams import StreamNext, StreamPipelineBehavior


class _Logger:
    """What both behaviors below have in common: their options, and the fields of a line."""

    def __init__(
        self,
        *,
        log_payload: bool = False,
        redact: Callable[[Any], object] | None = None,
        log_headers: Collection[str] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator")
        self._redact = (redact or _field_names) if log_payload else None
        self._headers = tuple(log_headers)
        self._clock = clock

    def _fields(self, message: Any, started: float) -> dict[str, Any]:
        context = current_context()
        fields: dict[str, Any] = {
            "message": type(message).__name__,
            "milliseconds": round((self._clock() - started) * 1000, 3),
            **context.log_fields(),
        }
        shown = {name: context.headers[name] for name in self._headers if name in context.headers}
        if shown:
            fields["headers"] = shown
        if self._redact is not None:
            fields["payload"] = self._redact(message)
        return fields


class LoggingBehavior(_Logger, PipelineBehavior[Any, Any]):
    """Logs every message with its name, duration and ids; never its payload, unless asked.

    Place it outermost, so that it sees what the other behaviors do. Lines: `handled` at info, `failed` at error with
    the type of the exception (the exception itself belongs to whoever catches it).

    Args:
        log_payload: Also log the message itself, as `redact` returns it.
        redact: Makes a message fit to be logged; by default only the names of its fields are.
        log_headers: The names of headers of the context whose values may be logged; no others are.
        clock: Monotonic time in seconds.
    """

    async def handle(self, message: Any, call_next: CallNext[Any], /) -> Any:
        """Run the rest and log how it went."""
        started = self._clock()
        try:
            response = await call_next()
        except BaseException as error:
            self._log.error("failed", error=type(error).__name__, **self._fields(message, started))
            raise
        self._log.info("handled", **self._fields(message, started))
        return response


class StreamLoggingBehavior(_Logger, StreamPipelineBehavior[Any, Any]):
    """Logs every stream when it ends, as `LoggingBehavior` does messages, with the number of its `items`.

    Lines: `streamed` at info, with `exhausted` false when the consumer wanted no more; `failed` at error.

    Args:
        log_payload: Also log the request itself, as `redact` returns it.
        redact: Makes a request fit to be logged; by default only the names of its fields are.
        log_headers: The names of headers of the context whose values may be logged; no others are.
        clock: Monotonic time in seconds.
    """

    async def handle(self, request: Any, call_next: StreamNext[Any], /) -> AsyncIterator[Any]:
        """Pass the items on and count them."""
        started, items = self._clock(), 0
        try:
            async for item in call_next():
                yield item
                items += 1
        except GeneratorExit:
            self._log.info("streamed", items=items + 1, exhausted=False, **self._fields(request, started))
            raise
        except BaseException as error:
            self._log.error("failed", error=type(error).__name__, items=items, **self._fields(request, started))
            raise
        self._log.info("streamed", items=items, exhausted=True, **self._fields(request, started))


def add_message_context(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: adds the ids, principal and tenant of the running message to lines of the application's own.

    What a line has already stays as it is. Put it first in `structlog.configure(processors=[add_message_context, ...])`.
    """
    return {**running_fields(), **line}


def _field_names(message: object) -> dict[str, str]:
    classes = reversed(type(message).__mro__)
    return {name: "***" for cls in classes for name in inspect.get_annotations(cls)}
