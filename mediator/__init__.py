"""A typed, asynchronous mediator: messages, handlers, pipelines, scopes. Nothing here needs an extra."""

from mediator.aggregates import AggregateRoot
from mediator.behaviors.authorization import AuthorizationBehavior, Authorizer, StreamAuthorizationBehavior
from mediator.behaviors.caching import Cache, CachingBehavior, MemoryCache
from mediator.behaviors.circuit_breaker import Circuit, CircuitBreakerBehavior
from mediator.behaviors.concurrency_limit import ConcurrencyLimitBehavior
from mediator.behaviors.exceptions import RequestExceptionActionProcessorBehavior, RequestExceptionProcessorBehavior
from mediator.behaviors.logging import LoggingBehavior, StreamLoggingBehavior, add_message_context
from mediator.behaviors.processing import RequestPostProcessorBehavior, RequestPreProcessorBehavior
from mediator.behaviors.rate_limit import RateLimitBehavior
from mediator.behaviors.timeout import TimeoutBehavior
from mediator.behaviors.validation import StreamValidationBehavior, ValidationBehavior, Validator
from mediator.binding import Binding
from mediator.context import MessageContext
from mediator.distributed.behavior import DistributedUnitOfWorkBehavior
from mediator.distributed.broker import DistributedEventBroker
from mediator.distributed.consumer import EventConsumer
from mediator.distributed.current import current_unit_of_work
from mediator.distributed.encryption import EncryptingCodec, PayloadCipher
from mediator.distributed.events import DistributedEvent, Upcaster
from mediator.distributed.handler import DistributedEventHandler, current_delivery
from mediator.distributed.idempotency import Idempotency
from mediator.distributed.idempotency_behavior import IdempotencyBehavior
from mediator.distributed.read_only import ReadOnlyTransactionBehavior
from mediator.distributed.relay import OutboxRelay
from mediator.distributed.remote import RemoteSender
from mediator.distributed.responder import RequestResponder, trust_broker
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import MediatorError, ValidationFailure
from mediator.functions import as_handler, as_sync_handler
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler
from mediator.headers import Headers
from mediator.mediator import Mediator
from mediator.messages import Command, Notification, Query, Request, StreamRequest
from mediator.pipeline import CallNext, NotificationPipelineBehavior, PipelineBehavior
from mediator.processors import (
    Handled,
    RequestExceptionAction,
    RequestExceptionHandler,
    RequestPostProcessor,
    RequestPreProcessor,
)
from mediator.registry import Registry
from mediator.scope import Scope, current_context, current_scope
from mediator.sender import Publisher, Sender
from mediator.strategies import Concurrent, PublishStrategy, Sequential
from mediator.streams import StreamNext, StreamPipelineBehavior
from mediator.transactions import Outcome, TransactionMode

__all__ = [
    "AggregateRoot",
    "AuthorizationBehavior",
    "Authorizer",
    "Binding",
    "Cache",
    "CachingBehavior",
    "CallNext",
    "Circuit",
    "CircuitBreakerBehavior",
    "Command",
    "ConcurrencyLimitBehavior",
    "Concurrent",
    "DistributedEvent",
    "DistributedEventBroker",
    "DistributedEventHandler",
    "DistributedUnitOfWorkBehavior",
    "EncryptingCodec",
    "EventConsumer",
    "Handled",
    "Headers",
    "Idempotency",
    "IdempotencyBehavior",
    "LoggingBehavior",
    "Mediator",
    "MediatorError",
    "MemoryCache",
    "MessageContext",
    "Notification",
    "NotificationHandler",
    "NotificationPipelineBehavior",
    "OutboxRelay",
    "Outcome",
    "PayloadCipher",
    "PipelineBehavior",
    "PublishStrategy",
    "Publisher",
    "Query",
    "RateLimitBehavior",
    "ReadOnlyTransactionBehavior",
    "Registry",
    "RemoteSender",
    "Request",
    "RequestExceptionAction",
    "RequestExceptionActionProcessorBehavior",
    "RequestExceptionHandler",
    "RequestExceptionProcessorBehavior",
    "RequestHandler",
    "RequestPostProcessor",
    "RequestPostProcessorBehavior",
    "RequestPreProcessor",
    "RequestPreProcessorBehavior",
    "RequestResponder",
    "Scope",
    "Sender",
    "Sequential",
    "StreamAuthorizationBehavior",
    "StreamLoggingBehavior",
    "StreamNext",
    "StreamPipelineBehavior",
    "StreamRequest",
    "StreamRequestHandler",
    "StreamValidationBehavior",
    "TimeoutBehavior",
    "TransactionMode",
    "UnitOfWork",
    "Upcaster",
    "ValidationBehavior",
    "ValidationFailure",
    "Validator",
    "add_message_context",
    "as_handler",
    "as_sync_handler",
    "current_context",
    "current_delivery",
    "current_scope",
    "current_unit_of_work",
    "trust_broker",
]
