"""CommandError: what the `mediator` command says before it exits, and with which status."""

from dataclasses import dataclass

from mediator.errors import MediatorError


@dataclass(eq=False, repr=False)
class CommandError(MediatorError):
    """The command cannot do what it was asked to.

    Attributes:
        text: What is wrong and what to do.
        status: The exit status: 2 for a wrong call, 1 for work that failed.
    """

    text: str
    status: int = 2

    def __str__(self) -> str:
        return self.text
