from mediator import NotificationHandler
from tests.adapters.dependency_injector.school import Register

from .messages import CourseOpened


class Announce(NotificationHandler[CourseOpened]):
    def __init__(self, register: Register) -> None:
        self._register = register

    async def handle(self, _notification: CourseOpened) -> None:
        self._register.lines.append("A course is open")
