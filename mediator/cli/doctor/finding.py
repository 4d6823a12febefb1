"""Finding: one thing that a check has to say of one part of an installation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    """It is as it should be."""
    WARNING = "warning"
    """It works, and something about it should be known or changed."""
    FAULT = "fault"
    """It does not work, or the promise does not hold."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of one part.

    Attributes:
        level: How bad it is.
        name: Of the finding, for programs: `stream-missing`.
        label: The part: `container.<name>`, with the stream or consumer where it is about one.
        text: What is there.
        remedy: What to do; empty when nothing is to be done.
    """

    level: Level
    name: str
    label: str
    text: str
    remedy: str = ""


def ok(name: str, label: str, text: str) -> Finding:
    """A part is as it should be."""
    return Finding(Level.OK, name, label, text)


def warning(name: str, label: str, text: str, remedy: str) -> Finding:
    """Something should be known or changed."""
    return Finding(Level.WARNING, name, label, text, remedy)


def fault(name: str, label: str, text: str, remedy: str) -> Finding:
    """Something does not work, or the promise does not hold."""
    return Finding(Level.FAULT, name, label, text, remedy)


def found_or(findings: Iterable[Finding], fine: Finding) -> Iterator[Finding]:
    """The findings, or when there is none, that all is fine."""
    found = list(findings)
    yield from found or [fine]
