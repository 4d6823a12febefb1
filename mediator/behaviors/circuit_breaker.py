"""CircuitBreakerBehavior: refuses messages for a while when a service that they depend on fails."""

import time
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, overload

from mediator.ambient import running_fields
from mediator.errors import CircuitOpenError, SettingError
from mediator.logger import Logger
from mediator.messages import Request
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.settings import is_count, is_seconds

Message = TypeVar("Message", bound=Request[Any])
Errors = type[Exception] | tuple[type[Exception], ...]


class Circuit:
    """The state of a circuit breaker. Make one `Singleton` of this class for each service that messages depend on.

    A circuit is closed at first, and all messages pass. After `failures` failures in a row the circuit opens and
    refuses all messages. When it has been open for `seconds` seconds, it lets one message through as a trial. If the
    trial succeeds, the circuit closes; if the trial fails, the circuit stays open for `seconds` more. While the circuit
    is open, only the result of the trial counts. Messages that passed before the opening do not count.

    Args:
        failures: The number of failures in a row that opens the circuit.
        seconds: The time from the opening of the circuit to the trial, in seconds.
        clock: Returns the monotonic time in seconds.

    Raises:
        SettingError: `failures` is not a whole number of at least 1, or `seconds` is not a finite number above 0.
    """

    def __init__(
        self, *, failures: int = 5, seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not is_count(failures):
            raise SettingError("failures", failures, "use a whole number, at least 1")
        if not is_seconds(seconds):
            raise SettingError("seconds", seconds, "use a finite number of seconds above 0")
        self._failures = failures
        self._seconds = seconds
        self._clock = clock
        self._in_a_row = 0
        self._opened: float | None = None
        self._trying = False

    @property
    def open(self) -> bool:
        """`True` while the circuit is open and refuses all messages except a trial."""
        return self._opened is not None

    def enter(self) -> bool | None:
        """Return True if a message passes as the trial, False if it passes normally, and `None` if it is refused.

        When the message has ended, give True or False as `trying` to `succeeded`, `failed` or `abandoned`.
        """
        if self._opened is None:
            return False
        if self._trying or self.retry_after > 0:
            return None
        self._trying = True
        return True

    @property
    def retry_after(self) -> float:
        """Seconds until the next trial; 0.0 when the circuit is closed, or when a trial is due or running."""
        return 0.0 if self._opened is None else max(0.0, self._opened + self._seconds - self._clock())

    def succeeded(self, trying: bool) -> bool:
        """Record that a message succeeded, and return whether its success closes the circuit."""
        if self._opened is None or trying:
            self._in_a_row, self._opened, self._trying = 0, None, False
        return trying

    def failed(self, trying: bool) -> bool:
        """Record that a message failed, and return whether its failure opens the circuit."""
        if trying or self._opened is None:
            self._in_a_row += 1
            if trying or self._in_a_row >= self._failures:
                self._opened, self._trying = self._clock(), False
                return True
        return False

    def abandoned(self, trying: bool) -> None:
        """Record that a message ended with neither success nor failure.

        If the message was the trial, the next message becomes the trial.
        """
        if trying:
            self._trying = False


class CircuitBreakerBehavior(PipelineBehavior[Message, Any]):
    """Refuses messages with a `CircuitOpenError`, without handling them, while their circuit is open.

    Without a type argument, all requests share the circuit. For the messages that depend on one service, derive a class
    with a circuit of its own: `class PaymentBreaker(CircuitBreakerBehavior[Pay | Refund])`. Only the most specific
    circuit breaker applies to a message.

    Args:
        circuit: The circuit, shared by all messages that depend on the same service.
        on: The errors that count as failures of the service, such as the errors of its client. Other errors and a
            cancellation do not count.
    """

    one_of: ClassVar[str | None] = "circuit breaker"

    @overload  # for the class itself, without a type argument
    def __init__(self: "CircuitBreakerBehavior[Request[Any]]", circuit: Circuit, *, on: Errors) -> None: ...

    @overload
    def __init__(self, circuit: Circuit, *, on: Errors) -> None: ...  # pyright: ignore[reportOverlappingOverload]

    def __init__(self, circuit: Circuit, *, on: Errors) -> None:
        self._circuit = circuit
        self._on = on
        self._log: Logger = Logger()

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        circuit, name = self._circuit, type(message).__name__
        trying = circuit.enter()
        if trying is None:
            raise CircuitOpenError(message, circuit.retry_after)
        try:
            response = await call_next()
        except self._on as error:
            if circuit.failed(trying):
                again, kind = round(circuit.retry_after, 3), type(error).__name__
                self._log.warning("circuit opened", message_type=name, error=kind, seconds=again, **running_fields())
            raise
        except BaseException:
            circuit.abandoned(trying)
            raise
        if circuit.succeeded(trying):
            self._log.info("circuit closed", message_type=name, **running_fields())
        return response
