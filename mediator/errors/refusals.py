"""Errors of messages and contexts that are refused before a handler runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.root import MediatorError, name_of
from mediator.printable import shown_reason


@dataclass(frozen=True, slots=True)
class ValidationFailure:
    """One fault of a message that is not valid.

    Attributes:
        field: The field that is wrong, with dots between the parts of a path; `""` for the message as a whole.
        text: What is wrong, in words for the sender of the message.
        validator: The name of the class that found the fault; `ValidationBehavior` sets it.
    """

    field: str
    text: str
    validator: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.text}" if self.field else self.text


@dataclass(eq=False, repr=False)
class ValidationFailedError(MediatorError, ValueError):
    """A message is not valid, and was not handled. The error lists every fault.

    Attributes:
        message: The message.
        failures: The faults, in the order in which they were found.
    """

    message: object
    failures: Sequence[ValidationFailure]

    @property
    def by_field(self) -> dict[str, list[str]]:
        """The texts of the faults by field, for a form that shows them beside its inputs."""
        return self._grouped([failure.field for failure in self.failures])

    @property
    def by_validator(self) -> dict[str, list[str]]:
        """The texts of the faults by the class name of the validator."""
        return self._grouped([failure.validator for failure in self.failures])

    def _grouped(self, keys: Sequence[str]) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for key, failure in zip(keys, self.failures, strict=True):
            groups.setdefault(key, []).append(failure.text)
        return groups

    def __str__(self) -> str:
        texts = "; ".join(shown_reason(str(failure)) for failure in self.failures)
        return f"{name_of(self.message)} is not valid: {texts}. Correct it and send it again."


@dataclass(eq=False, repr=False)
class NotAuthorizedError(MediatorError, PermissionError):
    """The sender of a message is not authorized to send it. The message was not handled.

    Attributes:
        message: The message.
        principal: The principal for whom the message was sent; `None` when nobody is signed in.
        reason: Why the message was refused; empty when the authorizer gives no reason.
    """

    message: object
    principal: str | None
    reason: str = ""

    def __str__(self) -> str:
        who = "An anonymous sender" if self.principal is None else repr(self.principal)
        reason = f": {shown_reason(self.reason)}" if self.reason else ""
        return f"{who} may not send {name_of(self.message)}{reason}. Every authorizer of the message must allow it."


@dataclass(eq=False, repr=False)
class IdempotencyConflictError(MediatorError, ValueError):
    """A command has the idempotency key of an earlier, different command.

    Attributes:
        message: The command.
    """

    message: object

    def __str__(self) -> str:
        return (
            f"The idempotency key of this {name_of(self.message)} was used before, for a command with another "
            "payload. To repeat a command, send it unchanged with the same key; send every other command with a new key."
        )


@dataclass(eq=False, repr=False)
class ContextError(MediatorError, ValueError):
    """A message context was given a value that is not allowed.

    The text does not show the value, because it may be a secret or may forge a log line.
    """

    field: str
    problem: str

    def __str__(self) -> str:
        return (
            f"In a message context, {self.field} {self.problem}. Ids, principal and tenant have 1 to 255 printable "
            "characters; headers are few and short texts. Put larger values into the message."
        )
