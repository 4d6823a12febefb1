"""Every error of the in-process part: what happened, with the objects, and what to do.

Each error carries its objects as attributes and renders its text from them. `docs/errors.md` has a section for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def name_of(message: object) -> str:
    """The short name of a message, a class or a label, for texts."""
    if isinstance(message, str):
        return message
    return message.__name__ if isinstance(message, type) else type(message).__name__


class MediatorError(Exception):
    """The base of every error that this library raises."""

    def __repr__(self) -> str:
        """The text rather than the objects, whose own representation may hold a payload."""
        return f"{type(self).__name__}({str(self)!r})"


@dataclass(eq=False, repr=False)
class HandlerNotFoundError(MediatorError, LookupError):
    """A request was sent that no handler handles."""

    request_type: type
    nearest: Sequence[str] = ()

    def __str__(self) -> str:
        hint = f" Did you mean {' or '.join(self.nearest)}?" if self.nearest else ""
        return (
            f"{name_of(self.request_type)} has no handler.{hint} Add a provider of a "
            f"RequestHandler[{name_of(self.request_type)}, ...] to the container."
        )


@dataclass(eq=False, repr=False)
class MessageKindError(MediatorError, TypeError):
    """Something was sent or published that is not the kind of message this method takes."""

    message: object
    method: str

    def __str__(self) -> str:
        cls = self.message if isinstance(self.message, type) else type(self.message)
        kinds = {base.__name__ for base in cls.__mro__}
        if cls is self.message:
            remedy = f"That is a class; make a message of it: `{cls.__name__}(...)`."
        elif "DistributedEvent" in kinds:
            remedy = "Add it to the DistributedEventBroker: it leaves the process after the commit."
        elif "Notification" in kinds:
            remedy = "A notification is published: `await mediator.publish(...)`."
        elif "Request" in kinds:
            remedy = "A request is sent: `await mediator.send(...)`."
        else:
            remedy = "Derive its class from Command, Query or Notification."
        return f"`{self.method}` cannot take a {cls.__name__}. {remedy}"


@dataclass(eq=False, repr=False)
class MediatorNotStartedError(MediatorError, RuntimeError):
    """The mediator was used before its container was started, or after it was stopped."""

    message: object

    def __str__(self) -> str:
        return (
            f"{name_of(self.message)} was dispatched outside the lifespan of its container. "
            "Wrap the application in `async with lifespan(container):`."
        )


class ScopeError(MediatorError, RuntimeError):
    """Something that lives in a scope was used where that scope is not running."""


@dataclass(eq=False, repr=False)
class NoScopeError(ScopeError):
    """A scoped object was asked for while nothing is being dispatched."""

    wanted: str = "a scope"

    def __str__(self) -> str:
        return (
            f"{self.wanted} was asked for, but no dispatch is running. Scoped objects exist inside `mediator.send()`, "
            "`mediator.publish()` and `async with mediator.scope():`."
        )


@dataclass(eq=False, repr=False)
class ScopeClosedError(ScopeError):
    """A scoped object was asked for after its dispatch had ended."""

    message: object

    def __str__(self) -> str:
        return (
            f"The dispatch of {name_of(self.message)} is over and its scope is closed. Is this a background task that "
            "outlived it? Send a command of its own from there, or await the task before the handler returns."
        )


@dataclass(eq=False, repr=False)
class ConcurrentDispatchError(ScopeError):
    """Two dispatches were in one scope at the same time."""

    message: object
    running: object

    def __str__(self) -> str:
        return (
            f"{name_of(self.message)} and {name_of(self.running)} would use one unit of work at the same time. Await "
            "dispatches one after the other, or give each its own with `mode=TransactionMode.NEW`."
        )


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
class WorkerNotStoppedError(MediatorError, TimeoutError):
    """A worker went on in spite of being cancelled; what it uses is closed all the same."""

    worker: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"The worker {self.worker} was told to stop and did not within {self.seconds:g} s. Let its `run()` pass on "
            "CancelledError, or raise `drain_timeout` if it only needs longer."
        )
