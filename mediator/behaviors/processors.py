"""Processors run before or after a request is handled, or act on its errors. The behaviors below run the processors."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from mediator.binding import Binding
from mediator.blocks import add_note
from mediator.collaborators import Collaborator, CollaboratorBehavior, resolve
from mediator.errors import CommitOutcomeUnknownError, CommittedError
from mediator.handlers import message_types, type_arguments
from mediator.messages import Request
from mediator.pipeline import CallNext
from mediator.printable import shown_error
from mediator.scope import current_frame

Request_contra = TypeVar("Request_contra", bound=Request[Any], contravariant=True)
Response_contra = TypeVar("Response_contra", contravariant=True)
Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)
Error_contra = TypeVar("Error_contra", bound=Exception, contravariant=True)


class RequestPreProcessor(Collaborator, Generic[Request_contra]):
    """Runs before a request is handled, if the list of behaviors has a `RequestPreProcessorBehavior`.

    `RequestPreProcessor[EnrollStudent]` runs for this request, `RequestPreProcessor[Command[Any]]` for every command.
    All matching processors run, in the order of declaration. When a processor raises an error, neither the remaining
    processors nor the handler run.
    """

    @abstractmethod
    async def process(self, request: Request_contra, /) -> None:
        """Act on the request, before the handler and the inner behaviors are created."""


class RequestPostProcessor(Collaborator, Generic[Request_contra, Response_contra]):
    """Runs after a request was handled without an error, if the list of behaviors has a `RequestPostProcessorBehavior`.

    All matching processors run, in the order of declaration. When a processor raises an error, the request fails.
    """

    @abstractmethod
    async def process(self, request: Request_contra, response: Response_contra, /) -> None:
        """Act on the response. To replace a response, use a behavior instead."""


@dataclass(frozen=True, slots=True)
class Handled(Generic[Response_co]):
    """The result that a `RequestExceptionHandler` returns when it has handled an error.

    Attributes:
        response: The response that the sender of the request gets instead of the error.
    """

    response: Response_co


class RequestExceptionHandler(Collaborator, Generic[Request_contra, Response, Error_contra]):
    """Turns an error into a response, if the list of behaviors has a `RequestExceptionProcessorBehavior`.

    `RequestExceptionHandler[EnrollStudent, StudentId, CourseFull]` is for `CourseFull` and errors derived from it. The
    error must come from the request's handler or a behavior inside the `RequestExceptionProcessorBehavior`. Exception
    handlers with the most specific error class are called first. Among equals, the most specific request class comes
    first, and then the order of declaration decides. No exception handler is called for a cancellation.
    """

    @abstractmethod
    async def handle(self, request: Request_contra, error: Error_contra, /) -> Handled[Response] | None:
        """Return `Handled(response)`; or `None` to leave the error to the next exception handler or the sender."""


class RequestExceptionAction(Collaborator, Generic[Request_contra, Error_contra]):
    """Acts on errors, if the list of behaviors has a `RequestExceptionActionProcessorBehavior`.

    The error is always raised again. All matching actions run, in the same order as `RequestExceptionHandler`s. If an
    action fails, the failure is added to the error as a note, and the sender still gets the error.
    """

    @abstractmethod
    async def execute(self, request: Request_contra, error: Error_contra, /) -> None:
        """Act on the error: for example, report it or count it."""


_SETTLED = (CommittedError, CommitOutcomeUnknownError)


class RequestExceptionProcessorBehavior(CollaboratorBehavior):
    """Lets the `RequestExceptionHandler`s of a failed request turn the error into a response.

    The work of the failed request is rolled back before the exception handlers are called. If this behavior is before
    the transaction behavior in the list, the whole transaction is rolled back, and errors of the commit are handled
    too. If this behavior is after the transaction behavior, or if the request joined a running transaction, only the
    work of the request is rolled back, to a savepoint. Queries have a savepoint too: after a failed statement, some
    databases refuse all further statements until a rollback.

    When an exception handler returns neither `Handled` nor `None`, the error gets a note and the next handler is called.
    Cancellations are not handled. Behaviors that retry, or that must see every error, belong inside this behavior.
    """

    works_with: ClassVar[tuple[type, ...]] = (RequestExceptionHandler,)

    async def handle_with(self, collaborators: Sequence[Binding], message: Any, call_next: CallNext[Any], /) -> Any:
        frame = current_frame()
        dispatch = frame.dispatch if frame is not None else None
        try:
            return await _call_undoable(message, call_next)
        except Exception as error:  # raised again if no exception handler handles it
            for collaborator in _most_specific_first(collaborators, message, error):
                declared = _error_types(collaborator)
                if isinstance(error, _SETTLED) and not any(issubclass(each, _SETTLED) for each in declared):
                    continue  # after the commit, only a handler that is declared for `_SETTLED` errors may answer
                answer: Any = await (await resolve(collaborator)).handle(message, error)
                if issubclass(answer.__class__, Handled):
                    if dispatch is not None:
                        dispatch.answered(answer.response)
                    return answer.response
                if answer is not None:
                    add_note(
                        error, f"{collaborator.cls.__name__} must return Handled(...) or None, and returned neither."
                    )
            raise


class RequestExceptionActionProcessorBehavior(CollaboratorBehavior):
    """Runs the `RequestExceptionAction`s of a request on its errors, and raises the errors again.

    No action runs for a cancellation. If this behavior is before the `RequestExceptionProcessorBehavior` in the list,
    actions run only for errors that no exception handler has turned into a response. If this behavior is after the
    `RequestExceptionProcessorBehavior`, actions run for all errors. Place this behavior before the transaction
    behavior, so that the writes of an action are not rolled back.
    """

    works_with: ClassVar[tuple[type, ...]] = (RequestExceptionAction,)

    async def handle_with(self, collaborators: Sequence[Binding], message: Any, call_next: CallNext[Any], /) -> Any:
        try:
            return await call_next()
        except Exception as error:  # raised again after the actions
            for collaborator in _most_specific_first(collaborators, message, error):
                await _execute(collaborator, message, error)
            raise


async def _execute(collaborator: Binding, message: Any, error: Exception) -> None:
    try:
        await (await resolve(collaborator)).execute(message, error)
    except Exception as failure:  # added as a note: the other actions still run, and `error` is raised
        add_note(error, f"The action {collaborator.cls.__name__} on this error failed: {shown_error(failure)}")


async def _call_undoable(message: Any, call_next: CallNext[Any]) -> Any:
    """Run the rest of the pipeline. If a transaction runs already, set a savepoint first."""
    frame = current_frame()
    transaction = frame.scope.transaction if frame is not None else None
    if transaction is None:
        return await call_next()
    async with transaction.savepoint(message):
        return await call_next()


def _most_specific_first(collaborators: Sequence[Binding], message: Any, error: Exception) -> list[Binding]:
    """Return the collaborators for an error, in the order in which they are called."""
    message_type: type[Any] = message.__class__
    ranked = [
        (_distance(error_types, type(error)), collaborator.distance(message_type), collaborator)
        for collaborator in collaborators
        if isinstance(error, error_types := _error_types(collaborator))
    ]
    ranked.sort(key=lambda rank: rank[:2])  # a stable sort keeps the order of declaration
    return [collaborator for *_, collaborator in ranked]


def _error_types(collaborator: Binding) -> tuple[type, ...]:
    arguments = type_arguments(collaborator.cls, collaborator.kind)
    return message_types(arguments[-1]) if arguments else ()


def _distance(error_types: tuple[type, ...], raised: type) -> int:
    order = raised.__mro__
    return min(order.index(each) for each in error_types if each in order)


class RequestPreProcessorBehavior(CollaboratorBehavior):
    """Runs every `RequestPreProcessor` of a request, one after the other, and then the rest of the pipeline.

    Place this behavior inside authorization and validation. If this behavior is after the transaction behavior in the
    list, the writes of the processors are committed or rolled back with the command.
    """

    works_with: ClassVar[tuple[type, ...]] = (RequestPreProcessor,)

    async def handle_with(self, collaborators: Sequence[Binding], message: Any, call_next: CallNext[Any], /) -> Any:
        for collaborator in collaborators:
            await (await resolve(collaborator)).process(message)
        return await call_next()


class RequestPostProcessorBehavior(CollaboratorBehavior):
    """Runs the rest of the pipeline, and then every `RequestPostProcessor` of the request, one after the other.

    If this behavior is after the transaction behavior in the list, the processors run before the commit. Their writes
    are part of the transaction, and an error in a processor rolls the transaction back. If this behavior is before the
    transaction behavior, the processors run after the commit, and their errors roll nothing back.
    """

    works_with: ClassVar[tuple[type, ...]] = (RequestPostProcessor,)

    async def handle_with(self, collaborators: Sequence[Binding], message: Any, call_next: CallNext[Any], /) -> Any:
        response = await call_next()
        for collaborator in collaborators:
            await (await resolve(collaborator)).process(message, response)
        return response
