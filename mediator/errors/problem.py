"""Problem: one fault in a report about a container or about frozen events."""

from collections.abc import Sequence
from dataclasses import dataclass


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


def report(problems: Sequence[Problem], where: str) -> str:
    """Return the problems as a numbered list under a line that counts them."""
    count = len(problems)
    lines = [f"  {number}. {problem}" for number, problem in enumerate(problems, 1)]
    return "\n".join([f"{count} problem{'s' * (count != 1)} {where}:", *lines])
