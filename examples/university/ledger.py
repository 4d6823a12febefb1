"""Ledger: what stands in the two databases, read from the outside; nothing before an application has created its own."""

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any


class Ledger:
    def __init__(self, enrollment: Path, advising: Path) -> None:
        self.enrollment = enrollment
        self.advising = advising

    def students(self) -> dict[int, str]:
        """The ids of the students by the numbers of their forms."""
        return dict(_rows(self.enrollment, "SELECT number, id FROM students"))

    def letters(self) -> Counter[str]:
        """How many letters each student was written: the effect of the local notification."""
        return Counter(student for (student,) in _rows(self.enrollment, "SELECT student_id FROM letters"))

    def staged(self) -> list[str]:
        """The ids of all events that were ever stored with a commit: those that wait, and those already sent."""
        query = "SELECT id FROM mediator_outbox UNION ALL SELECT id FROM mediator_outbox_archive"
        return [event_id for (event_id,) in _rows(self.enrollment, query)]

    def effects(self) -> list[tuple[str, str, str]]:
        """Event id, student and status, in the order in which they took effect in advising."""
        return _rows(self.advising, "SELECT event_id, student_id, status FROM status_changes ORDER BY id")

    def advised(self) -> Counter[str]:
        """How many advisors each student was given."""
        return Counter(student for (student,) in _rows(self.advising, "SELECT student_id FROM advisors"))

    def count_effects(self) -> int:
        """How many effects there are; none while that cannot be told, for advising is at work."""
        with contextlib.suppress(sqlite3.OperationalError):
            return sum(count for (count,) in _rows(self.advising, "SELECT count(*) FROM status_changes"))
        return 0


def _rows(file: Path, query: str) -> list[Any]:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=rw", uri=True)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if not str(error).startswith(("unable to open", "no such table")):
            raise
        return []
