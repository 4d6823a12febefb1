"""Reporting: how the library's errors leave the command line, and what every command begins with."""

import sys
from collections.abc import Generator
from contextlib import contextmanager

import click
from dependency_injector.errors import Error as ProviderError

from mediator.cli.errors import CommandError
from mediator.errors import ContainerError, ContainerValidationError, MediatorError
from mediator.printable import printable

TARGET = click.argument("target", metavar="MODULE:NAME")

_SETTINGS = "Let NAME be a function that makes the container and gives it its settings."


@contextmanager
def reporting() -> Generator[None]:
    """Turn the library's errors into their text on standard error and an exit status."""
    try:
        yield
    except (ContainerError, ContainerValidationError) as error:
        _fail(error, 2)
    except CommandError as error:
        _fail(error, error.status)
    except MediatorError as error:
        _fail(error, 1)
    except ProviderError as error:  # a setting that is missing, above all
        notes = getattr(error, "__notes__", ())
        _fail(CommandError(" ".join([f"{error}.", *notes, _SETTINGS])), 2)


def _fail(error: MediatorError, status: int) -> None:
    click.echo(printable(str(error)), err=True)
    sys.exit(status)
