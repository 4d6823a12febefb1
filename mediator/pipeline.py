"""Pipeline: the behaviors around a message and what handles it, compiled once into a chain of calls.

Every link resolves its object when the chain reaches it, so what lies inside a behavior that returns early is never
built, and calling on again builds it afresh. A link is a plain function that returns the coroutine of the next `handle`:
a traceback shows behaviors and handlers only.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

Message_contra = TypeVar("Message_contra", contravariant=True)
Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)

Source = Callable[[], Any]
"""Anything that gives an object (or an awaitable of it) when called: a provider of a container, for one."""

Call = Callable[..., Awaitable[Any]]

_KEEP: Any = object()


class CallNext(Protocol[Response_co]):
    """Goes on with the rest of the pipeline, for the same message or for the one given in its place."""

    def __call__(self, message: Any = ..., /) -> Awaitable[Response_co]:
        """Resolve and run everything inside this behavior. May be called again, or not at all."""
        ...


class PipelineBehavior(ABC, Generic[Message_contra, Response]):
    """Something that happens around the handling of a message.

    The type argument says where it applies: `PipelineBehavior[Command[Any], Any]` wraps every command,
    `PipelineBehavior[A | B, None]` these two, `PipelineBehavior[Any, Any]` everything.
    """

    one_of: ClassVar[str | None] = None
    """Of the behaviors that share this name only the one with the most specific type argument applies to a message."""

    @abstractmethod
    async def handle(self, message: Message_contra, call_next: CallNext[Response], /) -> Response:
        """Return the response: that of `await call_next()`, or another one."""


def handler_link(source: Source) -> Call:
    """The innermost link of a request: its handler."""

    def call(message: Any, replacement: Any = _KEEP, /) -> Awaitable[Any]:
        if replacement is not _KEEP:
            message = replacement
        handler = source()
        if hasattr(handler, "__await__"):
            return _handle_when_resolved(handler, message)
        result: Awaitable[Any] = handler.handle(message)
        return result

    return call


def handlers_link(sources: Sequence[Source]) -> Call:
    """The innermost link of a notification or an event: all its handlers, in order; the first error stops."""

    async def call(message: Any, replacement: Any = _KEEP, /) -> None:
        if replacement is not _KEEP:
            message = replacement
        for source in sources:
            handler = source()
            if hasattr(handler, "__await__"):
                handler = await handler
            await handler.handle(message)

    return call


def behavior_link(source: Source, inner: Call) -> Call:
    """A link that lets a behavior decide about the links inside it."""

    def call(message: Any, replacement: Any = _KEEP, /) -> Awaitable[Any]:
        if replacement is not _KEEP:
            message = replacement
        behavior = source()
        if hasattr(behavior, "__await__"):
            return _handle_when_resolved(behavior, message, partial(inner, message))
        result: Awaitable[Any] = behavior.handle(message, partial(inner, message))
        return result

    return call


async def _handle_when_resolved(resolving: Awaitable[Any], *arguments: Any) -> Any:
    return await (await resolving).handle(*arguments)


def compile_chain(behaviors: Sequence[Source], innermost: Call) -> Call:
    """Fold behaviors, outermost first, around the innermost link."""
    chain = innermost
    for source in reversed(behaviors):
        chain = behavior_link(source, chain)
    return chain
