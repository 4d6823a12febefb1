"""Errors of the wiring: of containers, their settings and their workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mediator.errors.root import MediatorError, name_of


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in the wiring: where it is, what it is, what to do.

    Attributes:
        label: Where: `container.<name>`, or the name of a message.
        subject: The name of the class concerned.
        text: What is wrong and what to do about it.
    """

    label: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.label} ({self.subject}): {self.text}" if self.subject else f"{self.label}: {self.text}"


@dataclass(eq=False, repr=False)
class ContainerValidationError(MediatorError):
    """The wiring is faulty. The text is the whole report, every problem in it."""

    problems: Sequence[Problem]

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        return "\n".join([f"{count} problem{'s' * (count != 1)} in the container:", *lines])


@dataclass(eq=False, repr=False)
class MissingExtraError(MediatorError, ModuleNotFoundError):
    """A part of the package was imported without what it needs.

    Attributes:
        module: What is not installed.
        extra: The extra that brings it.
    """

    module: str
    extra: str

    def __post_init__(self) -> None:
        self.name: str | None = self.module

    def __str__(self) -> str:
        return f"{self.module} is not installed. Install it with: pip install 'mediator[{self.extra}]'"


@dataclass(eq=False, repr=False)
class ProviderNotFoundError(MediatorError, LookupError):
    """A provider was named that the container does not have."""

    name: str
    nearest: Sequence[str] = ()

    def __str__(self) -> str:
        hint = f" Did you mean {self.nearest[0]!r}?" if self.nearest else ""
        return f"The container has no provider {self.name!r}.{hint}"


@dataclass(eq=False, repr=False)
class ContainerError(MediatorError, TypeError):
    """A container was used in a way that cannot work."""

    container: Any
    problem: str

    def __str__(self) -> str:
        return self.problem


@dataclass(eq=False, repr=False)
class SettingError(MediatorError, ValueError):
    """A setting of an adapter has a value that cannot work. Secrets in the value are redacted."""

    setting: str
    value: object
    problem: str

    def __str__(self) -> str:
        return f"The setting {self.setting}={self.value!r} cannot work: {self.problem}"


@dataclass(eq=False, repr=False)
class WorkerNotStoppedError(MediatorError, TimeoutError):
    """A worker went on in spite of being cancelled; what it uses is closed all the same."""

    worker: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"The worker {self.worker} was told to stop and did not within {self.seconds:g} s. Let its `run()` pass on "
            "CancelledError, or raise `drain_timeout` if it only needs longer."
        )


@dataclass(eq=False, repr=False)
class FailpointNotFoundError(MediatorError, LookupError):
    """A test names a failpoint that does not exist."""

    name: str
    known: Sequence[str]

    def __str__(self) -> str:
        return f"There is no failpoint {self.name!r}. There are: {', '.join(self.known)}."


@dataclass(eq=False, repr=False)
class FrozenEventsError(MediatorError, AssertionError):
    """Event classes do not agree with what was frozen of them. The text is the whole report."""

    problems: Sequence[Problem]

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        return "\n".join([f"{count} problem{'s' * (count != 1)} with frozen events:", *lines])


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
