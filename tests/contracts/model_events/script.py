"""Script: the steps of a random command, which adds events, sends inner commands and may fail."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from mediator import Command, TransactionMode

KEYS = ("red", "green", None)


class ScriptedError(Exception):
    """The error of a command that fails."""


@dataclass(frozen=True)
class Add:
    """Write a row and add an event, with the same number.

    Attributes:
        delay: The seconds until the event is due; `None` means at once.
    """

    key: str | None
    delay: float | None = None
    number: int = 0


@dataclass(frozen=True)
class Send:
    """Send a command; `forgiving` catches its error."""

    command: "Do"
    mode: TransactionMode
    forgiving: bool


@dataclass(frozen=True, eq=False)
class Do(Command[None]):
    """Do the steps, and then fail if `fails` is set."""

    steps: tuple["Add | Send", ...]
    fails: bool = False


def numbered(command: Do, numbers: Iterator[int]) -> Do:
    """Return the same command with a unique number for each event."""
    steps: list[Any] = [
        replace(step, number=next(numbers))
        if isinstance(step, Add)
        else replace(step, command=numbered(step.command, numbers))
        for step in command.steps
    ]
    return Do(tuple(steps), command.fails)


def adds(command: Do) -> Iterator[Add]:
    """Yield every event that a command and its inner commands may add."""
    for step in command.steps:
        yield from (step,) if isinstance(step, Add) else adds(step.command)


_adds = st.builds(Add, st.sampled_from(KEYS), st.one_of(st.none(), st.none(), st.sampled_from((5.0, 50.0))))
_fails = st.sampled_from((False, False, False, True))


def _sends(commands: st.SearchStrategy[Do], *modes: TransactionMode) -> st.SearchStrategy[Send]:
    return st.builds(Send, commands, st.sampled_from(modes), st.booleans())


def _commands(steps: st.SearchStrategy[Any]) -> st.SearchStrategy[Do]:
    return st.builds(Do, st.lists(steps, min_size=1, max_size=3).map(tuple), _fails)


_inner = _commands(_adds)
_joined = _commands(st.one_of(_adds, _adds, _sends(_inner, TransactionMode.DEFAULT, TransactionMode.NESTED)))
_separate = st.lists(_sends(_joined, TransactionMode.NEW), max_size=1).map(tuple)

commands: st.SearchStrategy[Do] = st.builds(
    lambda first, command: Do(first + command.steps, command.fails), _separate, _joined
)
"""Commands with their own transaction come first, because later the outer command may be SQLite's only writer."""


def numbers() -> Iterator[int]:
    return itertools.count(1)
