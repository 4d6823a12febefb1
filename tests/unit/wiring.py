"""A mediator wired by hand: from classes, objects and bindings, without a container."""

from typing import Any

from mediator import (
    Binding,
    Mediator,
    NotificationHandler,
    NotificationPipelineBehavior,
    PipelineBehavior,
    Registry,
    RequestHandler,
    StreamPipelineBehavior,
    StreamRequestHandler,
)
from mediator.companions import kinds_of

KINDS = (
    RequestHandler,
    NotificationHandler,
    StreamRequestHandler,
    PipelineBehavior,
    NotificationPipelineBehavior,
    StreamPipelineBehavior,
)


def bind(part: Any, source: Any = None) -> Binding:
    """Bind a class (made anew each time it is needed), an object (always the same one), or a class made by `source`."""
    if isinstance(part, Binding):
        return part
    cls = part if isinstance(part, type) else type(part)
    if source is None:
        source = part if isinstance(part, type) else lambda: part
    kind = next(kind for kind in (*kinds_of(cls), *KINDS) if issubclass(cls, kind))
    return Binding(source, cls, f"container.{cls.__name__}", kind)


def wire(*handlers: Any, behaviors: Any = (), companions: Any = (), **options: Any) -> Mediator:
    """A started mediator."""
    bound = [[bind(part) for part in parts] for parts in (handlers, behaviors, companions)]
    registry = Registry(*bound)
    return Mediator(registry, **options)


def handles(message: type, work: Any) -> RequestHandler[Any, Any]:
    """A handler of requests that does `await work(request)`."""

    class Handler(RequestHandler[message, Any]):
        async def handle(self, request, /):
            return await work(request)

    return Handler()


def listens(message: Any, work: Any) -> NotificationHandler[Any]:
    """A handler of notifications that does `await work(notification)`."""

    class Listener(NotificationHandler[message]):
        async def handle(self, notification, /):
            await work(notification)

    return Listener()


def around(message: Any, work: Any) -> PipelineBehavior[Any, Any]:
    """A behavior that does `await work(message, call_next)`."""

    class Around(PipelineBehavior[message, Any]):
        async def handle(self, message, call_next, /):
            return await work(message, call_next)

    return Around()


def streams(message: Any, work: Any) -> StreamRequestHandler[Any, Any]:
    """A handler of stream requests that gives `work(request)`."""

    class Streamer(StreamRequestHandler[message, Any]):
        def handle(self, request, /):
            return work(request)

    return Streamer()


def along(message: Any, work: Any) -> StreamPipelineBehavior[Any, Any]:
    """A behavior around streams that gives `work(request, call_next)`."""

    class Along(StreamPipelineBehavior[message, Any]):
        def handle(self, request, call_next, /):
            return work(request, call_next)

    return Along()
