"""Errors of tests, and of servers that are started for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.problem import Problem, report
from mediator.errors.root import MediatorError, name_of
from mediator.printable import shown_reason


@dataclass(eq=False, repr=False)
class FrozenEventsError(MediatorError, AssertionError):
    """Event classes do not agree with what was frozen of them. The text is the whole report."""

    problems: Sequence[Problem]

    def __str__(self) -> str:
        return report(self.problems, "with frozen events")


@dataclass(eq=False, repr=False)
class UnexpectedMessageError(MediatorError, AssertionError):
    """A message reached a `RecordingMediator` that the test had not told what to answer."""

    message: object
    expected: Sequence[str]

    def __str__(self) -> str:
        known = (
            f"It knows the answers to: {', '.join(self.expected)}." if self.expected else "It knows no answer at all."
        )
        name = name_of(type(self.message))
        return (
            f"{name} was sent, and the RecordingMediator was not told what to answer. {known} Say it first: "
            f"`mediator.expect({name}).returns(...)`."
        )


@dataclass(eq=False, repr=False)
class ServerStartError(MediatorError, RuntimeError):
    """A nats-server could not be started."""

    reason: str
    log: str = ""

    def __str__(self) -> str:
        tail = f"\nThe end of its log:\n{self.log}" if self.log else ""
        return f"nats-server did not start: {shown_reason(self.reason)}{tail}"
