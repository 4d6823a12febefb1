"""A typed, asynchronous mediator: messages, handlers, pipelines, scopes. Nothing here needs an extra."""

from mediator.behaviors.logging import LoggingBehavior, StreamLoggingBehavior
from mediator.context import MessageContext
from mediator.distributed.behavior import DistributedUnitOfWorkBehavior
from mediator.distributed.broker import DistributedEventBroker
from mediator.distributed.consumer import DistributedEventHandler, EventConsumer, current_delivery
from mediator.distributed.events import DistributedEvent
from mediator.distributed.relay import OutboxRelay
from mediator.distributed.unit_of_work import UnitOfWork, current_unit_of_work
from mediator.errors import MediatorError
from mediator.functions import as_handler, as_sync_handler
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler
from mediator.mediator import Mediator, Publisher, Sender
from mediator.messages import Command, Notification, Query, Request, StreamRequest
from mediator.pipeline import CallNext, NotificationPipelineBehavior, PipelineBehavior
from mediator.registry import Binding, Registry
from mediator.scope import Outcome, Scope, TransactionMode, current_context, current_scope
from mediator.strategies import Concurrent, PublishStrategy, Sequential
from mediator.streams import StreamNext, StreamPipelineBehavior

__all__ = [
    "Binding",
    "CallNext",
    "Command",
    "Concurrent",
    "DistributedEvent",
    "DistributedEventBroker",
    "DistributedEventHandler",
    "DistributedUnitOfWorkBehavior",
    "EventConsumer",
    "LoggingBehavior",
    "Mediator",
    "MediatorError",
    "MessageContext",
    "Notification",
    "NotificationHandler",
    "NotificationPipelineBehavior",
    "OutboxRelay",
    "Outcome",
    "PipelineBehavior",
    "PublishStrategy",
    "Publisher",
    "Query",
    "Registry",
    "Request",
    "RequestHandler",
    "Scope",
    "Sender",
    "Sequential",
    "StreamLoggingBehavior",
    "StreamNext",
    "StreamPipelineBehavior",
    "StreamRequest",
    "StreamRequestHandler",
    "TransactionMode",
    "UnitOfWork",
    "as_handler",
    "as_sync_handler",
    "current_context",
    "current_delivery",
    "current_scope",
    "current_unit_of_work",
]
