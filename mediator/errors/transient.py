"""Errors that pass: something is away, busy or full, and the same may be tried again later."""

from dataclasses import dataclass

from mediator.errors.root import MediatorError, name_of
from mediator.printable import shown_reason


class TransientError(MediatorError):
    """Something is away, busy or full at present. It is safe to try again later."""


@dataclass(eq=False, repr=False)
class ClaimLostError(TransientError, RuntimeError):
    """A relay's claim on events had ended before it said what became of them; nothing was changed."""

    reason: str

    def __str__(self) -> str:
        return (
            f"The claim on a batch of events has ended: {shown_reason(self.reason)}. Nothing was changed: the "
            f"events are still in the "
            "outbox, and are sent again under the same ids."
        )


@dataclass(eq=False, repr=False)
class RateLimitedError(TransientError, RuntimeError):
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
            f"{name_of(self.message)} was not handled: the limit of {self.limit} in {self.seconds:g} s is used up. "
            f"Send it "
            f"again in {self.retry_after:.3g} s, or let it wait: `max_wait` of its `RateLimitBehavior`."
        )


@dataclass(eq=False, repr=False)
class ConcurrencyLimitedError(TransientError, RuntimeError):
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
            f"{name_of(self.message)} was not handled: {self.limit} are being handled already{waited}. Send it "
            f"again when "
            "one of them may have ended, or let it wait for longer: `max_wait` of its `ConcurrencyLimitBehavior`."
        )


@dataclass(eq=False, repr=False)
class CircuitOpenError(TransientError, RuntimeError):
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
            f"{name_of(self.message)} was not handled: what it leans on has failed too often of late. Send it "
            f"again {when}, "
            "or answer without it, in a `RequestExceptionHandler` of this error."
        )


@dataclass(eq=False, repr=False)
class MessageTimeoutError(TransientError, TimeoutError):
    """A message was not handled in time. Its handler was cancelled, and its transaction, if any, rolled back.

    Attributes:
        message: The message; the type on the wire, when it is an event that was delivered.
        seconds: How long it may take.
        delivered: Whether it is an event that was delivered.
    """

    message: object
    seconds: float
    delivered: bool = False

    def __str__(self) -> str:
        if self.delivered:
            return (
                f"An event of type {name_of(self.message)} was not handled within {self.seconds:g} s. Look for what "
                "its handler waits for, or raise `handler_timeout` of the consumer."
            )
        return (
            f"{name_of(self.message)} was not handled within {self.seconds:g} s. Look for what it waits for, or give it a "
            f"limit of its own: `class LongTimeout(TimeoutBehavior[{name_of(self.message)}])`."
        )
