"""Audit: adds up what was sent, committed, stored, delivered and done, and finds what does not agree."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

STATUSES = ["applied", "enrolled"]


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that can be known from the outside once all is over."""

    commands: int
    reports: dict[int, str]
    students: dict[int, str]
    letters: Counter[str]
    staged: list[str]
    stored: list[str]
    effects: list[tuple[str, str, str]]
    advised: Counter[str]


@dataclass(slots=True)
class Audit:
    """The figures, and in words what is wrong with them."""

    figures: dict[str, int]
    problems: list[str] = field(default_factory=list[str])

    @property
    def adds_up(self) -> bool:
        return not self.problems

    def show(self, console: Console) -> None:
        table = Table(box=box.SIMPLE, show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for name, figure in self.figures.items():
            table.add_row(name, str(figure))
        console.print(table)
        for problem in self.problems:
            console.print(f"WRONG: {problem}", markup=False, soft_wrap=True)
        if self.adds_up:
            console.print("It adds up: every committed command took effect exactly once, and no other did.")


def audit(records: Records) -> Audit:
    outcomes = Counter(records.reports.values())
    effect_ids = [event_id for event_id, _, _ in records.effects]
    result = Audit(
        {
            "commands sent": len(records.reports),
            "committed": outcomes["committed"],
            "rolled back": outcomes["rolled back"],
            "events staged": len(records.staged),
            "events in the stream": len(set(records.stored)),
            "effects in advising": len(set(effect_ids)),
            "duplicates": len(effect_ids) - len(set(effect_ids)),
        }
    )
    result.problems += _problems(records, result.figures, set(effect_ids))
    return result


def _problems(records: Records, figures: dict[str, int], effects: set[str]) -> Iterable[str]:
    committed = {number for number, outcome in records.reports.items() if outcome == "committed"}
    students = set(records.students.values())
    if len(records.reports) != records.commands or figures["committed"] + figures["rolled back"] != records.commands:
        yield f"of {records.commands} commands, {len(records.reports)} have a known outcome"
    if committed != records.students.keys():
        yield f"students differ from what was reported committed: {sorted(committed ^ records.students.keys())}"
    if len(records.staged) != len(STATUSES) * len(committed):
        yield f"{len(records.staged)} events were staged by {len(committed)} commits of {len(STATUSES)} events each"
    if set(records.staged) != set(records.stored):
        yield f"{len(set(records.staged) ^ set(records.stored))} events are in the outbox or in the stream, not in both"
    if effects != set(records.stored):
        yield f"{len(effects ^ set(records.stored))} events are in the stream or in advising, not in both"
    if figures["duplicates"]:
        yield f"{figures['duplicates']} effects happened more than once"
    yield from _problems_of_students(records, students)


def _problems_of_students(records: Records, students: set[str]) -> Iterable[str]:
    statuses: dict[str, list[str]] = {student: [] for student in students}
    for _, student, status in records.effects:
        statuses.setdefault(student, []).append(status)
    if strangers := statuses.keys() - students:
        yield f"advising knows {len(strangers)} students whose command was rolled back"
    if wrong := [student for student in students if sorted(statuses[student]) != STATUSES]:
        yield f"{len(wrong)} students have other effects in advising than their two events"
    if records.letters != Counter(students):
        yield "not every student was written exactly one letter (the local notification)"
    if records.advised != Counter(students):
        yield "not every student has exactly one advisor"
