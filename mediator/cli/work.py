"""Work: what a command does on a container, with its questions, logs and interruptions kept out of its answer."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import structlog

from mediator.cli.reporting import reporting
from mediator.printable import printable

T = TypeVar("T")

_INTERRUPTED = 130
STOPPED = "Stopped. What was done stays done, and the event at hand is as it was."
JSON = click.option("--json", "machine", is_flag=True, help="JSON, for programs.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")


def run_work(work: Callable[[], Coroutine[Any, Any, T]], *, stopped: str = STOPPED) -> T:
    """Run the work; Ctrl-C says what was `stopped`, and is status 130."""
    done: list[T] = []
    with _logging_to_stderr(), reporting():
        try:
            done.append(asyncio.run(work()))
        except KeyboardInterrupt:
            click.echo(stopped, err=True)
            sys.exit(_INTERRUPTED)
    return done[0]


@contextmanager
def _logging_to_stderr() -> Generator[None]:
    """Keep logs out of what is printed for programs, unless the application has said where they go."""
    if structlog.is_configured():
        yield
        return
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        yield
    finally:
        structlog.reset_defaults()


def confirm(question: str, *, yes: bool) -> None:
    """Ask, inside an event loop or not: there Ctrl-C would only be noticed after the answer."""
    if yes:
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if not click.confirm(printable(question), err=True):
            raise click.Abort
    finally:
        signal.signal(signal.SIGINT, before)
