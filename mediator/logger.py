"""Logger: writes the log lines of this library; Guard: calls observers, such as metrics, and logs their errors.

A full disk, a broken structlog processor or an unreachable collector must not affect the work that is being logged.
Errors of logging are counted, and the count is logged as soon as logging works again. No other file of this package
creates a structlog logger.

A line often contains foreign text, such as the type of an unknown event, a subject or the text of an error. Every text
in a line is therefore made printable here, and is cut if it is too long.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any, cast
from weakref import WeakKeyDictionary

import structlog

from mediator.printable import LONGEST_REASON, LONGEST_REPORT, printable, shown, text_of

_STACK = "stack"
"""The only field that may have several lines."""
_MOST_ITEMS = 100
_DEEPEST = 5


class Logger:
    """Writes lines to the structlog logger `mediator`, with structlog's configuration at the time of writing.

    A line that cannot be written is lost and counted; no error is raised. Before the next line that can be written, an
    additional line says how many lines were lost, and why. Do not use names of fields that the standard library's
    `LogRecord` reserves. Texts are printable and have at most 2,000 characters, also inside lists and mappings. At most
    100 items of a list or mapping are written. The field `stack` may have several lines and 50,000 characters.
    """

    __slots__ = ("_fields", "_log")

    def __init__(self, **fields: object) -> None:
        self._fields = fields
        self._log: Any = structlog.get_logger("mediator", **_fitting(fields))

    def bind(self, **fields: object) -> "Logger":
        """Return a logger whose lines also have the given fields."""
        return Logger(**{**self._fields, **fields})

    def debug(self, event: str, /, **fields: object) -> None:
        """Write a line that helps to find an error in a program."""
        self._write("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Write a line about normal operation."""
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Write a line about something an operator may want to look at."""
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Write a line about something an operator should look at."""
        self._write("error", event, fields)

    def _write(self, method: str, event: str, fields: dict[str, object]) -> None:
        log = self._log
        try:
            if _losses.any:
                _losses.tell(log)
            getattr(log, method)(event, **_fitting(fields))
        except Exception as error:  # a line that cannot be written must not fail the work
            _losses.count(error)


def _fitting(fields: dict[str, object]) -> dict[str, Any]:
    return {
        name: printable(value, LONGEST_REPORT) if name == _STACK and isinstance(value, str) else _fit(value)
        for name, value in fields.items()
    }


def _fit(value: Any, depth: int = 0) -> Any:
    """Return a value with its texts made printable and cut, also inside collections. Bytes are cut too."""
    kind = value.__class__
    if isinstance(value, str):
        fit = shown(value, LONGEST_REASON)
        return value if fit == value else fit
    if kind in (list, tuple, set, frozenset, dict) and depth == _DEEPEST:
        return "..."
    if kind is dict:
        return {_fit(key): _fit(each, depth + 1) for key, each in islice(value.items(), _MOST_ITEMS)}
    if kind in (list, tuple, set, frozenset):
        return cast("Any", kind)(_fit(each, depth + 1) for each in islice(value, _MOST_ITEMS))
    if kind in (bytes, bytearray):
        return value[:LONGEST_REASON]
    return value


@dataclass(slots=True)
class _Loss:
    lines: int = 0
    error: str = ""
    reason: str = ""


class _Losses:
    """Counts lost lines for each event loop. Each event loop reports only the lines that were lost in that loop."""

    def __init__(self) -> None:
        self.any = False
        self._changing = Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loss] = WeakKeyDictionary()
        self._elsewhere = _Loss()

    def count(self, error: Exception) -> None:
        with self._changing:
            loss = self._here()
            loss.lines += 1
            loss.error, loss.reason = type(error).__name__, shown(text_of(error), LONGEST_REASON)
            self.any = True

    def tell(self, log: Any) -> None:
        with self._changing:
            loss = self._here()
            lines, loss.lines = loss.lines, 0
        if not lines:
            return
        try:
            log.warning("log lines lost", lines=lines, error=loss.error, reason=loss.reason)
        except Exception:
            with self._changing:
                loss.lines += lines
            raise
        with self._changing:
            self.any = any(each.lines for each in (self._elsewhere, *self._by_loop.values()))

    def _here(self) -> _Loss:
        try:
            return self._by_loop.setdefault(asyncio.get_running_loop(), _Loss())
        except RuntimeError:  # no event loop runs in this thread
            return self._elsewhere


_losses = _Losses()


class Guard:
    """Calls observers of the application or a third party. Their errors are logged, not raised.

    The first failure is logged, and `what` names the observer. All failures are counted in `failures`. The next call
    that succeeds logs the count.
    """

    __slots__ = ("_log", "_what", "failures")

    def __init__(self, what: str) -> None:
        self._log = Logger(watcher=what)
        self._what = what
        self.failures: int = 0

    def __call__(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Make the call and return its result, or `None` when it raised an `Exception`."""
        try:
            result = call(*args, **options)
        except Exception as error:  # an error of an observer must not fail the work
            self.failures += 1
            if self.failures == 1:
                self._log.warning("watcher failed", error=type(error).__name__, reason=text_of(error))
            return None
        if self.failures:
            failures, self.failures = self.failures, 0
            self._log.info("watcher works again", failures=failures)
        return result


def _loop_time() -> float:
    """Return the time of the running event loop, by which its timers run, or the monotonic time if no loop runs."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


@dataclass(slots=True)
class _Period:
    begun: float
    written: int = 0
    left_out: int = 0


class RateLimitedLogger:
    """Limits log lines with the same text: in a period the first lines are written, and all further lines are counted.

    For each text, a period of `seconds` begins with a line of this text. At most `lines` lines are written in a period.
    """

    def __init__(
        self, log: Logger, *, lines: int = 10, seconds: float = 10.0, clock: Callable[[], float] | None = None
    ) -> None:
        self._log = log
        self._lines = lines
        self._seconds = seconds
        self._clock = clock or _loop_time
        self._periods: dict[str, _Period] = {}

    def info(self, event: str, /, **fields: object) -> bool:
        """Write a line or count it, and return whether it was written.

        The text `event` must not contain foreign data, because lines with the same `event` are counted together.
        """
        return self._write(self._log.info, event, fields)

    def warning(self, event: str, /, **fields: object) -> bool:
        return self._write(self._log.warning, event, fields)

    def error(self, event: str, /, **fields: object) -> bool:
        return self._write(self._log.error, event, fields)

    def _write(self, write: Callable[..., None], event: str, fields: dict[str, object]) -> bool:
        now = self._clock()
        period = self._periods.get(event)
        if period is None or now >= period.begun + self._seconds:
            self._tell(write, event)
            period = self._periods[event] = _Period(now)
        if period.written < self._lines:
            period.written += 1
            write(event, **fields)
            return True
        period.left_out += 1
        if period.left_out == 1:
            with suppress(RuntimeError):  # no event loop runs here: the first line of the next period reports the count
                left = period.begun + self._seconds - now
                asyncio.get_running_loop().call_later(left, self._tell, write, event, context=Context())
        return False

    def _tell(self, write: Callable[..., None], event: str) -> None:
        period = self._periods.get(event)
        if period is not None and period.left_out:
            left_out, period.left_out = period.left_out, 0
            write("similar lines left out", similar_to=event, lines=left_out, seconds=self._seconds)
