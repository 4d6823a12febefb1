"""The `mediator` command (`mediator-uow[cli]`): runs workers, creates tables, and shows what a container is made of."""

import sys
from collections.abc import Callable
from typing import Any

from mediator.errors import MissingExtraError
from mediator.printable import escape_unknown_characters

_command: Callable[..., Any] | None
try:
    from mediator.cli.commands import cli

    _command = cli
except ModuleNotFoundError as _error:
    if _error.name != "click":
        raise
    _command = None

__all__ = ["main"]


def main() -> None:
    """Run the command and exit: 0 when it did its work, 1 when it failed, 2 when it was called wrongly."""
    if _command is None:
        print(MissingExtraError("click", "cli"), file=sys.stderr)
        sys.exit(2)
    escape_unknown_characters()
    _command(prog_name="mediator")
