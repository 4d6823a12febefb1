"""Types of streams and their handlers."""

from collections.abc import AsyncIterator
from typing import Any, assert_type

from cases.university import EnrollStudent, ListStudents, StudentEnrolled, StudentId

from mediator import (
    Concurrent,
    Mediator,
    Sender,
    Sequential,
    StreamNext,
    StreamPipelineBehavior,
    StreamRequest,
    StreamRequestHandler,
)


class List(StreamRequestHandler[ListStudents, StudentId]):
    async def handle(self, request: ListStudents) -> AsyncIterator[StudentId]:
        yield StudentId(request.course)


class Count(StreamPipelineBehavior[StreamRequest[Any], Any]):
    async def handle(self, request: StreamRequest[Any], call_next: StreamNext[Any]) -> AsyncIterator[Any]:
        async for item in call_next():
            yield item


async def consume(mediator: Mediator, sender: Sender) -> None:
    async with mediator.stream(ListStudents()) as items:
        async for item in items:
            assert_type(item, StudentId)
    async with sender.stream(ListStudents()) as items:
        assert_type(await anext(items), StudentId)


async def consume_wrongly(mediator: Mediator) -> None:
    mediator.stream(EnrollStudent("Ada"))  # error
    mediator.stream("students")  # error
    await mediator.send(ListStudents())  # error
    await mediator.publish(ListStudents())  # error
    async for _ in mediator.stream(ListStudents()):  # error
        pass


class OtherItem(StreamRequestHandler[ListStudents, StudentId]):
    async def handle(self, request: ListStudents) -> AsyncIterator[int]:  # error
        yield len(request.course)


class NotAGenerator(StreamRequestHandler[ListStudents, StudentId]):
    async def handle(self, request: ListStudents) -> list[StudentId]:  # error
        return [StudentId(request.course)]


class NoStreamRequest(StreamRequestHandler[EnrollStudent, StudentId]):  # error
    pass


async def publish(mediator: Mediator) -> None:
    await mediator.publish(StudentEnrolled(StudentId("1")), strategy=Concurrent(limit=2))
    mediator.publish_after_commit(StudentEnrolled(StudentId("1")), strategy=Sequential(on_error="collect"))
    await mediator.publish(StudentEnrolled(StudentId("1")), strategy=Concurrent)  # error
    mediator.publish_after_commit(EnrollStudent("Ada"))  # error
    Sequential(on_error="never")  # error
