"""Handlers of the advising application."""

import zlib
from dataclasses import dataclass

from examples.university.advising.events import StudentStatusChanged
from examples.university.advising.tables import Advisor, StatusChange
from mediator import Command, DistributedEventHandler, Mediator, RequestHandler, current_delivery
from mediator.sqlalchemy import SqlAlchemyUnitOfWork

ADVISORS = ("Hypatia", "Leibniz", "Noether")


@dataclass(frozen=True, slots=True)
class AssignAdvisor(Command[str]):
    student_id: str


class AssignAdvisorHandler(RequestHandler[AssignAdvisor, str]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._session = unit_of_work.session

    async def handle(self, command: AssignAdvisor) -> str:
        name = ADVISORS[zlib.crc32(command.student_id.encode()) % len(ADVISORS)]
        self._session.add(Advisor(student_id=command.student_id, name=name))
        return name


class RecordStatus(DistributedEventHandler[StudentStatusChanged]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._session = unit_of_work.session

    async def handle(self, event: StudentStatusChanged) -> None:
        event_id = current_delivery().id
        self._session.add(StatusChange(event_id=event_id, student_id=event.student_id, status=event.status))


class AdviseStudent(DistributedEventHandler[StudentStatusChanged]):
    def __init__(self, mediator: Mediator) -> None:
        self._mediator = mediator

    async def handle(self, event: StudentStatusChanged) -> None:
        if event.status == "enrolled":
            await self._mediator.send(AssignAdvisor(event.student_id))  # joins the transaction of the delivery
