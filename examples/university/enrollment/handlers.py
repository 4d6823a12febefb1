"""Handlers of the enrollment application."""

import uuid

from sqlalchemy import select

from examples.university.enrollment.messages import (
    EnrollStudent,
    FindStudent,
    StudentEnrolled,
    StudentId,
    StudentStatusChanged,
)
from examples.university.enrollment.tables import Letter, Student
from mediator import DistributedEventBroker, Mediator, NotificationHandler, RequestHandler
from mediator.sqlalchemy import SqlAlchemyUnitOfWork


class FeeNotPaidError(Exception):
    """The fee of a student is missing."""


class StudentRepository:
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._session = unit_of_work.session

    async def add(self, command: EnrollStudent) -> StudentId:
        student_id = StudentId(str(uuid.uuid4()))
        self._session.add(Student(id=student_id, number=command.number, name=command.name, programme=command.programme))
        await self._session.flush()
        return student_id

    async def find(self, number: int) -> StudentId | None:
        found = await self._session.scalar(select(Student.id).where(Student.number == number))
        return StudentId(found) if found else None


class EnrollStudentHandler(RequestHandler[EnrollStudent, StudentId]):
    def __init__(
        self, students: StudentRepository, distributed_events: DistributedEventBroker, mediator: Mediator
    ) -> None:
        self._students = students
        self._distributed_events = distributed_events
        self._mediator = mediator

    async def handle(self, command: EnrollStudent) -> StudentId:
        student_id = await self._students.add(command)
        self._distributed_events.add(StudentStatusChanged(student_id, "applied"))
        await self._mediator.publish(StudentEnrolled(student_id, command.name))  # same scope, same transaction
        if not command.fee_paid:
            # By now there are a row, a letter and two events. None of them outlives this error.
            raise FeeNotPaidError(f"application {command.number}")
        return student_id


class FindStudentHandler(RequestHandler[FindStudent, StudentId | None]):
    def __init__(self, students: StudentRepository) -> None:
        self._students = students

    async def handle(self, query: FindStudent) -> StudentId | None:
        return await self._students.find(query.number)


class WriteLetter(NotificationHandler[StudentEnrolled]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._session = unit_of_work.session

    async def handle(self, notification: StudentEnrolled) -> None:
        self._session.add(Letter(student_id=notification.student_id, text=f"Welcome, {notification.name[:40]}!"))


class AnnounceEnrollment(NotificationHandler[StudentEnrolled]):
    def __init__(self, distributed_events: DistributedEventBroker) -> None:
        self._distributed_events = distributed_events

    async def handle(self, notification: StudentEnrolled) -> None:
        event = StudentStatusChanged(notification.student_id, "enrolled", remark=notification.name)
        self._distributed_events.add(event)
