"""The `mediator` command (extra `mediator-uow[cli]`): runs workers, manages tables and events, examines containers."""

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
    """Run the command, and exit with status 0 after success, 1 after a failure, or 2 after a wrong call."""
    if _command is None:
        print(MissingExtraError("click", "cli"), file=sys.stderr)
        sys.exit(2)
    escape_unknown_characters()
    _command(prog_name="mediator")
