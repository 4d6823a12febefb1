"""Errors of messages that are refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.root import MediatorError, name_of
from mediator.printable import shown_reason


@dataclass(frozen=True, slots=True)
class ValidationFailure:
    """One thing that is wrong with a message.

    Attributes:
        field: The field it is about, `""` for the message as a whole. Parts of a path are joined by dots.
        text: What is wrong, for whoever sent the message.
        validator: The name of the class that found it; filled in by `ValidationBehavior`.
    """

    field: str
    text: str
    validator: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.text}" if self.field else self.text


@dataclass(eq=False, repr=False)
class ValidationFailedError(MediatorError, ValueError):
    """A message is not valid, and was not handled. It has everything that is wrong with it.

    Attributes:
        message: The message.
        failures: What is wrong, in the order in which it was found.
    """

    message: object
    failures: Sequence[ValidationFailure]

    @property
    def by_field(self) -> dict[str, list[str]]:
        """The texts by field: what a form shows beside its inputs."""
        return self._grouped([failure.field for failure in self.failures])

    @property
    def by_validator(self) -> dict[str, list[str]]:
        """The texts by the name of the validator's class."""
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
    """A message may not be sent by whoever sent it, and was not handled.

    Attributes:
        message: The message.
        principal: For whom it was sent; `None` when nobody is signed in.
        reason: Why not, if whoever refused it says so.
    """

    message: object
    principal: str | None
    reason: str = ""

    def __str__(self) -> str:
        who = "Who is not signed in" if self.principal is None else repr(self.principal)
        reason = f": {shown_reason(self.reason)}" if self.reason else ""
        return (
            f"{who} may not send {name_of(self.message)}{reason}. Each of its authorizers must let the sender through."
        )


@dataclass(eq=False, repr=False)
class IdempotencyConflictError(MediatorError, ValueError):
    """A command has the idempotency key of another one, which was not the same.

    Attributes:
        message: The command.
    """

    message: object

    def __str__(self) -> str:
        return (
            f"The idempotency key of this {name_of(self.message)} was used before, for one with another payload. "
            f"Send what "
            "is to happen again with its own key and unchanged, and everything else with a new key."
        )


@dataclass(eq=False, repr=False)
class ContextError(MediatorError, ValueError):
    """A context was given a value that it cannot have. The text shows no value: it may be a secret, or forge a line."""

    field: str
    problem: str

    def __str__(self) -> str:
        return (
            f"In a message context, {self.field} {self.problem}. Ids, principal and tenant have 1 to 255 printable "
            "characters; headers are few and short texts. Put what is larger into the message."
        )
