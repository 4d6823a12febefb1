"""Errors of the behaviors in the box: a message was refused, or not answered in time."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.root import MediatorError, name_of


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
        texts = "; ".join(str(failure) for failure in self.failures)
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
        reason = f": {self.reason}" if self.reason else ""
        return (
            f"{who} may not send {name_of(self.message)}{reason}. Each of its authorizers must let the sender through."
        )


@dataclass(eq=False, repr=False)
class MessageTimeoutError(MediatorError, TimeoutError):
    """A message was not handled in time. Its handler was cancelled, and its transaction, if any, rolled back."""

    message: object
    seconds: float

    def __str__(self) -> str:
        return (
            f"{name_of(self.message)} was not handled within {self.seconds:g} s. Look for what it waits for, or give it a "
            f"limit of its own: `class LongTimeout(TimeoutBehavior[{name_of(self.message)}])`."
        )


@dataclass(eq=False, repr=False)
class CircuitOpenError(MediatorError, RuntimeError):
    """A message was refused, because what it leans on has failed too often of late. It was not handled.

    Attributes:
        message: The message.
        retry_after: The seconds until one message may try again; 0.0 while one is trying.
    """

    message: object
    retry_after: float  # no ConnectionError: a retry of those would not wait for as long

    def __str__(self) -> str:
        when = f"in {self.retry_after:g} s" if self.retry_after else "as soon as the one that tries has gone well"
        return (
            f"{name_of(self.message)} was not handled: what it leans on has failed too often of late. Send it again {when}, "
            "or answer without it, in a `RequestExceptionHandler` of this error."
        )


@dataclass(eq=False, repr=False)
class RateLimitedError(MediatorError, RuntimeError):
    """A message was refused, because too many came before it. It was not handled.

    Attributes:
        message: The message.
        limit: How many are let through in `seconds`.
        seconds: The period of the limit.
        retry_after: The seconds until it would be let through, if nobody else comes meanwhile.
        key: Whose limit it is, where it is not everybody's.
    """

    message: object
    limit: int
    seconds: float
    retry_after: float
    key: object = None

    def __str__(self) -> str:
        return (
            f"{name_of(self.message)} was not handled: the limit of {self.limit} in {self.seconds:g} s is used up. Send it "
            f"again in {self.retry_after:.3g} s, or let it wait: `max_wait` of its `RateLimitBehavior`."
        )


@dataclass(eq=False, repr=False)
class ConcurrencyLimitedError(MediatorError, RuntimeError):
    """A message was refused, because as many as may be were being handled. It was not handled.

    Attributes:
        message: The message.
        limit: How many are handled at a time.
        waited: How long it waited for a place, in seconds.
        key: Whose limit it is, where it is not everybody's.
    """

    message: object
    limit: int
    waited: float
    key: object = None

    def __str__(self) -> str:
        waited = f", and none ended in {self.waited:g} s" if self.waited else ""
        return (
            f"{name_of(self.message)} was not handled: {self.limit} are being handled already{waited}. Send it again when "
            "one of them may have ended, or let it wait for longer: `max_wait` of its `ConcurrencyLimitBehavior`."
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
            f"The idempotency key of this {name_of(self.message)} was used before, for one with another payload. Send what "
            "is to happen again with its own key and unchanged, and everything else with a new key."
        )


@dataclass(eq=False, repr=False)
class IdempotencyEncodingError(MediatorError, TypeError):
    """A command cannot be repeated safely, because its payload or its response cannot be encoded.

    Attributes:
        message: The command.
        part: What cannot be encoded.
        reason: Why, without any value.
    """

    message: object
    part: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{name_of(self.message)} has an idempotency key, but {self.part} cannot be encoded or decoded: {self.reason}. "
            "Use types that the codec knows, or give the Idempotency another `codec`."
        )


@dataclass(eq=False, repr=False)
class CacheKeyError(MediatorError, TypeError):
    """A query cannot be looked up in a cache."""

    query: object
    reason: str

    def __str__(self) -> str:
        return (
            f"{name_of(self.query)} cannot be the key of a cache: {self.reason}. Make it frozen, with fields that are "
            "hashable (a tuple in place of a list), or narrow the behavior to other queries."
        )
