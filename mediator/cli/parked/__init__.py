"""The subcommands of `mediator parked`."""

from mediator.cli.parked.commands import parked

__all__ = ["parked"]
