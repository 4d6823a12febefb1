"""Types of handlers and behaviors."""

from typing import Any, assert_type

from cases.university import EnrollStudent, ExpelStudent, FindStudents, StudentEnrolled, StudentId, StudentStatusChanged
from dependency_injector import providers

from mediator import (
    CallNext,
    Command,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    Mediator,
    Notification,
    NotificationHandler,
    PipelineBehavior,
    RequestHandler,
    UnitOfWork,
)


class Enroll(RequestHandler[EnrollStudent, StudentId]):
    def __init__(self, mediator: Mediator) -> None:
        self._mediator = mediator

    async def handle(self, command: EnrollStudent) -> StudentId:
        await self._mediator.publish(StudentEnrolled(StudentId(command.name)))
        return StudentId(command.name)


class Find(RequestHandler[FindStudents, list[StudentId]]):
    async def handle(self, any_name_will_do: FindStudents, /) -> list[StudentId]:
        return [StudentId(any_name_will_do.name or "")]


class Expel(RequestHandler[ExpelStudent, None]):
    async def handle(self, command: ExpelStudent) -> None:
        assert_type(command.student_id, StudentId)


class Announce(NotificationHandler[StudentEnrolled]):
    async def handle(self, notification: StudentEnrolled) -> None:
        assert_type(notification.student_id, StudentId)


class Record(DistributedEventHandler[StudentStatusChanged]):
    async def handle(self, event: StudentStatusChanged) -> None:
        assert_type(event.status, str)


class Audit(PipelineBehavior[Command[Any], Any]):
    async def handle(self, command: Command[Any], call_next: CallNext[Any]) -> Any:
        return await call_next()


class Narrow(PipelineBehavior[EnrollStudent, StudentId]):
    async def handle(self, message: EnrollStudent, call_next: CallNext[StudentId]) -> StudentId:
        assert_type(await call_next(), StudentId)
        return await call_next(message)


class BillingTransaction(DistributedUnitOfWorkBehavior[EnrollStudent]):
    pass


def transaction_of_everything(unit_of_work: UnitOfWork, distributed_events: DistributedEventBroker) -> None:
    everything = DistributedUnitOfWorkBehavior(unit_of_work, distributed_events)
    assert_type(everything, DistributedUnitOfWorkBehavior[Command[Any] | Notification])
    provider = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events)
    assert_type(provider, providers.Factory[DistributedUnitOfWorkBehavior[Command[Any] | Notification]])
    assert_type(providers.Factory(BillingTransaction), providers.Factory[BillingTransaction])


class OtherMessage(RequestHandler[EnrollStudent, StudentId]):
    async def handle(self, command: ExpelStudent) -> StudentId:  # error
        return command.student_id


class OtherResult(RequestHandler[EnrollStudent, StudentId]):
    async def handle(self, command: EnrollStudent) -> int:  # error
        return len(command.name)


class NotAsynchronous(RequestHandler[EnrollStudent, StudentId]):
    def handle(self, command: EnrollStudent) -> StudentId:  # error
        return StudentId(command.name)


class OtherNotification(NotificationHandler[StudentEnrolled]):
    async def handle(self, notification: StudentStatusChanged) -> None:  # error
        assert_type(notification, StudentStatusChanged)


class NoRequest(RequestHandler[StudentEnrolled, None]):  # error
    pass


class NoNotification(NotificationHandler[EnrollStudent]):  # error
    pass


class NoEvent(DistributedEventHandler[StudentEnrolled]):  # error
    pass


class OtherBehavior(PipelineBehavior[EnrollStudent, StudentId]):
    async def handle(self, message: ExpelStudent, call_next: CallNext[StudentId]) -> StudentId:  # error
        return message.student_id


enroll = Enroll()  # error
