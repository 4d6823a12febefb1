"""Make a mediator from classes, objects and bindings, without a container."""

from typing import Any

from mediator import (
    Mediator,
    NotificationHandler,
    NotificationPipelineBehavior,
    PipelineBehavior,
    RequestHandler,
    StreamPipelineBehavior,
    StreamRequestHandler,
)
from mediator.binding import Binding
from mediator.collaborators import kinds_of
from mediator.registry import Registry

KINDS = (
    RequestHandler,
    NotificationHandler,
    StreamRequestHandler,
    PipelineBehavior,
    NotificationPipelineBehavior,
    StreamPipelineBehavior,
)


def bind(part: Any, source: Any = None) -> Binding:
    """Bind a class (with a new instance for each use), an object, or a class whose instances `source` makes."""
    if isinstance(part, Binding):
        return part
    cls = part if isinstance(part, type) else type(part)
    if source is None:
        source = part if isinstance(part, type) else lambda: part
    kind = next(kind for kind in (*kinds_of(cls), *KINDS) if issubclass(cls, kind))
    return Binding(source, cls, f"container.{cls.__name__}", kind)


def wire(*handlers: Any, behaviors: Any = (), collaborators: Any = (), **options: Any) -> Mediator:
    """Return a started mediator."""
    bound = [[bind(part) for part in parts] for parts in (handlers, behaviors, collaborators)]
    registry = Registry(*bound)
    return Mediator(registry, **options)


def handles(message: type, work: Any) -> RequestHandler[Any, Any]:
    """Return a request handler that does `await work(request)`."""

    class Handler(RequestHandler[message, Any]):
        async def handle(self, request, /):
            return await work(request)

    return Handler()


def listens(message: Any, work: Any) -> NotificationHandler[Any]:
    """Return a notification handler that does `await work(notification)`."""

    class Listener(NotificationHandler[message]):
        async def handle(self, notification, /):
            await work(notification)

    return Listener()


def around(message: Any, work: Any) -> PipelineBehavior[Any, Any]:
    """Return a behavior that does `await work(message, call_next)`."""

    class Around(PipelineBehavior[message, Any]):
        async def handle(self, message, call_next, /):
            return await work(message, call_next)

    return Around()


def streams(message: Any, work: Any) -> StreamRequestHandler[Any, Any]:
    """Return a stream request handler that returns `work(request)`."""

    class Streamer(StreamRequestHandler[message, Any]):
        def handle(self, request, /):
            return work(request)

    return Streamer()


def along(message: Any, work: Any) -> StreamPipelineBehavior[Any, Any]:
    """Return a behavior around streams that returns `work(request, call_next)`."""

    class Along(StreamPipelineBehavior[message, Any]):
        def handle(self, request, call_next, /):
            return work(request, call_next)

    return Along()
