"""The behaviors of this library. `RetryBehavior` needs an extra, so import it from `mediator.behaviors.retry`."""

from mediator.behaviors.authorization import AuthorizationBehavior, Authorizer, StreamAuthorizationBehavior
from mediator.behaviors.caching import Cache, CachingBehavior, MemoryCache
from mediator.behaviors.circuit_breaker import Circuit, CircuitBreakerBehavior
from mediator.behaviors.limiting import ConcurrencyLimitBehavior, RateLimitBehavior
from mediator.behaviors.logging import LoggingBehavior, StreamLoggingBehavior, add_message_context
from mediator.behaviors.processors import (
    Handled,
    RequestExceptionAction,
    RequestExceptionActionProcessorBehavior,
    RequestExceptionHandler,
    RequestExceptionProcessorBehavior,
    RequestPostProcessor,
    RequestPostProcessorBehavior,
    RequestPreProcessor,
    RequestPreProcessorBehavior,
)
from mediator.behaviors.timeout import TimeoutBehavior
from mediator.behaviors.validation import StreamValidationBehavior, ValidationBehavior, Validator

__all__ = [
    "AuthorizationBehavior",
    "Authorizer",
    "Cache",
    "CachingBehavior",
    "Circuit",
    "CircuitBreakerBehavior",
    "ConcurrencyLimitBehavior",
    "Handled",
    "LoggingBehavior",
    "MemoryCache",
    "RateLimitBehavior",
    "RequestExceptionAction",
    "RequestExceptionActionProcessorBehavior",
    "RequestExceptionHandler",
    "RequestExceptionProcessorBehavior",
    "RequestPostProcessor",
    "RequestPostProcessorBehavior",
    "RequestPreProcessor",
    "RequestPreProcessorBehavior",
    "StreamAuthorizationBehavior",
    "StreamLoggingBehavior",
    "StreamValidationBehavior",
    "TimeoutBehavior",
    "ValidationBehavior",
    "Validator",
    "add_message_context",
]
