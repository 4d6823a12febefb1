"""Errors that are temporary: something is unavailable, busy or full, and the call may be repeated later."""

from dataclasses import dataclass

from mediator.errors.root import MediatorError, name_of
from mediator.printable import shown_reason


class TransientError(MediatorError):
    """Something is unavailable, busy or full at present. It is safe to try again later."""


@dataclass(eq=False, repr=False)
class ClaimLostError(TransientError, RuntimeError):
    """A relay or a consumer no longer had its claim when it used the claim. Nothing was changed.

    A relay claims events of the outbox before it publishes them. A consumer claims a parked event before a later try.
    While a claim lasts, no other process works on these events. After the claim has ended, the next process that claims
    the events goes on with them.
    """

    reason: str

    def __str__(self) -> str:
        return (
            f"The claim has ended: {shown_reason(self.reason)}. Nothing was changed. Events that still wait are claimed "
            "again, by this process or by another one, under the same ids."
        )


@dataclass(eq=False, repr=False)
class RateLimitedError(TransientError, RuntimeError):
    """A message was refused and not handled, because too many messages were sent before it.

    Attributes:
        message: The message.
        limit: The largest number of messages in `seconds`.
        seconds: The period of the limit.
        retry_after: Seconds until the message can be handled, provided that no other message is sent during this time.
        key: The key to which the limit applies, such as a tenant; `None` when all messages share the limit.
    """

    message: object
    limit: int
    seconds: float
    retry_after: float
    key: object = None

    def __str__(self) -> str:
        return (
            f"{name_of(self.message)} was not handled: the limit of {self.limit} in {self.seconds:g} s is used up. "
            f"Send it again in {self.retry_after:.3g} s, or let it wait: set `max_wait` of its `RateLimitBehavior`."
        )


@dataclass(eq=False, repr=False)
class ConcurrencyLimitedError(TransientError, RuntimeError):
    """A message was refused and not handled, because too many messages were being handled at the same time.

    Attributes:
        message: The message.
        limit: The largest number of messages that are handled at the same time.
        waited: Seconds for which the message waited.
        key: The key to which the limit applies, such as a tenant; `None` when all messages share the limit.
    """

    message: object
    limit: int
    waited: float
    key: object = None

    def __str__(self) -> str:
        waited = f", and none ended in {self.waited:g} s" if self.waited else ""
        handled = "1 message is" if self.limit == 1 else f"{self.limit} messages are"
        return (
            f"{name_of(self.message)} was not handled: {handled} being handled already{waited}. Send it "
            "again later, or let it wait for longer: set `max_wait` of its `ConcurrencyLimitBehavior`."
        )


@dataclass(eq=False, repr=False)
class CircuitOpenError(TransientError, RuntimeError):
    """A message was refused and not handled, because the service that it depends on failed too often recently.

    Attributes:
        message: The message.
        retry_after: Seconds until one message is handled as a trial; 0.0 while a trial is running.
    """

    message: object
    retry_after: float  # no `ConnectionError`: code that retries lost connections would not wait for this time

    def __str__(self) -> str:
        when = f"in {self.retry_after:g} s" if self.retry_after else "when the message that is tried now has succeeded"
        return (
            f"{name_of(self.message)} was not handled: the service that it depends on failed too often recently. "
            f"Send it again {when}, or return a response without that service, from a `RequestExceptionHandler` of this "
            "error."
        )


@dataclass(eq=False, repr=False)
class MessageTimeoutError(TransientError, TimeoutError):
    """A message was not handled in time. Its handler was cancelled, and its transaction, if any, was rolled back.

    Attributes:
        message: The message; for a delivered event, its type on the wire.
        seconds: The time limit.
        delivered: Whether the message is a delivered event.
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
            f"different limit: `class LongTimeout(TimeoutBehavior[{name_of(self.message)}])`."
        )
