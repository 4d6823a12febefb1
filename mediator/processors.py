"""Processors: what runs before and after the handling of a request, and what acts on its errors."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mediator.companions import Companion
from mediator.messages import Request

Request_contra = TypeVar("Request_contra", bound=Request[Any], contravariant=True)
Response_contra = TypeVar("Response_contra", contravariant=True)
Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)
Error_contra = TypeVar("Error_contra", bound=Exception, contravariant=True)


class RequestPreProcessor(Companion, Generic[Request_contra]):
    """Runs before a request is handled, where the list has a `RequestPreProcessorBehavior`.

    `RequestPreProcessor[EnrollStudent]` runs for this request, `RequestPreProcessor[Command[Any]]` for every command. All
    that fit run, in the order of declaration; when one raises, neither the rest nor the handler does.
    """

    @abstractmethod
    async def process(self, request: Request_contra, /) -> None:
        """Act on the request before what lies inside the behavior is built."""


class RequestPostProcessor(Companion, Generic[Request_contra, Response_contra]):
    """Runs after a request was handled without an error, where the list has a `RequestPostProcessorBehavior`.

    All that fit run, in the order of declaration; when one raises, the request has failed.
    """

    @abstractmethod
    async def process(self, request: Request_contra, response: Response_contra, /) -> None:
        """Act on the response. It cannot be exchanged here; a behavior can do that."""


@dataclass(frozen=True, slots=True)
class Handled(Generic[Response_co]):
    """Says that an error is dealt with.

    Attributes:
        response: What the sender of the request gets in place of the error.
    """

    response: Response_co


class RequestExceptionHandler(Companion, Generic[Request_contra, Response, Error_contra]):
    """May turn an error into a response, where the list has a `RequestExceptionProcessorBehavior`.

    `RequestExceptionHandler[EnrollStudent, StudentId, CourseFull]` is asked about each `CourseFull`, and errors derived
    from it, that reaches the behavior from the handler or from another behavior inside. Of several the one for the most
    specific class of error is asked first, then that for the most specific request, then the one declared first.
    Cancellation is no `Exception`, and nobody is asked about it.
    """

    @abstractmethod
    async def handle(self, request: Request_contra, error: Error_contra, /) -> Handled[Response] | None:
        """Return `Handled(response)`, or `None` to leave the error to the next one, and at last to the sender."""


class RequestExceptionAction(Companion, Generic[Request_contra, Error_contra]):
    """Looks at errors, where the list has a `RequestExceptionActionProcessorBehavior`; the error goes on in any case.

    All that fit run, in the order in which handlers of errors are asked. When an action fails itself, that is noted on the
    error, which stays what the sender gets.
    """

    @abstractmethod
    async def execute(self, request: Request_contra, error: Error_contra, /) -> None:
        """Act on the error: report it, count it."""
