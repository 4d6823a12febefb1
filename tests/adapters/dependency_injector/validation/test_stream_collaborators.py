"""Collaborators of streams are reported if no listed behavior would call them for streams."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from dependency_injector import containers, providers

from mediator import (
    AuthorizationBehavior,
    Authorizer,
    Command,
    MessageContext,
    RequestHandler,
    StreamRequest,
    StreamRequestHandler,
    ValidationBehavior,
    ValidationFailure,
    Validator,
)
from mediator.behaviors import (
    RequestPreProcessor,
    RequestPreProcessorBehavior,
    StreamAuthorizationBehavior,
    StreamValidationBehavior,
)
from mediator.dependency_injector import MediatorProvider, lifespan, validate
from mediator.errors import ContainerValidationError, NotAuthorizedError


@dataclass(frozen=True, slots=True)
class Pay(Command[int]):
    amount: int = 1


@dataclass(frozen=True, slots=True)
class ListPayments(StreamRequest[int]):
    limit: int = 1

    def validate(self) -> Any:
        if self.limit < 1:
            yield ValidationFailure("limit", "is less than 1")


class PayHandler(RequestHandler[Pay, int]):
    async def handle(self, command: Pay) -> int:
        return command.amount


class ListPaymentsHandler(StreamRequestHandler[ListPayments, int]):
    async def handle(self, request: ListPayments) -> AsyncIterator[int]:
        yield request.limit


def authorizer(of: Any) -> Any:
    class Nobody(Authorizer[of]):  # type: ignore[valid-type]  # whatever the test is about
        async def authorize(self, _message: Any, _context: MessageContext) -> bool:
            return False

    return Nobody


class Watch(RequestPreProcessor[Any]):
    async def process(self, _request: Any) -> None: ...


class LimitIsSmall(Validator[ListPayments]):
    async def validate(self, _message: ListPayments) -> list[ValidationFailure]:
        return []


def payments(behaviors: list[Any], **more: Any) -> Any:
    container: Any = containers.DynamicContainer()
    container.mediator = MediatorProvider(behaviors=providers.List(*map(providers.Factory, behaviors)))
    for name, cls in {"pay": PayHandler, "list_payments": ListPaymentsHandler, **more}.items():
        setattr(container, name, providers.Factory(cls))
    return container


def problems(behaviors: list[Any], **more: Any) -> list[tuple[str, str]]:
    try:
        validate(payments(behaviors, **more))
    except ContainerValidationError as error:
        return [(each.label, each.text) for each in error.problems]
    return []


@pytest.mark.parametrize("of", [Any, ListPayments, StreamRequest[Any], Pay | ListPayments])
def test_an_authorizer_of_a_stream_needs_a_behavior_that_authorizes_streams(of: Any):
    ((label, text),) = problems([AuthorizationBehavior, StreamValidationBehavior], nobody=authorizer(of))
    assert label == "container.nobody"
    assert "is for the stream request " in text
    assert "Put a StreamAuthorizationBehavior into the list." in text
    assert problems([AuthorizationBehavior, StreamAuthorizationBehavior], nobody=authorizer(of)) == []


@pytest.mark.parametrize("of", [Any, Pay, Pay | ListPayments])
def test_an_authorizer_of_streams_and_other_messages_needs_a_behavior_for_each(of: Any):
    ((_, text),) = problems([StreamAuthorizationBehavior], nobody=authorizer(of))
    assert (
        text == "is a Authorizer that would never be called, because no behavior in the list works with a Authorizer."
    )


def test_an_authorizer_of_streams_only_needs_no_other_behavior():
    assert problems([StreamAuthorizationBehavior], nobody=authorizer(ListPayments)) == []


def test_a_validator_of_a_stream_request_needs_a_behavior_that_validates_streams():
    texts = [text for _, text in problems([ValidationBehavior], small=LimitIsSmall)]
    assert any("Put a StreamValidationBehavior into the list." in text for text in texts)
    assert problems([StreamValidationBehavior], small=LimitIsSmall) == []


def test_a_stream_request_that_validates_itself_is_found_if_no_behavior_validates_streams():
    ((label, text),) = problems([ValidationBehavior])
    assert label == "container.list_payments"
    assert text.startswith("handles ListPayments, whose `validate()` would never be called")
    assert problems([]) == []
    assert problems([ValidationBehavior, StreamValidationBehavior]) == []


def test_a_collaborator_for_any_request_needs_no_behavior_for_streams():
    assert problems([RequestPreProcessorBehavior], watch=Watch) == []


def test_validation_of_a_stream_outside_its_authorization_is_found():
    behaviors = [StreamValidationBehavior, StreamAuthorizationBehavior]
    ((label, text),) = problems(behaviors, nobody=authorizer(ListPayments))
    assert label == "container: behavior 1"
    assert "stands outside the authorization in the pipeline of ListPayments" in text


async def test_a_stream_of_a_container_is_refused():
    container = payments([StreamAuthorizationBehavior], nobody=authorizer(ListPayments))
    async with lifespan(container), container.mediator().stream(ListPayments()) as items:
        with pytest.raises(NotAuthorizedError):
            await anext(items)
