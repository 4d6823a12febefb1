"""BehaviorRun: one behavior, run alone around a stand-in for everything inside it."""

from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

from mediator.context import MessageContext
from mediator.handlers import NotificationHandler
from mediator.mediator import Mediator
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior
from mediator.registry import Registry
from mediator.streams import StreamPipelineBehavior
from mediator.watching import check_awaited

R = TypeVar("R")
T = TypeVar("T")

_KEEP: Any = object()


@dataclass(slots=True)
class BehaviorRun(Generic[R]):
    """How it went.

    Attributes:
        response: What the behavior returned.
        inner: The messages with which it called on, in order; empty when it did not.
    """

    response: R
    inner: list[Any] = field(default_factory=list[Any])


@overload
async def run_behavior(
    behavior: PipelineBehavior[Any, R],
    message: Any,
    *,
    returns: Any = ...,
    raises: BaseException | None = ...,
    context: MessageContext | None = ...,
) -> BehaviorRun[R]: ...
@overload
async def run_behavior(
    behavior: NotificationPipelineBehavior[Any],
    message: Any,
    *,
    handler: type = ...,
    raises: BaseException | None = ...,
    context: MessageContext | None = ...,
) -> BehaviorRun[None]: ...
async def run_behavior(
    behavior: PipelineBehavior[Any, Any] | NotificationPipelineBehavior[Any],
    message: Any,
    *,
    handler: type = NotificationHandler,
    returns: Any = None,
    raises: BaseException | None = None,
    context: MessageContext | None = None,
) -> BehaviorRun[Any]:
    """Run a behavior in a scope of its own.

        run = await run_behavior(Audit(log), Enroll("Ada"), returns="42")
        assert run.response == "42"

    Args:
        behavior: The behavior.
        message: What it is to handle.
        handler: The handler that it is around, of a `NotificationPipelineBehavior`.
        returns: What `call_next` returns.
        raises: What `call_next` raises instead.
        context: The context of the message.

    Raises:
        NotAwaitedError: It did not await `call_next()`.
    """
    inner: list[Any] = []

    def call_next(replacement: Any = _KEEP, /) -> Coroutine[Any, Any, Any]:
        return _answer(message if replacement is _KEEP else replacement)

    async def _answer(handled: Any) -> Any:
        inner.append(handled)
        if raises is not None:
            raise raises
        return returns

    async with Mediator(Registry()).scope(message=message, context=context):
        around_each = isinstance(behavior, NotificationPipelineBehavior)
        arguments: tuple[Any, ...] = (message, handler, call_next) if around_each else (message, call_next)
        handle: Any = behavior.handle
        response = await handle(*arguments)
        check_awaited(response, message)
    return BehaviorRun(response, inner)


async def run_stream_behavior(
    behavior: StreamPipelineBehavior[Any, T],
    request: Any,
    *,
    yields: Iterable[Any] = (),
    raises: BaseException | None = None,
    context: MessageContext | None = None,
) -> BehaviorRun[list[T]]:
    """Run a behavior around a stream in a scope of its own, to the end of its items, which are the response.

        run = await run_stream_behavior(UpperCase(), ListStudents(), yields=["Ada"])
        assert run.response == ["ADA"]

    Args:
        behavior: The behavior.
        request: What it is to handle.
        yields: The items that `call_next` gives.
        raises: What it raises after them.
        context: The context of the request.
    """
    inner: list[Any] = []

    async def call_next(replacement: Any = _KEEP, /) -> AsyncIterator[Any]:
        inner.append(request if replacement is _KEEP else replacement)
        for item in yields:
            yield item
        if raises is not None:
            raise raises

    async with Mediator(Registry()).scope(message=request, context=context):
        items = [item async for item in behavior.handle(request, call_next)]
    return BehaviorRun(items, inner)
