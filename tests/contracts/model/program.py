"""Program: a random tree of dispatches, with the actions of its handlers and behaviors."""

import asyncio
import enum
from dataclasses import dataclass, field
from typing import Any, Protocol

from mediator import Command, Concurrent, Notification, Query, Sequential, TransactionMode
from mediator.errors import AfterCommitError, CommittedError, MisuseError, RolledBackError
from mediator.strategies import PublishStrategy

STRATEGIES = (Sequential(), Sequential(on_error="collect"), Concurrent(), Concurrent(limit=1))


class ScriptedError(Exception):
    """The error that a handler or a behavior of a program raises."""


class Kind(enum.Enum):
    """The action of a behavior."""

    PASS = "pass"
    SLEEP = "sleep"
    SHORT = "short-circuit"
    REPLACE = "replace"
    RETRY = "retry"
    TWICE = "twice"
    RAISE_BEFORE = "raise before"
    RAISE_AFTER = "raise after"
    SWALLOW = "swallow"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Behavior:
    """The action of a behavior for one message.

    Attributes:
        instead: The message that a replacing behavior passes on.
    """

    kind: Kind = Kind.PASS
    instead: Any = None


@dataclass(frozen=True)
class Work:
    """The actions of one handler and, for a notification, of the behavior around it."""

    label: str
    steps: tuple["Step", ...] = ()
    around: Behavior = Behavior()


@dataclass(frozen=True, eq=False)
class Scripted:
    """A message that contains the actions of its behaviors and handlers."""

    label: str
    works: tuple[Work, ...] = field(repr=False)
    outside: Behavior = Behavior()
    inside: Behavior = Behavior()
    strategy: PublishStrategy = STRATEGIES[0]


class Act(Scripted, Command[str]):
    pass


class Ask(Scripted, Query[str]):
    pass


class Unheard(Scripted, Notification):
    pass


class HeardOnce(Scripted, Notification):
    pass


class HeardTwice(Scripted, Notification):
    pass


NOTIFICATIONS = (Unheard, HeardOnce, HeardTwice)


@dataclass(frozen=True)
class Dispatch:
    """Send or publish a message; `forgiving` catches the error."""

    message: Any
    mode: TransactionMode = TransactionMode.DEFAULT
    forgiving: bool = False


@dataclass(frozen=True)
class AfterCommit:
    """Publish a notification after the commit."""

    message: Any


@dataclass(frozen=True)
class Write:
    """Write a row and add an event, if a transaction runs."""

    label: str


@dataclass(frozen=True)
class Fail:
    """Raise an error."""

    label: str


class Simple(enum.Enum):
    """Steps without parameters."""

    PAUSE = "pause"
    CANCEL = "have the running task cancelled"
    RAISE_CANCELLED = "raise what a cancelled task raises"


Step = Dispatch | AfterCommit | Write | Fail | Simple


class World(Protocol):
    """The interface to the mediator or to its model."""

    def note(self, text: str) -> None: ...
    async def cancel(self) -> None: ...
    async def dispatch(self, message: Any, mode: TransactionMode) -> Any: ...
    def after_commit(self, message: Any) -> bool: ...
    def write(self, label: str) -> bool: ...


async def perform(world: World, work: Work) -> str:
    """Do the steps of a handler."""
    world.note(f"{work.label} begins")
    for step in work.steps:
        match step:
            case Dispatch():
                await _dispatch(world, work, step)
            case AfterCommit(message):
                world.note(f"{work.label} waits with {message.label}: {world.after_commit(message)}")
            case Write(label):
                world.note(f"{work.label} writes {label}: {world.write(label)}")
            case Fail(label):
                raise ScriptedError(label)
            case Simple.PAUSE:
                await asyncio.sleep(0)
            case Simple.CANCEL:
                await world.cancel()
            case Simple.RAISE_CANCELLED:
                raise asyncio.CancelledError
    world.note(f"{work.label} ends")
    return work.label


async def _dispatch(world: World, work: Work, step: Dispatch) -> None:
    try:
        response = await world.dispatch(step.message, step.mode)
    except Exception as error:
        world.note(f"{work.label} gets {shape(error)}")
        if not step.forgiving:
            raise
    else:
        world.note(f"{work.label} gets {response}")


async def behave(note: Any, behavior: Behavior, place: str, call_next: Any) -> Any:
    """Do the action of a behavior."""
    note(f"{place} begins")
    match behavior.kind:
        case Kind.SHORT:
            return f"short of {place}"
        case Kind.RAISE_BEFORE:
            raise ScriptedError(place)
        case Kind.CANCELLED:
            raise asyncio.CancelledError
        case Kind.REPLACE:
            response = await call_next(behavior.instead)
        case Kind.RETRY | Kind.SWALLOW:
            try:
                response = await call_next()
            except Exception as error:
                note(f"{place} gets {shape(error)}")
                response = await call_next() if behavior.kind is Kind.RETRY else f"instead of {place}"
        case _:
            if behavior.kind in (Kind.TWICE, Kind.SLEEP):
                await (call_next() if behavior.kind is Kind.TWICE else asyncio.sleep(0))
            response = await call_next()
    if behavior.kind is Kind.RAISE_AFTER:
        raise ScriptedError(place)
    note(f"{place} ends")
    return response


def shape(error: BaseException) -> str:
    """Return the comparable parts of an error."""
    match error:
        case AfterCommitError():
            return f"after the commit: {[shape(each) for each in error.errors]}"
        case CommittedError(__cause__=BaseException() as cause):
            return f"committed, and then {shape(cause)}"
        case RolledBackError():
            return f"rolled back: {shape(error.cause)}"
        case BaseExceptionGroup():
            return f"group of {[shape(each) for each in error.exceptions]}"
        case ScriptedError():
            return f"failure of {error}"
        case MisuseError() | asyncio.CancelledError():
            return type(error).__name__
    raise error
