"""LoggingBehavior: writes one structured log line for each message or stream when it ends."""

import inspect
import time
from collections.abc import AsyncIterator, Callable, Collection, MutableMapping
from typing import Any, ClassVar, get_origin

from mediator.ambient import running_fields
from mediator.logger import Logger
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import current_context
from mediator.streams import StreamNext, StreamPipelineBehavior


class _Logger:
    """The common base of both behaviors below: their options and the fields of a log line."""

    def __init__(
        self,
        *,
        log_payload: bool = False,
        redact: Callable[[Any], object] | None = None,
        log_headers: Collection[str] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._log: Logger = Logger()
        self._redact = (redact or _field_names) if log_payload else None
        self._headers = tuple(log_headers)
        self._clock = clock

    def _fields(self, message: Any, started: float) -> dict[str, Any]:
        context = current_context()
        fields: dict[str, Any] = {
            "message_type": type(message).__name__,
            "milliseconds": round((self._clock() - started) * 1000, 3),
            **context.log_fields(),
        }
        shown = {name: context.headers[name] for name in self._headers if name in context.headers}
        if shown:
            fields["headers"] = shown
        if self._redact is not None:
            try:
                fields["payload"] = self._redact(message)
            except Exception as error:  # a failing `redact` must not fail the message
                fields["payload"] = f"the payload cannot be shown: {type(error).__name__}"
        return fields


class LoggingBehavior(_Logger, PipelineBehavior[Any, Any]):
    """Logs every message with its class name, duration and ids, and with its payload only if configured.

    The line is `handled` at level info, or `failed` at level error with the class of the exception. The code that
    catches the exception is responsible for logging its details. Place this behavior outermost, so that the duration
    covers all other behaviors.

    Args:
        log_payload: `True` also logs the message, as returned by `redact`.
        redact: Turns a message into a value that may be logged; by default only the names of its fields are logged.
        log_headers: The names of the context's headers to log; no other headers are logged.
        clock: Returns the monotonic time in seconds.
    """

    async def handle(self, message: Any, call_next: CallNext[Any], /) -> Any:
        started = self._clock()
        try:
            response = await call_next()
        except BaseException as error:
            self._log.error("failed", error=type(error).__name__, **self._fields(message, started))
            raise
        self._log.info("handled", **self._fields(message, started))
        return response


class StreamLoggingBehavior(_Logger, StreamPipelineBehavior[Any, Any]):
    """Logs every stream when it ends, as `LoggingBehavior` logs messages, with the number of its `items`.

    The line is `streamed` at level info, or `failed` at level error. In a line `streamed`, `exhausted` is false when
    the consumer stopped the stream early. This behavior takes the same arguments as `LoggingBehavior`.
    """

    async def handle(self, request: Any, call_next: StreamNext[Any], /) -> AsyncIterator[Any]:
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
    """Add the ids, principal and tenant of the running message to a log line; a structlog processor.

    Use this processor for the application's own log lines. Fields that a line already has are not changed. Put the
    processor first: `structlog.configure(processors=[add_message_context, ...])`.
    """
    return {**running_fields(), **line}


def _field_names(message: object) -> dict[str, str]:
    declared = [each for cls in reversed(type(message).__mro__) for each in inspect.get_annotations(cls).items()]
    return {name: "***" for name, kind in declared if not _is_class_variable(kind)}


def _is_class_variable(kind: Any) -> bool:
    if isinstance(kind, str):  # an annotation in quotes, or with `from __future__ import annotations`
        return kind.removeprefix("typing.").startswith("ClassVar")
    return kind is ClassVar or get_origin(kind) is ClassVar
