"""Report: the findings of a doctor as a list for people, and as JSON for programs."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from mediator.cli.doctor.finding import Finding, Level
from mediator.printable import printable

_CREDENTIALS = re.compile(r"(?<=://)(?!\S*\*\*\*@)\S*@")
"""What a URL has before its host, unless it is redacted already."""


class Report:
    """What was found.

    Texts may repeat those of any error of the application, so what looks like credentials in a URL is left out of them.

    Args:
        findings: In the order in which they are told of.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings: Sequence[Finding] = [
            replace(each, text=_CREDENTIALS.sub("***@", each.text)) for each in findings
        ]

    def status(self, *, strict: bool = False) -> int:
        """The exit status: 1 when there is a fault, and when `strict` also when there is a warning."""
        worst = {Level.FAULT, Level.WARNING} if strict else {Level.FAULT}
        return 1 if any(finding.level in worst for finding in self.findings) else 0

    def count(self, level: Level) -> int:
        """How many findings are of a level."""
        return sum(finding.level is level for finding in self.findings)

    def as_json(self) -> str:
        """The report for programs, in ASCII."""
        summary = {level.value: self.count(level) for level in Level}
        return json.dumps({"summary": summary, "findings": [asdict(each) for each in self.findings]}, indent=2)

    def as_text(self) -> str:
        """The report for people: a line for each finding, what to do below it, and a summary."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for finding in self.findings:
            name = f"{finding.name}: " if finding.level is not Level.OK else ""
            yield f"{finding.level:<7}  {_line(finding.label)}: {name}{_line(finding.text)}"
            if finding.remedy:
                yield f"{'':<7}  -> {_line(finding.remedy)}"
        yield ""
        yield f"{_plural(self.count(Level.FAULT), 'fault')}, {_plural(self.count(Level.WARNING), 'warning')}"


def _line(text: str) -> str:
    return printable(" ".join(text.split("\n")))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
