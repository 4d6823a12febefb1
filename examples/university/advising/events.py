"""Events that the advising application understands: its own classes, agreed with others by name and version only."""

from dataclasses import dataclass
from typing import ClassVar

from mediator import DistributedEvent


@dataclass(frozen=True, slots=True)
class StudentStatusChanged(DistributedEvent):
    event_type: ClassVar[str] = "university.student-status-changed"
    student_id: str
    status: str
