"""Errors in tests, and of servers that are started for tests."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.problem import Problem, report
from mediator.errors.root import MediatorError, name_of
from mediator.printable import shown_reason


@dataclass(eq=False, repr=False)
class FrozenEventsError(MediatorError, AssertionError):
    """Event classes differ from the schemas or samples that `freeze_events` stored. The text is the whole report."""

    problems: Sequence[Problem]

    def __str__(self) -> str:
        return report(self.problems, "with frozen events")


@dataclass(eq=False, repr=False)
class UnexpectedMessageError(MediatorError, AssertionError):
    """A `RecordingMediator` received a message for which the test has set no response."""

    message: object
    expected: Sequence[str]

    def __str__(self) -> str:
        known = f"It has responses for: {', '.join(self.expected)}." if self.expected else "It has no responses."
        name = name_of(type(self.message))
        return (
            f"{name} was sent, and the RecordingMediator has no response for it. {known} Set a response before the "
            f"message is sent: `mediator.expect({name}).returns(...)`."
        )


@dataclass(eq=False, repr=False)
class ServerStartError(MediatorError, RuntimeError):
    """A nats-server could not be started."""

    reason: str
    log: str = ""

    def __str__(self) -> str:
        tail = f"\nThe end of its log:\n{self.log}" if self.log else ""
        return f"nats-server did not start: {shown_reason(self.reason)}{tail}"
