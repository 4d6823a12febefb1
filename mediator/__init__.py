"""A typed, asynchronous mediator: messages, handlers, pipelines and scopes. Importing this package needs no extra."""

__version__: str = "0.1.0"

from mediator.aggregates import AggregateRoot
from mediator.behaviors import (
    AuthorizationBehavior,
    Authorizer,
    LoggingBehavior,
    TimeoutBehavior,
    ValidationBehavior,
    Validator,
)
from mediator.context import MessageContext
from mediator.distributed.behaviors import DistributedUnitOfWorkBehavior, ReadOnlyTransactionBehavior
from mediator.distributed.events import DistributedEvent
from mediator.distributed.idempotency import IdempotencyBehavior
from mediator.distributed.inbox import DistributedEventHandler, EventConsumer, current_delivery
from mediator.distributed.outbox import OutboxRelay
from mediator.distributed.unit_of_work import DistributedEventBroker, UnitOfWork, current_unit_of_work
from mediator.errors import MediatorError, ValidationFailure
from mediator.functions import as_handler, as_sync_handler
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command, Notification, Publisher, Query, Request, Sender, StreamRequest
from mediator.pipeline import CallNext, NotificationPipelineBehavior, PipelineBehavior
from mediator.scope import current_context, current_scope
from mediator.strategies import Concurrent, Sequential
from mediator.streams import StreamNext, StreamPipelineBehavior
from mediator.transactions import TransactionMode

__all__ = [
    "AggregateRoot",
    "AuthorizationBehavior",
    "Authorizer",
    "CallNext",
    "Command",
    "Concurrent",
    "DistributedEvent",
    "DistributedEventBroker",
    "DistributedEventHandler",
    "DistributedUnitOfWorkBehavior",
    "EventConsumer",
    "IdempotencyBehavior",
    "LoggingBehavior",
    "Mediator",
    "MediatorError",
    "MessageContext",
    "Notification",
    "NotificationHandler",
    "NotificationPipelineBehavior",
    "OutboxRelay",
    "PipelineBehavior",
    "Publisher",
    "Query",
    "ReadOnlyTransactionBehavior",
    "Request",
    "RequestHandler",
    "Sender",
    "Sequential",
    "StreamNext",
    "StreamPipelineBehavior",
    "StreamRequest",
    "StreamRequestHandler",
    "TimeoutBehavior",
    "TransactionMode",
    "UnitOfWork",
    "ValidationBehavior",
    "ValidationFailure",
    "Validator",
    "as_handler",
    "as_sync_handler",
    "current_context",
    "current_delivery",
    "current_scope",
    "current_unit_of_work",
]
