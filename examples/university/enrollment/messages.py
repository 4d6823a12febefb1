"""Messages of the enrollment application."""

from dataclasses import dataclass
from typing import ClassVar, NewType

from mediator import Command, DistributedEvent, Notification, Query

StudentId = NewType("StudentId", str)


@dataclass(frozen=True, slots=True)
class EnrollStudent(Command[StudentId]):
    number: int  # of the application form: a command that may be sent again needs an identity of its own
    name: str
    programme: str = "mathematics"
    fee_paid: bool = True


@dataclass(frozen=True, slots=True)
class FindStudent(Query[StudentId | None]):
    number: int


@dataclass(frozen=True, slots=True)
class StudentEnrolled(Notification):  # local: in this process, in this transaction
    student_id: StudentId
    name: str


@dataclass(frozen=True, slots=True)
class StudentStatusChanged(DistributedEvent):  # leaves the process, after the commit
    event_type: ClassVar[str] = "university.student-status-changed"
    student_id: str
    status: str
    remark: str = ""

    @property
    def partition_key(self) -> str:  # order is kept per student
        return self.student_id
