"""Role: as what the objects of a class are called by the library, which is how they are found."""

import inspect
from abc import ABC
from typing import TypeVar

from mediator.companions import kinds_of
from mediator.dependency_injector.provider_kinds import Kinds
from mediator.distributed.handler import DistributedEventHandler
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler, type_arguments

HANDLERS: Kinds = (RequestHandler, NotificationHandler, StreamRequestHandler, DistributedEventHandler)


def roles_of(cls: type) -> tuple[type, ...]:
    """The kinds of handler and of companion that a class is; empty for most classes."""
    return (*(kind for kind in HANDLERS if issubclass(cls, kind)), *kinds_of(cls))


def is_for_use(cls: type) -> bool:
    """Whether a class has a role and is meant to be made, rather than to be derived from.

    A class that is abstract although it looks finished (its `handle` is misspelt, say) counts: that is a fault, which
    would go unnoticed if the class were left out.
    """
    roles = roles_of(cls)
    if not roles or cls in roles:
        return False
    messages = [(type_arguments(cls, role) or (None,))[0] for role in roles]
    generic = all(isinstance(message, TypeVar) for message in messages)
    return not generic and not (inspect.isabstract(cls) and _is_unfinished_by_intent(cls))


def _is_unfinished_by_intent(cls: type) -> bool:
    adds = any(getattr(value, "__isabstractmethod__", False) for value in vars(cls).values())
    return adds or ABC in cls.__bases__ or bool(cls.__subclasses__())
