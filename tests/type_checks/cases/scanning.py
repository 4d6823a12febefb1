"""Types of decorated functions and of a scan."""

from collections.abc import AsyncIterator
from typing import assert_type

from cases.university import EnrollStudent, StudentEnrolled, StudentId
from dependency_injector import providers

from mediator import RequestHandler, StreamRequest, as_handler, as_sync_handler
from mediator.dependency_injector import HandlerScan


class ListStudents(StreamRequest[StudentId]):
    pass


class Enroll(RequestHandler[EnrollStudent, StudentId]):
    async def handle(self, command: EnrollStudent) -> StudentId:
        return StudentId(command.name)


@as_handler
async def enroll(command: EnrollStudent, prefix: str) -> StudentId:
    return StudentId(prefix + command.name)


@as_sync_handler
def welcome(notification: StudentEnrolled) -> None:
    assert_type(notification.student_id, StudentId)


@as_handler
async def students(_request: ListStudents, names: list[str]) -> AsyncIterator[StudentId]:
    for name in names:
        yield StudentId(name)


@as_handler  # error
async def nothing(command: int) -> None: ...


async def handled() -> None:
    assert_type(await enroll("a").handle(EnrollStudent("b")), StudentId)
    enroll()  # error


scan = HandlerScan("university.students", exclude=["university.students.old", Enroll, enroll])
assert_type(scan(), tuple[type, ...])
assert_type(scan[Enroll], providers.Factory[Enroll])
assert_type(scan[enroll], providers.Factory[RequestHandler[EnrollStudent, StudentId]])
HandlerScan(Enroll)  # error
