"""The subcommands of `mediator outbox`."""

from mediator.cli.outbox.commands import outbox

__all__ = ["outbox"]
