"""Finding: one result of a check about one part of an installation."""

import asyncio
import json
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from mediator.cli.doctor.installation import Installation
from mediator.printable import printable, shown


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    """The part is as it should be."""
    WARNING = "warning"
    """The part works, but an operator should know or change something about it."""
    FAULT = "fault"
    """The part does not work, or a guarantee does not hold."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result about one part.

    Attributes:
        name: The name of the finding, for programs: `stream-missing`.
        label: `container.<name>` of the part. The name of a stream or consumer may follow.
        remedy: What to do; empty when nothing needs to be done.
    """

    level: Level
    name: str
    label: str
    text: str
    remedy: str = ""


def ok(name: str, label: str, text: str) -> Finding:
    """Return the finding that a part is as it should be."""
    return Finding(Level.OK, name, label, text)


def warning(name: str, label: str, text: str, remedy: str) -> Finding:
    """Return the finding that an operator should know or change something."""
    return Finding(Level.WARNING, name, label, text, remedy)


def fault(name: str, label: str, text: str, remedy: str) -> Finding:
    """Return the finding that something does not work, or that a guarantee does not hold."""
    return Finding(Level.FAULT, name, label, text, remedy)


def found_or(findings: Iterable[Finding], fine: Finding) -> Iterator[Finding]:
    """Yield the findings, or `fine` when there are no findings."""
    yield from list(findings) or [fine]


class Check(ABC):
    """A check of one subject. If the check itself fails, a fault with the label `name` is reported."""

    name: str

    @abstractmethod
    def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """Yield findings, and change nothing. Parts that could not be opened are left to the check `Parts`."""


async def examine(
    installation: Installation,
    checks: Sequence[Check],
    *,
    timeout: float,  # noqa: ASYNC109  # the limit of each check
) -> list[Finding]:
    """Run checks at the same time, and return their findings in the order of the checks.

    If a check raises or takes longer than `timeout` seconds, its findings so far are kept, and a fault is added.
    """
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(_run(installation, check, timeout)) for check in checks]
    return [finding for task in running for finding in task.result()]


async def _run(installation: Installation, check: Check, seconds: float) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with asyncio.timeout(seconds):
            async for finding in check.run(installation):
                found.append(finding)  # noqa: PERF401  # a comprehension would lose the findings before a failure
    except TimeoutError:
        text = f"the check {check.name!r} took longer than {seconds:g} s"
        remedy = "Give the check more time with --timeout, or find out what does not answer."
        found.append(fault("check-timeout", check.name, text, remedy))
    except Exception as error:  # becomes a fault in the report; the other checks continue
        text = f"the check {check.name!r} failed: {type(error).__name__}: {error}"
        found.append(fault("check-failed", check.name, text, "The error says what to do."))
    return found


_CREDENTIALS = re.compile(r"(?<=://)(?!\S*\*\*\*@)\S*@")
"""The user and password in a URL, unless the password is already redacted."""
_LONGEST_TEXT = 4000


class Report:
    """The findings of all checks. Credentials in URLs are removed, since the text of an error may show them."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings: Sequence[Finding] = [_safe(each) for each in findings]

    def status(self, *, strict: bool = False) -> int:
        """Return the exit status: 1 when there is a fault or, with `strict`, a warning; otherwise 0."""
        worst = {Level.FAULT, Level.WARNING} if strict else {Level.FAULT}
        return 1 if any(finding.level in worst for finding in self.findings) else 0

    def count(self, level: Level) -> int:
        """Return the number of findings with the given level."""
        return sum(finding.level is level for finding in self.findings)

    def as_json(self) -> str:
        """Return the report as ASCII JSON."""
        summary = {level.value: self.count(level) for level in Level}
        return json.dumps({"summary": summary, "findings": [asdict(each) for each in self.findings]}, indent=2)

    def as_text(self) -> str:
        """Return the report as text: a line for each finding, its remedy on the next line, and a summary at the end."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for finding in self.findings:
            name = f"{finding.name}: " if finding.level is not Level.OK else ""
            yield f"{finding.level:<7}  {_line(finding.label)}: {name}{_line(finding.text)}"
            if finding.remedy:
                yield f"{'':<7}  -> {_line(finding.remedy)}"
        yield ""
        yield f"{_plural(self.count(Level.FAULT), 'fault')}, {_plural(self.count(Level.WARNING), 'warning')}"


def _safe(finding: Finding) -> Finding:
    text, remedy = _CREDENTIALS.sub("***@", finding.text), printable(finding.remedy, _LONGEST_TEXT)
    return replace(finding, label=shown(finding.label), text=printable(text, _LONGEST_TEXT), remedy=remedy)


def _line(text: str) -> str:
    return " ".join(text.split("\n"))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
