"""Verdict: whether a campaign did enough and had no findings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.campaign.checker import Counts

_OURS = ("SIGKILL writer", "SIGKILL relay", "SIGKILL consumer")
_PER_MINUTE = {"SIGKILLs": 13, "kills of nats-server": 1, "faults": 15, "events with effect": 500}
_RESTARTS = "restarts of PostgreSQL"
_TROUBLES = 10
"""The lower bound of each kind per minute."""


def events_needed(seconds: float) -> int:
    """Return how many events must take effect in a campaign of this duration."""
    return int(_PER_MINUTE["events with effect"] * seconds / 60)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a campaign.

    Attributes:
        counts: The findings.
        faults: The number of faults of each kind.
        seconds: Seconds for which faults happened.
        seed: The seed of the faults.
        database: `sqlite` or `postgresql`.
        troubles: The number of troubles of each kind inside of the processes.
        told: The number of senders that learned each outcome.
        wanted: The troubles that must have happened.
    """

    counts: Counts
    faults: Mapping[str, int]
    seconds: float
    seed: int
    database: str
    troubles: Mapping[str, int] = field(default_factory=dict[str, int])
    told: Mapping[str, int] = field(default_factory=dict[str, int])
    wanted: Sequence[str] = ()

    def did(self) -> dict[str, int]:
        """Return the counts for which there is a lower bound."""
        done = {
            "SIGKILLs": sum(self.faults.get(kind, 0) for kind in _OURS),
            "kills of nats-server": self.faults.get("SIGKILL nats-server", 0),
            "faults": sum(self.faults.values()),
            "events with effect": self.counts.events,
            **{name: self.troubles.get(name, 0) for name in self.wanted},
        }
        if self.database == "postgresql":
            done[_RESTARTS] = self.faults.get("restart of PostgreSQL", 0)
        return done

    def too_little(self) -> list[str]:
        """Return a sentence for each missed bound. The bounds of a shorter run are proportionally lower."""
        bounds = (*_PER_MINUTE.items(), (_RESTARTS, 1), *((name, _TROUBLES) for name in self.wanted))
        needed = {name: number * self.seconds / 60 for name, number in bounds}
        return [
            f"{number:,} {name}, and a run of {self.seconds:g} s needs {int(needed[name]):,}"
            for name, number in self.did().items()
            if number < int(needed[name])
        ]

    @property
    def status(self) -> int:
        """The exit status: 0 for a sufficient run without findings."""
        return 1 if any(self.counts.wrong().values()) or self.too_little() else 0

    def figures(self) -> dict[str, Any]:
        """The contents of the JSON file."""
        return {
            **{name: len(found) for name, found in self.counts.wrong().items()},
            "events": self.counts.events,
            "seed": self.seed,
            "faults": dict(sorted(self.faults.items())),
            "troubles": dict(sorted(self.troubles.items())),
            "told": dict(sorted(self.told.items())),
        }

    def lines(self) -> Iterator[str]:
        """The lines of the printed report."""
        happened = sorted((*self.faults.items(), *self.troubles.items()))
        width = max((len(kind) for kind, _ in happened), default=0)
        yield from (f"  {kind:<{width}} {number:>6,}" for kind, number in happened)
        yield "told: " + (", ".join(f"{number:,} {name}" for name, number in sorted(self.told.items())) or "nobody")
        yield ", ".join(f"{len(found):,} {name}" for name, found in self.counts.wrong().items())
        for name, found in self.counts.wrong().items():
            yield from (f"{name}: {each}" for each in found[:10])
        yield from (f"TOO LITTLE: {each}" for each in self.too_little())
        yield f"{self.counts.events:,} events took effect, {sum(self.faults.values()):,} faults, seed {self.seed}"
