"""A typed, asynchronous mediator: messages, handlers, pipelines, scopes. Nothing here needs an extra."""

from mediator.behaviors.logging import LoggingBehavior, add_message_context
from mediator.context import MessageContext
from mediator.distributed.behavior import DistributedUnitOfWorkBehavior
from mediator.distributed.broker import DistributedEventBroker
from mediator.distributed.consumer import DistributedEventHandler, EventConsumer, current_delivery
from mediator.distributed.events import DistributedEvent
from mediator.distributed.relay import OutboxRelay
from mediator.distributed.unit_of_work import UnitOfWork, current_unit_of_work
from mediator.errors import MediatorError
from mediator.handlers import NotificationHandler, RequestHandler
from mediator.headers import Headers
from mediator.mediator import Mediator, Publisher, Sender
from mediator.messages import Command, Notification, Query, Request
from mediator.pipeline import CallNext, NotificationPipelineBehavior, PipelineBehavior
from mediator.registry import Binding, Registry
from mediator.scope import Outcome, Scope, TransactionMode, current_context, current_scope
from mediator.strategies import Concurrent, PublishStrategy, Sequential

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
    "Headers",
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
    "TransactionMode",
    "UnitOfWork",
    "add_message_context",
    "current_context",
    "current_delivery",
    "current_scope",
    "current_unit_of_work",
]
