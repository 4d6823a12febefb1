"""Errors of requests that another application handles."""

from dataclasses import dataclass

from mediator.errors.outcomes import OutcomeUnknownError
from mediator.errors.root import MediatorError, name_of
from mediator.errors.transient import TransientError
from mediator.printable import shown, shown_reason


class RemoteError(MediatorError):
    """A request to another application has no response."""


@dataclass(eq=False, repr=False)
class RemoteUnavailableError(TransientError, RemoteError, ConnectionError):
    """A request was not sent, or not taken, and may be sent again: nobody answers to its name, or all are busy.

    Attributes:
        request: The request.
        place: Where it was to be sent.
        reason: Why it was not.
    """

    request: object
    place: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{name_of(self.request)} was not handled: {shown_reason(self.reason)} (at {self.place}). Is an "
            f"application running that "
            "exposes it? It may be sent again."
        )


@dataclass(eq=False, repr=False)
class RemoteTimeoutError(OutcomeUnknownError, RemoteError, TimeoutError):
    """No answer came in time; whether the request was handled is not known."""

    request: object
    seconds: float

    def __str__(self) -> str:
        return (
            f"No answer to {name_of(self.request)} came within {self.seconds:g} s. It may have been handled all "
            f"the same: "
            "send it again only if that does no harm, or give it more time."
        )


@dataclass(eq=False, repr=False)
class RemoteRefusedError(RemoteError, PermissionError):
    """The other application did not let a request through, or it could not be written. It was not handled.

    Attributes:
        request: The request.
        reason: What may be known of why.
        reference: The id under which the other application has logged it.
    """

    request: object
    reason: str
    reference: str = ""

    def __str__(self) -> str:
        where = f" The other application has logged it as {shown(self.reference)}." if self.reference else ""
        return f"{name_of(self.request)} was refused, and not handled: {shown_reason(self.reason)}.{where}"


@dataclass(eq=False, repr=False)
class RemoteFailedError(RemoteError):
    """The handler of a request failed in the other application.

    Attributes:
        request: The request.
        error: The class of what it raised, by name, if the other application shows it.
        text: Its text, if the other application shows it.
        reference: The id under which the other application has logged it.
    """

    request: object
    error: str = ""
    text: str = ""
    reference: str = ""

    def __str__(self) -> str:
        what = f"{shown(self.error)}: {shown_reason(self.text)}" if self.error else "it does not say why"
        return (
            f"{name_of(self.request)} failed in the application that handles it: {what}. Its log has the error "
            f"under the "
            f"message id {shown(self.reference) or 'of the request'}."
        )


@dataclass(eq=False, repr=False)
class RemoteResponseError(RemoteError):
    """A request was handled, and its response cannot be read, or not be sent.

    Attributes:
        request: The request.
        reason: What is wrong with the response.
        reference: The id under which the other application has logged it, if it knows.
    """

    request: object
    reason: str
    reference: str = ""

    def __str__(self) -> str:
        where = f" The other application has logged it as {shown(self.reference)}." if self.reference else ""
        return (
            f"{name_of(self.request)} was handled by another application, and its response cannot be read: "
            f"{shown_reason(self.reason)}. "
            f"Make the response types of both applications agree, and a response no larger than a message may "
            f"be.{where}"
        )
