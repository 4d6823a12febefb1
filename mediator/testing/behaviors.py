"""BehaviorRun: one behavior, run alone around a stand-in for everything inside it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar, overload

from mediator.binding import Binding
from mediator.companions import (
    Companion,
    CompanionBehavior,
    StreamCompanionBehavior,
    WorksWithCompanions,
    equipped,
    kinds_of,
)
from mediator.context import MessageContext
from mediator.errors import ContainerError
from mediator.handlers import NotificationHandler
from mediator.mediator import Mediator
from mediator.pipeline import (
    Call,
    NotificationPipelineBehavior,
    PipelineBehavior,
    behavior_link,
    notification_behavior_link,
)
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
    companions: Iterable[Companion] = ...,
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
    companions: Iterable[Companion] = (),
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
        companions: The validators, authorizers or others that it works with; those for other messages are left out.

    Raises:
        NotAwaitedError: It did not await `call_next()`.
        ReplacementError: It called on with a message of another class.
        ContainerError: It does not work with one of the companions.
    """
    inner: list[Any] = []

    async def answer(handled: Any) -> Any:
        inner.append(handled)
        if raises is not None:
            raise raises
        return returns

    async with Mediator(Registry()).scope(message=message, context=context):
        response = await _chain(behavior, handler, _bound(behavior, companions, message), answer)(message)
        check_awaited(response, message)
    return BehaviorRun(response, inner)


async def run_stream_behavior(
    behavior: StreamPipelineBehavior[Any, T],
    request: Any,
    *,
    yields: Iterable[Any] = (),
    raises: BaseException | None = None,
    context: MessageContext | None = None,
    companions: Iterable[Companion] = (),
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
        companions: What it works with, as of `run_behavior`.

    Raises:
        ContainerError: It does not work with one of the companions.
    """
    inner: list[Any] = []

    async def call_next(replacement: Any = _KEEP, /) -> AsyncIterator[Any]:
        inner.append(request if replacement is _KEEP else replacement)
        for item in yields:
            yield item
        if raises is not None:
            raise raises

    async with Mediator(Registry()).scope(message=request, context=context):
        bound = _bound(behavior, companions, request)
        running: Any = behavior
        if isinstance(behavior, StreamCompanionBehavior):
            running = equipped(partial(_same, behavior), bound)()
        items = [item async for item in running.handle(request, call_next)]
    return BehaviorRun(items, inner)


def _chain(behavior: Any, handler: type, companions: Sequence[Binding], inner: Call) -> Call:
    source = partial(_same, behavior)
    if issubclass(type(behavior), NotificationPipelineBehavior):
        return notification_behavior_link(source, handler, inner)
    return behavior_link(
        equipped(source, companions) if issubclass(type(behavior), CompanionBehavior) else source, inner
    )


def _bound(behavior: Any, companions: Iterable[Companion], message: object) -> list[Binding]:
    """The companions that are for a message, as a registry would have found them."""
    works_with = behavior.works_with if isinstance(behavior, WorksWithCompanions) else ()
    bound: list[Binding] = []
    for companion in companions:
        cls = type(companion)
        kinds = [kind for kind in kinds_of(cls) if kind in works_with]
        if not kinds:
            known = f", but with a {' or '.join(kind.__name__ for kind in works_with)}" if works_with else ""
            raise ContainerError(companion, f"{type(behavior).__name__} does not work with a {cls.__name__}{known}.")
        bound += [Binding(partial(_same, companion), cls, cls.__name__, kind) for kind in kinds]
    return [binding for binding in bound if binding.takes(type(message))]


def _same(part: Any) -> Any:
    return part
