"""CircuitBreakerBehavior: refuses messages for a while when what they lean on does not work."""

import time
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, overload

import structlog

from mediator.ambient import running_fields
from mediator.errors import CircuitOpenError, SettingError
from mediator.messages import Request
from mediator.pipeline import CallNext, PipelineBehavior

Message = TypeVar("Message", bound=Request[Any])
Errors = type[Exception] | tuple[type[Exception], ...]


class Circuit:
    """Whether what lies behind works, as far as is known. Make it a `Singleton`, one for each thing to lean on.

    It is closed at first. So many failures in a row open it; after a while it lets one message through to try: when that
    goes well it is closed, and otherwise open for as long again. Results of messages that were let through before it
    opened change nothing any more.

    Args:
        failures: How many in a row open it.
        seconds: How long it stays open before the next try.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self, *, failures: int = 5, seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if failures < 1:
            raise SettingError("failures", failures, "it takes at least one.")
        if not seconds > 0:
            raise SettingError("seconds", seconds, "it stays open for longer than nothing.")
        self._failures = failures
        self._seconds = seconds
        self._clock = clock
        self._in_a_row = 0
        self._opened: float | None = None
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether messages are refused."""
        return self._opened is not None

    def enter(self) -> bool | None:
        """Ask to be let through: true for the message that tries, false for any other; `None` if it is refused."""
        if self._opened is None:
            return False
        if self._trying or self.retry_after > 0:
            return None
        self._trying = True
        return True

    @property
    def retry_after(self) -> float:
        """The seconds until the next try; 0.0 when it is closed, or while one is on its way."""
        return 0.0 if self._opened is None else max(0.0, self._opened + self._seconds - self._clock())

    def succeeded(self, trying: bool) -> bool:
        """What was let through went well; true if that closes the circuit."""
        if self._opened is None or trying:
            self._in_a_row, self._opened, self._trying = 0, None, False
        return trying

    def failed(self, trying: bool) -> bool:
        """What was let through failed; true if that opens the circuit."""
        if trying or self._opened is None:
            self._in_a_row += 1
            if trying or self._in_a_row >= self._failures:
                self._opened, self._trying = self._clock(), False
                return True
        return False

    def abandoned(self, trying: bool) -> None:
        """What was let through ended without telling anything: the next message may try."""
        if trying:
            self._trying = False


class CircuitBreakerBehavior(PipelineBehavior[Message, Any]):
    """Refuses messages without handling them while their circuit is open.

    Without a type argument it applies to requests. Derive a class for what leans on one thing, with a circuit of its own:
    `class PaymentBreaker(CircuitBreakerBehavior[Pay | Refund])`; the most specific one is taken.

    Args:
        circuit: Shared by all messages that lean on the same thing.
        on: The errors that say it does not work, such as those of its client. Others, and a cancellation, say nothing.
    """

    one_of: ClassVar[str | None] = "circuit breaker"

    @overload  # for the class as it is: type checkers need not be told what it applies to
    def __init__(self: "CircuitBreakerBehavior[Request[Any]]", circuit: Circuit, *, on: Errors) -> None: ...

    @overload
    def __init__(self, circuit: Circuit, *, on: Errors) -> None: ...  # pyright: ignore[reportOverlappingOverload]

    def __init__(self, circuit: Circuit, *, on: Errors) -> None:
        self._circuit = circuit
        self._on = on
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator")

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        """Go on if the circuit lets the message through, and tell it how that went.

        Raises:
            CircuitOpenError: The circuit is open.
        """
        circuit, name = self._circuit, type(message).__name__
        trying = circuit.enter()
        if trying is None:
            raise CircuitOpenError(message, circuit.retry_after)
        try:
            response = await call_next()
        except self._on as error:
            if circuit.failed(trying):
                again, kind = round(circuit.retry_after, 3), type(error).__name__
                self._log.warning("circuit opened", message=name, error=kind, seconds=again, **running_fields())
            raise
        except BaseException:
            circuit.abandoned(trying)
            raise
        if circuit.succeeded(trying):
            self._log.info("circuit closed", message=name, **running_fields())
        return response
