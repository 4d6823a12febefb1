"""Work: runs the work of a command, reports its errors, and sends questions and log lines to standard error."""

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
    """The command cannot run, because a provider is missing or ambiguous, or because a value is not valid.

    Attributes:
        text: What is wrong and what to do.
        status: The exit status: 2 for a wrong call, 1 for work that failed.
    """

    text: str
    status: int = 2

    def __str__(self) -> str:
        return self.text


TARGET = click.argument("target", metavar="MODULE:NAME")

_SETTINGS = "Let NAME be a function that makes the container with its settings."


@contextmanager
def reporting() -> Generator[None]:
    """Print an error of the library to standard error, and exit with the status of the error."""
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
STOPPED = "Stopped. Finished events stay finished, and the current event is unchanged."
JSON = click.option("--json", "machine", is_flag=True, help="Print JSON, for programs.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")


def run_work(work: Callable[[], Coroutine[Any, Any, T]], *, stopped: str = STOPPED) -> T:
    """Run a coroutine function, and return its result. Ctrl-C prints the text `stopped`, and exits with status 130."""
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
    """If the application has not configured structlog, write log lines to standard error instead of standard output."""
    if structlog.is_configured():
        yield
        return
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        yield
    finally:
        structlog.reset_defaults()


def confirm(question: str, *, yes: bool) -> None:
    """Ask a question, and abort the command unless the answer is yes. With `yes`, nothing is asked.

    The question is asked with the default SIGINT handler. With asyncio's handler, Ctrl-C would only take effect after
    the answer.
    """
    if yes:
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if not click.confirm(printable(question), err=True):
            raise click.Abort
    finally:
        signal.signal(signal.SIGINT, before)
