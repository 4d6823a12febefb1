"""The `mediator` command (the `cli` extra): runs workers, creates tables, and shows what a container is made of."""

import sys

try:
    from mediator.cli.commands import cli
except ModuleNotFoundError as error:
    if error.name != "click":
        raise
    cli = None

__all__ = ["main"]


def main() -> None:
    """Run the command and exit: 0 when it did its work, 1 when it failed, 2 when it was called wrongly."""
    if cli is None:
        sys.exit("The mediator command needs click. Install it with: pip install 'mediator[cli]'")
    cli(prog_name="mediator")
