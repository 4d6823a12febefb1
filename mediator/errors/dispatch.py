"""Errors of a dispatch: what was sent cannot be taken, or the scope it belongs to is not running."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.root import MediatorError, name_of


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
