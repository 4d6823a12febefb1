"""Problem: one fault in a report about a container or about frozen events."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in the wiring of a container, or in frozen events (stored schemas and samples of event classes).

    Attributes:
        label: The place of the fault: `container.<name>`, or the name of a message.
        subject: The name of the class; empty when there is none.
        text: What is wrong and what to do.
    """

    label: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.label} ({self.subject}): {self.text}" if self.subject else f"{self.label}: {self.text}"


def report(problems: Sequence[Problem], where: str) -> str:
    """Return a numbered list of the problems. The first line says how many problems there are."""
    count = len(problems)
    lines = [f"  {number}. {problem}" for number, problem in enumerate(problems, 1)]
    return "\n".join([f"{count} problem{'s' * (count != 1)} {where}:", *lines])
