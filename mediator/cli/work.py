"""Work: runs a command's work on a container, and keeps questions, logs and interruptions out of its output."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import structlog
from dependency_injector.errors import Error as ProviderError

from mediator.blocks import contextmanager
from mediator.errors import ContainerError, ContainerValidationError, MediatorError
from mediator.printable import LONGEST_REPORT, printable


@dataclass(eq=False, repr=False)
class CommandError(MediatorError):
    """The command cannot do what it was asked to do: a part is missing, there are several, or a value cannot work.

    Attributes:
        text: What is wrong and what to do.
        status: The exit status: 2 for a wrong call, 1 for work that failed.
    """

    text: str
    status: int = 2

    def __str__(self) -> str:
        return self.text


TARGET = click.argument("target", metavar="MODULE:NAME")

_SETTINGS = "Let NAME be a function that makes the container and gives it its settings."


@contextmanager
def reporting() -> Generator[None]:
    """Turn the library's errors into a text on standard error and an exit status."""
    try:
        yield
    except (ContainerError, ContainerValidationError) as error:
        _fail(error, 2)
    except CommandError as error:
        _fail(error, error.status)
    except MediatorError as error:
        _fail(error, 1)
    except BrokenPipeError:
        raise  # the reader has closed the pipe; click ends without a message
    except (OSError, UnicodeError) as error:  # a file or folder is missing, full, or not permitted
        _fail(CommandError(f"{type(error).__name__}: {error}"), 1)
    except ProviderError as error:  # in most cases, a setting is missing
        notes = getattr(error, "__notes__", ())
        _fail(CommandError(" ".join([f"{error}.", *notes, _SETTINGS])), 2)


def _fail(error: MediatorError, status: int) -> None:
    click.echo(printable(str(error), LONGEST_REPORT), err=True)
    sys.exit(status)


T = TypeVar("T")

_INTERRUPTED = 130
STOPPED = "Stopped. What was done stays done, and the event at hand is as it was."
JSON = click.option("--json", "machine", is_flag=True, help="JSON, for programs.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")


def run_work(work: Callable[[], Coroutine[Any, Any, T]], *, stopped: str = STOPPED) -> T:
    """Run the work; Ctrl-C prints the text `stopped` and exits with status 130."""
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
    """Send log lines to standard error, away from output for programs, unless the application configured logging."""
    if structlog.is_configured():
        yield
        return
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        yield
    finally:
        structlog.reset_defaults()


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation with the default SIGINT handler: in an event loop, Ctrl-C would wait for the answer."""
    if yes:
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if not click.confirm(printable(question), err=True):
            raise click.Abort
    finally:
        signal.signal(signal.SIGINT, before)
