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
    """No application has accepted a request: none handles it, all are busy, or it was not sent. Sending again is safe.

    Attributes:
        request: The request.
        place: The address to which the request was sent.
        reason: Why the request was not accepted.
    """

    request: object
    place: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{name_of(self.request)} was not handled: {shown_reason(self.reason)} (at {self.place}). Check that an "
            "application which exposes it is running. The request may be sent again."
        )


@dataclass(eq=False, repr=False)
class RemoteTimeoutError(OutcomeUnknownError, RemoteError, TimeoutError):
    """No answer came in time. It is unknown whether the request was handled."""

    request: object
    seconds: float

    def __str__(self) -> str:
        return (
            f"No answer to {name_of(self.request)} came within {self.seconds:g} s. It may have been handled "
            "nevertheless: send it again only if handling it twice does no harm, or give it more time."
        )


@dataclass(eq=False, repr=False)
class RemoteRefusedError(RemoteError, PermissionError):
    """The other application refused a request, or the request could not be encoded. The request was not handled.

    Attributes:
        request: The request.
        reason: Why the request was refused, as far as the other application says why.
        reference: The id under which the other application has logged the refusal.
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
        error: The name of the error's class; empty when the other application does not show it.
        text: The text of the error; empty when the other application does not show it.
        reference: The id under which the other application has logged the error.
    """

    request: object
    error: str = ""
    text: str = ""
    reference: str = ""

    def __str__(self) -> str:
        what = f"{shown(self.error)}: {shown_reason(self.text)}" if self.error else "that application does not say why"
        return (
            f"{name_of(self.request)} failed in the application that handles it: {what}. The log of that "
            f"application has the error under the message id {shown(self.reference) or 'of the request'}."
        )


@dataclass(eq=False, repr=False)
class RemoteResponseError(RemoteError):
    """A request was handled, but its response cannot be sent or cannot be read.

    Attributes:
        request: The request.
        reason: What is wrong with the response.
        reference: The id under which the other application has logged the fault; empty when the fault was not logged.
    """

    request: object
    reason: str
    reference: str = ""

    def __str__(self) -> str:
        where = f" The other application has logged it as {shown(self.reference)}." if self.reference else ""
        return (
            f"{name_of(self.request)} was handled by another application, and its response cannot be read: "
            f"{shown_reason(self.reason)}. Use the same response type in both applications, and keep the response within "
            f"the size limit of a message.{where}"
        )
