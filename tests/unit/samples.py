"""Messages that the unit tests send and publish."""

from dataclasses import dataclass
from typing import Any

from mediator import Command, Notification, Query


@dataclass(frozen=True, slots=True)
class EnrollStudent(Command[str]):
    name: str = "Ada"


@dataclass(frozen=True, slots=True)
class ExpelStudent(Command[None]):
    name: str = "Ada"


@dataclass(frozen=True, slots=True)
class CountStudents(Query[int]):
    pass


@dataclass(frozen=True, slots=True)
class StudentChanged(Notification):
    name: str = "Ada"


@dataclass(frozen=True, slots=True)
class StudentEnrolled(StudentChanged):
    pass


async def answer_name(message: Any) -> str:
    return message.name


async def answer_none(message: Any) -> None:
    return None
