"""Errors of a dispatch: what was sent cannot be taken, or the scope it belongs to is not running."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.circle import circle_in, shown
from mediator.errors.root import MediatorError, name_of


@dataclass(eq=False, repr=False)
class HandlerNotFoundError(MediatorError, LookupError):
    """A request was sent that no handler handles."""

    request_type: type
    nearest: Sequence[str] = ()

    def __str__(self) -> str:
        hint = f" Did you mean {' or '.join(self.nearest)}?" if self.nearest else ""
        streamed = any(base.__name__ == "StreamRequest" for base in self.request_type.__mro__)
        kind = "StreamRequestHandler" if streamed else "RequestHandler"
        return (
            f"{name_of(self.request_type)} has no handler.{hint} Add a provider of a "
            f"{kind}[{name_of(self.request_type)}, ...] to the container."
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
        elif "StreamRequest" in kinds:
            remedy = "A stream is opened: `async with mediator.stream(...) as items:`."
        elif "Request" in kinds:
            remedy = "A request is sent: `await mediator.send(...)`."
        else:
            remedy = "Derive its class from Command, Query or Notification."
        return f"`{self.method}` cannot take a {cls.__name__}. {remedy}"


@dataclass(eq=False, repr=False)
class MessageDeclarationError(MediatorError, TypeError):
    """A class of messages is of several kinds, each of which is dispatched in another way."""

    message_type: type
    kinds: Sequence[str]

    def __str__(self) -> str:
        return (
            f"{name_of(self.message_type)} is a {' and a '.join(self.kinds)}, each of which is dispatched in another way. "
            "Derive it from one of them, and make another class for the other."
        )


@dataclass(eq=False, repr=False)
class MediatorNotStartedError(MediatorError, RuntimeError):
    """The mediator was used before its container was started, or after it was stopped."""

    message: object

    def __str__(self) -> str:
        return (
            f"{name_of(self.message)} was dispatched outside the lifespan of its container. "
            "Wrap the application in `async with lifespan(container):`."
        )


@dataclass(eq=False, repr=False)
class ContextError(MediatorError, ValueError):
    """A context was given a value that it cannot have. The text shows no value: it may be a secret, or forge a line."""

    field: str
    problem: str

    def __str__(self) -> str:
        return (
            f"In a message context, {self.field} {self.problem}. Ids, principal and tenant have 1 to 255 printable "
            "characters; headers are few and short texts. Put what is larger into the message."
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


@dataclass(eq=False, repr=False)
class CallNextError(MediatorError, RuntimeError):
    """A behavior called on after its `handle` had returned, or returned while what is inside was running."""

    message: object
    behavior: str
    running: bool = False

    def __str__(self) -> str:
        if self.running:
            return (
                f"{self.behavior} returned before what it went on with for {name_of(self.message)} had ended, in a task "
                "that was not awaited. Await the task inside `handle`, also one that was cancelled."
            )
        return (
            f"`call_next` was called for {name_of(self.message)} after {self.behavior} had ended, when the response was "
            "given already. Await it inside `handle`; is this a task that was not awaited there?"
        )


@dataclass(eq=False, repr=False)
class ReplacementError(MediatorError, TypeError):
    """A behavior went on with a message of another class than the one it was given."""

    message: object
    replacement: object

    def __str__(self) -> str:
        name = name_of(self.message)
        return (
            f"`call_next` was given a {name_of(self.replacement)} in place of a {name}, and what lies inside was chosen for "
            f"{name}. Pass on a {name} (or one derived from it), or `await mediator.send(...)` the other message."
        )


@dataclass(eq=False, repr=False)
class NotAwaitedError(MediatorError, TypeError):
    """A behavior or a handler did not await what it called, which is a coroutine and has not run."""

    message: object
    coroutine: str

    def __str__(self) -> str:
        return (
            f"What {name_of(self.message)} came to is the coroutine {self.coroutine}, which nobody awaited, so it has not "
            "run. Write `await call_next()` in a behavior, and `await` before what a handler calls."
        )


@dataclass(eq=False, repr=False)
class DispatchDepthError(MediatorError, RecursionError):
    """Dispatches are nested too deeply, most likely because they cause each other in a circle.

    Attributes:
        limit: The `max_depth` of the mediator.
        path: The messages that run, outermost first.
    """

    limit: int
    path: Sequence[object]

    @property
    def cycle(self) -> Sequence[str]:
        """The names of the messages that cause each other, once each; empty when there is no circle."""
        return circle_in(self.path)

    def __str__(self) -> str:
        return (
            f"{len(self.path)} dispatches are nested, more than max_depth ({self.limit}): {shown(self.path)}. "
            + ("They cause each other without end. Break the circle" if self.cycle else "Nest less deeply")
            + ", or raise `max_depth` of the mediator."
        )


@dataclass(eq=False, repr=False)
class ConcurrentPublishError(MediatorError, RuntimeError):
    """Handlers were to run in transactions of their own while the one they depend on has not committed."""

    notification: object

    def __str__(self) -> str:
        return (
            f"{name_of(self.notification)} cannot be published with this strategy inside a unit of work: each handler would "
            "commit by itself, although the unit of work may still roll back. Use `mediator.publish_after_commit(...)`, or "
            "`strategy=Sequential()`."
        )


@dataclass(eq=False, repr=False)
class NotAStreamError(MediatorError, TypeError):
    """What handles a stream request, or a behavior around it, gave something that cannot be iterated."""

    message: object
    given: object

    def __str__(self) -> str:
        return (
            f"The stream of {name_of(self.message)} got a {name_of(self.given)} where it needs an async iterator. Write "
            "`async def handle(...)` with `yield` in it; and iterate over `call_next()`, which is not awaited."
        )


@dataclass(eq=False, repr=False)
class StreamNotOpenError(MediatorError, RuntimeError):
    """A stream was iterated before it was opened, or after it was closed, or opened again while it was open."""

    message: object
    already_open: bool = False

    def __str__(self) -> str:
        name = name_of(self.message)
        if self.already_open:
            return f"The stream of {name} is open already. Each `async with` needs a `mediator.stream(...)` of its own."
        return f"The stream of {name} is not open. Iterate inside `async with mediator.stream({name}(...)) as items:`."


@dataclass(eq=False, repr=False)
class BlockingCallError(MediatorError, RuntimeError):
    """A blocking call was made where it would wait for itself."""

    message: object

    def __str__(self) -> str:
        return (
            f"A blocking call with {name_of(self.message)} was made inside a dispatch, or in the thread of the event loop, "
            "which would wait for ever. There, await the mediator itself: `await mediator.send(...)`."
        )
