"""The report of a scenario: its progress, its figures, and the broken promises."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.scenarios.checker import Findings


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  (a program)


@dataclass
class Report:
    """The results of a scenario.

    Attributes:
        patience: The factor by which time limits are extended: 1 to test the promised times.
        show: Prints the progress.
        figures: The figures by name.
        broken: The broken promises, each a sentence.
    """

    patience: float = 1.0
    show: Callable[[str], None] = _print
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    def progress(self, text: str) -> None:
        self.show(f"[{time.monotonic() - self._started:6.1f} s] {text}")

    def figure(self, name: str, value: Any) -> None:
        self.figures[name] = round(value, 3) if isinstance(value, float) else value

    def promise(self, text: str, *, kept: bool) -> None:
        if not kept:
            self.broken.append(text)
            self.progress(f"BROKEN: {text}")

    def within(self, what: str, seconds: float | None, bound: float) -> None:
        """Check a promised time limit; a missing measurement keeps the promise."""
        self.figure(f"{what} (s)", seconds)
        self.promise(f"{what}: {seconds} s, not < {bound:g} s", kept=seconds is None or seconds < bound * self.patience)

    def findings(self, where: str, findings: Findings) -> None:
        """Check the promise that no event is lost, doubled, inverted, stuck or strange."""
        for name, number in findings.counts().items():
            self.figure(f"{name} {where}", number)
            found = getattr(findings, name)
            self.promise(f"{number} {name} {where}, such as {found[:3]}", kept=not found)

    def conclude(self, title: str, file: Path | None = None) -> int:
        """Print all, write it as JSON, and return the exit status."""
        self.figure("duration (s)", time.monotonic() - self._started)
        result: Mapping[str, Any] = {"scenario": title, "figures": self.figures, "broken": self.broken}
        if file is not None:
            file.write_text(json.dumps(result, indent=2) + "\n")
        width = max(map(len, self.figures))
        self.show("\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in self.figures.items())]))
        self.show("\n".join(f"BROKEN: {each}" for each in self.broken) or "All promises were kept.")
        return 1 if self.broken else 0
