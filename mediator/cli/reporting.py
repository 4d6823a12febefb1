"""Reporting: how the library's errors leave the command line, and what every command begins with."""

import sys
from collections.abc import Generator
from contextlib import contextmanager

import click

from mediator.cli.errors import CommandError, printable
from mediator.errors import ContainerError, ContainerValidationError, MediatorError

TARGET = click.argument("target", metavar="MODULE:NAME")


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


def _fail(error: MediatorError, status: int) -> None:
    click.echo(printable(str(error)), err=True)
    sys.exit(status)
