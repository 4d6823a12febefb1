"""AuthorizationBehavior: every authorizer must allow a message."""

from typing import Any

import pytest

from mediator import (
    AuthorizationBehavior,
    Authorizer,
    Command,
    MessageContext,
    Request,
    ValidationBehavior,
    ValidationFailure,
    Validator,
)
from mediator.errors import NotAuthorizedError
from tests.unit.samples import CountStudents, EnrollStudent, answer_name
from tests.unit.wiring import bind, handles, wire


def never() -> Any:
    raise AssertionError("built")


def says(message: Any, answer: Any, log: list[str] | None = None, name: str = "") -> Any:
    class Says(Authorizer[message]):
        async def authorize(self, _message, _context):
            if log is not None:
                log.append(name)
            return answer

    return Says()


class OnlyAda(Authorizer[EnrollStudent]):
    async def authorize(self, _message: EnrollStudent, context: MessageContext) -> bool:
        return context.principal == "ada"


def signed_in(mediator: Any, principal: str | None) -> Any:
    return mediator.scope(context=MessageContext("1", "1", principal=principal))


async def test_a_message_that_every_authorizer_allows_is_handled():
    mediator = wire(
        handles(EnrollStudent, answer_name),
        behaviors=[AuthorizationBehavior],
        collaborators=[OnlyAda, says(Request[Any], True)],
    )
    async with signed_in(mediator, "ada"):
        assert await mediator.send(EnrollStudent("Grace")) == "Grace"


@pytest.mark.parametrize("principal", ["eve", None])
async def test_a_refused_message_raises_an_error_with_its_principal_and_nothing_is_built(principal):
    mediator = wire(
        bind(handles(EnrollStudent, answer_name), never), behaviors=[AuthorizationBehavior], collaborators=[OnlyAda]
    )
    message = EnrollStudent("Grace")
    async with signed_in(mediator, principal):
        with pytest.raises(NotAuthorizedError) as caught:
            await mediator.send(message)
    assert (caught.value.message, caught.value.principal) == (message, principal)
    assert isinstance(caught.value, PermissionError)
    assert "EnrollStudent" in str(caught.value)
    assert "Grace" not in str(caught.value)


async def test_messages_that_a_handler_sends_inherit_the_principal():
    async def enroll(_message: Any) -> str:
        return await mediator.send(EnrollStudent("Grace"))

    mediator = wire(
        handles(CountStudents, enroll),
        handles(EnrollStudent, answer_name),
        behaviors=[AuthorizationBehavior],
        collaborators=[OnlyAda],
    )
    async with signed_in(mediator, "ada"):
        assert await mediator.send(CountStudents()) == "Grace"
    async with signed_in(mediator, "eve"):
        with pytest.raises(NotAuthorizedError):
            await mediator.send(CountStudents())


@pytest.mark.parametrize("answer", [None, False, 0, "", "yes", 1, object()])
async def test_only_the_value_true_allows_a_message(answer):
    mediator = wire(
        handles(EnrollStudent, answer_name),
        behaviors=[AuthorizationBehavior],
        collaborators=[says(EnrollStudent, answer)],
    )
    with pytest.raises(NotAuthorizedError):
        await mediator.send(EnrollStudent())


async def test_no_authorizer_is_asked_after_the_first_refusal():
    log: list[str] = []
    mediator = wire(
        handles(EnrollStudent, answer_name),
        behaviors=[AuthorizationBehavior],
        collaborators=[
            says(Command[Any], True, log, "command"),
            says(EnrollStudent, False, log, "enroll"),
            says(Any, True, log, "any"),
        ],
    )
    with pytest.raises(NotAuthorizedError):
        await mediator.send(EnrollStudent())
    assert log == ["command", "enroll"]


async def test_an_authorizer_may_raise_the_error_with_a_reason():
    class Explain(Authorizer[EnrollStudent]):
        async def authorize(self, message, context):
            raise NotAuthorizedError(message, context.principal, "enrolling begins in May")

    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[AuthorizationBehavior], collaborators=[Explain])
    async with signed_in(mediator, "ada"):
        with pytest.raises(NotAuthorizedError, match="'ada' may not send EnrollStudent: enrolling begins in May"):
            await mediator.send(EnrollStudent())


async def test_a_message_without_authorizers_is_allowed_and_has_no_authorization_in_its_pipeline():
    mediator = wire(
        handles(EnrollStudent, answer_name),
        behaviors=[AuthorizationBehavior],
        collaborators=[says(CountStudents, False)],
    )
    assert mediator.registry.pipeline(EnrollStudent).behaviors == []
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"


async def test_validation_inside_authorization_does_not_run_for_refused_callers():
    class Tell(Validator[EnrollStudent]):
        async def validate(self, _message):
            return [ValidationFailure("name", "is taken by a student")]

    mediator = wire(
        handles(EnrollStudent, answer_name),
        behaviors=[AuthorizationBehavior, ValidationBehavior],
        collaborators=[OnlyAda, Tell],
    )
    with pytest.raises(NotAuthorizedError):
        await mediator.send(EnrollStudent())
