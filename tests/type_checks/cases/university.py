"""The messages of the cases in this folder."""

from dataclasses import dataclass
from typing import ClassVar, NewType

from mediator import Command, DistributedEvent, Notification, Query, StreamRequest

StudentId = NewType("StudentId", str)


@dataclass(frozen=True, slots=True)
class EnrollStudent(Command[StudentId]):
    name: str


@dataclass(frozen=True, slots=True)
class ExpelStudent(Command[None]):
    student_id: StudentId


@dataclass(frozen=True, slots=True)
class FindStudents(Query[list[StudentId]]):
    name: str | None = None


@dataclass(frozen=True, slots=True)
class StudentEnrolled(Notification):
    student_id: StudentId


@dataclass(frozen=True, slots=True)
class StudentStatusChanged(DistributedEvent):
    event_type: ClassVar[str] = "university.student-status-changed"
    event_version: ClassVar[int] = 1
    student_id: str
    status: str

    @property
    def partition_key(self) -> str:
        return self.student_id


@dataclass(frozen=True, slots=True)
class ListStudents(StreamRequest[StudentId]):
    course: str = ""
