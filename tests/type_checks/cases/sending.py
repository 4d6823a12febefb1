"""Types of the arguments and the result of `send`."""

from typing import assert_type

from cases.university import EnrollStudent, ExpelStudent, FindStudents, StudentEnrolled, StudentId, StudentStatusChanged

from mediator import Command, Mediator, Query, Request, Sender, TransactionMode


async def responses(mediator: Mediator, sender: Sender) -> None:
    assert_type(await mediator.send(EnrollStudent("Ada")), StudentId)
    assert_type(await mediator.send(EnrollStudent("Ada"), mode=TransactionMode.NEW), StudentId)
    assert_type(await mediator.send(FindStudents()), list[StudentId])
    assert_type(await sender.send(EnrollStudent("Ada")), StudentId)
    await mediator.send(ExpelStudent(StudentId("s-1")))


async def generic(mediator: Mediator, command: Command[int], query: Query[str], request: Request[bytes]) -> None:
    assert_type(await mediator.send(command), int)
    assert_type(await mediator.send(query), str)
    assert_type(await mediator.send(request), bytes)


def parts(mediator: Mediator) -> Sender:
    return mediator


async def mistakes(mediator: Mediator) -> None:
    await mediator.send("EnrollStudent")  # error
    await mediator.send(EnrollStudent)  # error
    await mediator.send(StudentEnrolled(StudentId("s-1")))  # error
    await mediator.send(StudentStatusChanged("s-1", "enrolled"))  # error
    await mediator.send(EnrollStudent("Ada"), TransactionMode.NEW)  # error
    await mediator.send(EnrollStudent("Ada"), mode="new")  # error
    number: int = await mediator.send(EnrollStudent("Ada"))  # error
    number += 1
