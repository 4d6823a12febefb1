from abc import ABC
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventHandler,
    Mediator,
    Notification,
    NotificationHandler,
    Query,
    RequestHandler,
    StreamRequest,
    StreamRequestHandler,
    ValidationFailure,
    Validator,
    as_handler,
    as_sync_handler,
)

from . import Register
from .courses.messages import CourseOpened

R = TypeVar("R", bound=Command[Any])
imported = CourseOpened


@dataclass(frozen=True, slots=True)
class Enroll(Command[str]):
    name: str


@dataclass(frozen=True, slots=True)
class Enrolled(Notification):
    name: str


@dataclass(frozen=True, slots=True)
class CountStudents(Query[int]):
    pass


@dataclass(frozen=True, slots=True)
class ListStudents(StreamRequest[str]):
    pass


class Graduated(DistributedEvent):
    event_type = "school.graduated"


class NameIsThere(Validator[Enroll]):
    async def validate(self, command: Enroll) -> list[ValidationFailure]:
        return [] if command.name else [ValidationFailure("name", "is missing")]


class WritingHandler(RequestHandler[R, str], ABC):
    def __init__(self, register: Register, mediator: Mediator) -> None:
        self._register, self._mediator = register, mediator


class EnrollHandler(WritingHandler[Enroll]):
    async def handle(self, command: Enroll) -> str:
        self._register.lines.append(command.name)
        await self._mediator.publish(Enrolled(command.name))
        return command.name


@dataclass(slots=True)
class Welcome(NotificationHandler[Enrolled]):
    register: Register
    greeting: str = "Welcome"

    async def handle(self, notification: Enrolled) -> None:
        self.register.lines.append(f"{self.greeting}, {notification.name}")


@as_sync_handler
def count_students(_query: CountStudents, register: Register) -> int:
    return len(register.lines)


@as_handler
async def congratulate(notification: Enrolled, register: Register) -> None:
    register.lines.append(f"Congratulations, {notification.name}")


class ListHandler(StreamRequestHandler[ListStudents, str]):
    def __init__(self, register: Register) -> None:
        self._register = register

    async def handle(self, _request: ListStudents) -> AsyncIterator[str]:
        for line in self._register.lines:
            yield line


class Archive:
    class Handler(DistributedEventHandler[Graduated]):
        async def handle(self, event: Graduated) -> None: ...


again = EnrollHandler
