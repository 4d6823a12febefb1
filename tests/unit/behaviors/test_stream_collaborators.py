"""Streams: authorizers and validators check a stream request once, before its first item."""

from dataclasses import dataclass
from typing import Any

import pytest

from mediator import (
    AuthorizationBehavior,
    Authorizer,
    MessageContext,
    StreamRequest,
    ValidationBehavior,
    ValidationFailure,
    Validator,
)
from mediator.behaviors import StreamAuthorizationBehavior, StreamValidationBehavior
from mediator.errors import NotAuthorizedError, ValidationFailedError
from tests.unit.wiring import along, bind, streams, wire


@dataclass(frozen=True, slots=True)
class ListStudents(StreamRequest[str]):
    course: str = "logic"


@dataclass(frozen=True, slots=True)
class ListMarks(StreamRequest[int]):
    limit: int = 2

    def validate(self) -> Any:
        if self.limit < 1:
            yield ValidationFailure("limit", "is less than 1")


async def names(_request: Any) -> Any:
    for name in ("Ada", "Bob"):
        yield name


async def numbers(request: Any) -> Any:
    for number in range(request.limit):
        yield number


def never() -> Any:
    raise AssertionError("built")


class OnlyAda(Authorizer[Any]):
    def __init__(self) -> None:
        self.asked = 0

    async def authorize(self, _message: Any, context: MessageContext) -> bool:
        self.asked += 1
        return context.principal == "ada"


class CourseExists(Validator[ListStudents]):
    async def validate(self, message: ListStudents) -> list[ValidationFailure]:
        return [] if message.course == "logic" else [ValidationFailure("course", "is not taught")]


def context(principal: str | None) -> MessageContext:
    return MessageContext("1", "1", principal=principal)


async def test_an_authorized_stream_yields_all_its_items_and_is_authorized_once():
    only_ada = OnlyAda()
    mediator = wire(streams(ListStudents, names), behaviors=[StreamAuthorizationBehavior], collaborators=[only_ada])
    async with mediator.stream(ListStudents(), context=context("ada")) as items:
        assert [item async for item in items] == ["Ada", "Bob"]
    assert only_ada.asked == 1


@pytest.mark.parametrize("principal", ["eve", None])
async def test_an_unauthorized_stream_is_refused_at_its_first_step_and_nothing_is_built(principal: Any):
    handler = bind(streams(ListStudents, names), never)
    mediator = wire(handler, behaviors=[StreamAuthorizationBehavior], collaborators=[OnlyAda])
    async with mediator.stream(ListStudents(), context=context(principal)) as items:
        with pytest.raises(NotAuthorizedError) as caught:
            await anext(items)
    assert (caught.value.message, caught.value.principal) == (ListStudents(), principal)


async def test_an_invalid_stream_request_is_refused_with_all_failures_and_nothing_is_built():
    handler = bind(streams(ListStudents, names), never)
    mediator = wire(handler, behaviors=[StreamValidationBehavior], collaborators=[CourseExists])
    async with mediator.stream(ListStudents("alchemy")) as items:
        with pytest.raises(ValidationFailedError) as caught:
            await anext(items)
    assert caught.value.by_field == {"course": ["is not taught"]}


async def test_the_validate_of_a_stream_request_is_called():
    mediator = wire(streams(ListMarks, numbers), behaviors=[StreamValidationBehavior])
    async with mediator.stream(ListMarks(0)) as items:
        with pytest.raises(ValidationFailedError, match="limit"):
            await anext(items)
    async with mediator.stream(ListMarks(3)) as items:
        assert [item async for item in items] == [0, 1, 2]


async def test_a_behavior_without_collaborators_for_a_stream_is_not_in_its_pipeline():
    behaviors = [AuthorizationBehavior, ValidationBehavior, StreamAuthorizationBehavior, StreamValidationBehavior]
    mediator = wire(
        streams(ListStudents, names), streams(ListMarks, numbers), behaviors=behaviors, collaborators=[CourseExists]
    )
    described = mediator.describe(ListStudents)
    assert "StreamAuthorizationBehavior" not in described
    assert "1. StreamValidationBehavior" in described
    assert "with CourseExists" in described
    assert "1. StreamValidationBehavior" in mediator.describe(ListMarks)


async def test_an_authorized_stream_is_closed_outermost_first():
    log: list[str] = []

    async def inside(_request: Any, call_next: Any) -> Any:
        try:
            async for item in call_next():
                yield item
        finally:
            log.append("closed")

    behaviors = [StreamAuthorizationBehavior, StreamValidationBehavior, along(Any, inside)]
    mediator = wire(streams(ListStudents, names), behaviors=behaviors, collaborators=[OnlyAda, CourseExists])
    async with mediator.stream(ListStudents(), context=context("ada")) as items:
        assert await anext(items) == "Ada"
    assert log == ["closed"]


async def test_a_behavior_that_must_be_resolved_has_its_collaborators_too():
    async def resolve() -> Any:
        return StreamAuthorizationBehavior()

    behavior = bind(StreamAuthorizationBehavior, resolve)
    mediator = wire(streams(ListStudents, names), behaviors=[behavior], collaborators=[OnlyAda])
    async with mediator.stream(ListStudents()) as items:
        with pytest.raises(NotAuthorizedError):
            await anext(items)
