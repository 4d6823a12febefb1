"""Types of validators, authorizers, processors and the behaviors that run them."""

import asyncio
from collections.abc import Sequence
from typing import Any, assert_type

from cases.university import EnrollStudent, ExpelStudent, FindStudents, StudentEnrolled, StudentId
from dependency_injector import providers

from mediator import (
    AuthorizationBehavior,
    Authorizer,
    CallNext,
    Command,
    MessageContext,
    Notification,
    NotificationPipelineBehavior,
    PipelineBehavior,
    Query,
    Request,
    TimeoutBehavior,
    ValidationBehavior,
    ValidationFailure,
    Validator,
)
from mediator.behaviors import (
    Cache,
    CachingBehavior,
    Circuit,
    CircuitBreakerBehavior,
    Handled,
    MemoryCache,
    RequestExceptionAction,
    RequestExceptionHandler,
    RequestPostProcessor,
    RequestPreProcessor,
)
from mediator.behaviors.retry import RetryBehavior


class NameIsGiven(Validator[EnrollStudent]):
    async def validate(self, command: EnrollStudent) -> list[ValidationFailure]:
        return [] if command.name else [ValidationFailure("name", "is empty")]


class Anything(Validator[Request[Any] | StudentEnrolled]):
    async def validate(self, message: Request[Any] | StudentEnrolled) -> Sequence[ValidationFailure]:
        return ()


class OnlyAda(Authorizer[EnrollStudent]):
    async def authorize(self, command: EnrollStudent, context: MessageContext) -> bool:
        return context.principal == "ada"


class Before(RequestPreProcessor[Command[Any]]):
    async def process(self, command: Command[Any]) -> None: ...


class After(RequestPostProcessor[EnrollStudent, StudentId]):
    async def process(self, command: EnrollStudent, response: StudentId) -> None:
        assert_type(response, StudentId)


class Rescue(RequestExceptionHandler[EnrollStudent, StudentId, LookupError]):
    async def handle(self, command: EnrollStudent, error: LookupError) -> Handled[StudentId] | None:
        return Handled(StudentId(command.name)) if error.args else None


class Report(RequestExceptionAction[Request[Any], Exception]):
    async def execute(self, request: Request[Any], error: Exception) -> None: ...


class Patient(TimeoutBehavior[EnrollStudent]):
    pass


class FewQueries(CachingBehavior[FindStudents]):
    pass


def the_behaviors_in_the_box(cache: Cache) -> None:
    assert_type(TimeoutBehavior(5.0), TimeoutBehavior[Request[Any] | Notification])
    assert_type(RetryBehavior(on=OSError), RetryBehavior[Request[Any]])
    assert_type(CachingBehavior(cache), CachingBehavior[Query[Any]])
    assert_type(CircuitBreakerBehavior(Circuit(), on=OSError), CircuitBreakerBehavior[Request[Any]])
    assert_type(Patient(60.0), Patient)
    assert_type(FewQueries(MemoryCache(), seconds=5.0), FewQueries)
    assert_type(
        providers.Factory(TimeoutBehavior, seconds=5.0), providers.Factory[TimeoutBehavior[Request[Any] | Notification]]
    )
    assert_type(providers.Factory(RetryBehavior, on=OSError), providers.Factory[RetryBehavior[Request[Any]]])
    assert_type(providers.Factory(CachingBehavior, cache), providers.Factory[CachingBehavior[Query[Any]]])
    assert_type(providers.Factory(ValidationBehavior), providers.Factory[ValidationBehavior])
    assert_type(providers.Factory(AuthorizationBehavior), providers.Factory[AuthorizationBehavior])


class OtherMessage(Validator[EnrollStudent]):
    async def validate(self, command: ExpelStudent) -> list[ValidationFailure]:  # error
        return []


class OtherFailures(Validator[EnrollStudent]):
    async def validate(self, command: EnrollStudent) -> list[str]:  # error
        return []


class Vague(Authorizer[EnrollStudent]):
    async def authorize(self, command: EnrollStudent, context: MessageContext) -> str:  # error
        return "perhaps"


class OtherResponse(RequestExceptionHandler[EnrollStudent, StudentId, LookupError]):
    async def handle(self, command: EnrollStudent, error: LookupError) -> Handled[int] | None:  # error
        return None


class OtherError(RequestExceptionHandler[EnrollStudent, StudentId, LookupError]):
    async def handle(self, command: EnrollStudent, error: OSError) -> None:  # error
        return None


class Undying(RequestExceptionHandler[EnrollStudent, StudentId, asyncio.CancelledError]):  # error
    async def handle(self, command: EnrollStudent, error: asyncio.CancelledError) -> None: ...


class NotARequest(RequestPreProcessor[StudentEnrolled]):  # error
    async def process(self, notification: StudentEnrolled) -> None: ...


class CachedCommand(CachingBehavior[EnrollStudent]):  # error
    pass


def an_error_is_named(cache: Cache) -> None:
    RetryBehavior()  # error
    CircuitBreakerBehavior(Circuit())  # error
    RetryBehavior(on=asyncio.CancelledError)  # error


class Forgetful(PipelineBehavior[Command[Any], Any]):
    async def handle(self, command: Command[Any], call_next: CallNext[Any]) -> Any:
        call_next()  # error


class ForgetfulAroundEach(NotificationPipelineBehavior[StudentEnrolled]):
    async def handle(self, notification: StudentEnrolled, handler: type, call_next: CallNext[None]) -> None:
        call_next()  # error
