"""BehaviorRun: the result of running one behavior alone, with a prepared answer in place of a handler."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar, overload

from mediator.binding import Binding
from mediator.collaborators import (
    Collaborator,
    CollaboratorBehavior,
    StreamCollaboratorBehavior,
    WorksWithCollaborators,
    equipped,
    kinds_of,
)
from mediator.context import MessageContext
from mediator.errors import ContainerError
from mediator.handlers import NotificationHandler
from mediator.mediator import Mediator
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior, behavior_link, notification_behavior_link
from mediator.registry import Registry
from mediator.streams import StreamPipelineBehavior
from mediator.watching import check_awaited

R = TypeVar("R")
T = TypeVar("T")

_KEEP: Any = object()


@dataclass(slots=True)
class BehaviorRun(Generic[R]):
    """The result of one behavior's run.

    Attributes:
        response: What the behavior returned.
        inner: The message of each `call_next` call, in order. Empty if the behavior did not call `call_next`.
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
    collaborators: Iterable[Collaborator] = ...,
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
    collaborators: Iterable[Collaborator] = (),
) -> BehaviorRun[Any]:
    """Run a behavior in a new scope. Return the behavior's response, and the messages that were passed to `call_next`.

        run = await run_behavior(Audit(log), Enroll("Ada"), returns="42")
        assert run.response == "42"

    Args:
        behavior: The behavior.
        message: The message that the behavior handles.
        handler: The class of the handler that a `NotificationPipelineBehavior` wraps.
        returns: The value that `call_next` returns.
        raises: The error that `call_next` raises instead of returning a value.
        context: The context of the message.
        collaborators: The validators, authorizers or other collaborators that the behavior works with. Collaborators
            that do not take `message` are ignored.

    Raises:
        MisuseError: The behavior did not await `call_next()`, or passed `call_next` a message of another class.
        ContainerError: The behavior does not work with one of the collaborators.
    """
    inner: list[Any] = []

    async def answer(handled: Any) -> Any:
        inner.append(handled)
        if raises is not None:
            raise raises
        return returns

    source = partial(_same, behavior)
    async with Mediator(Registry()).scope(message=message, context=context):
        bound = _bound(behavior, collaborators, message)
        if issubclass(type(behavior), NotificationPipelineBehavior):
            chain = notification_behavior_link(source, handler, answer)
        elif issubclass(type(behavior), CollaboratorBehavior):
            chain = behavior_link(equipped(source, bound), answer)
        else:
            chain = behavior_link(source, answer)
        response = await chain(message)
        check_awaited(response, message)
    return BehaviorRun(response, inner)


async def run_stream_behavior(
    behavior: StreamPipelineBehavior[Any, T],
    request: Any,
    *,
    yields: Iterable[Any] = (),
    raises: BaseException | None = None,
    context: MessageContext | None = None,
    collaborators: Iterable[Collaborator] = (),
) -> BehaviorRun[list[T]]:
    """Run a stream behavior in a new scope, read its stream to the end, and return the items as the response.

        run = await run_stream_behavior(UpperCase(), ListStudents(), yields=["Ada"])
        assert run.response == ["ADA"]

    Args:
        behavior: The behavior.
        request: The stream request that the behavior handles.
        yields: The items that `call_next` yields.
        raises: The error that `call_next` raises after the last item.
        context: The context of the request.
        collaborators: The collaborators that the behavior works with, as in `run_behavior`.

    Raises:
        ContainerError: The behavior does not work with one of the collaborators.
    """
    inner: list[Any] = []

    async def call_next(replacement: Any = _KEEP, /) -> AsyncIterator[Any]:
        inner.append(request if replacement is _KEEP else replacement)
        for item in yields:
            yield item
        if raises is not None:
            raise raises

    async with Mediator(Registry()).scope(message=request, context=context):
        bound = _bound(behavior, collaborators, request)
        running: Any = behavior
        if isinstance(behavior, StreamCollaboratorBehavior):
            running = equipped(partial(_same, behavior), bound)()
        items = [item async for item in running.handle(request, call_next)]
    return BehaviorRun(items, inner)


def _bound(behavior: Any, collaborators: Iterable[Collaborator], message: object) -> list[Binding]:
    """Return bindings of the collaborators, as a registry makes them. Bindings that do not take the message are left out."""
    works_with = behavior.works_with if isinstance(behavior, WorksWithCollaborators) else ()
    bound: list[Binding] = []
    for collaborator in collaborators:
        cls = type(collaborator)
        kinds = [kind for kind in kinds_of(cls) if kind in works_with]
        if not kinds:
            known = f", but with a {' or '.join(kind.__name__ for kind in works_with)}" if works_with else ""
            raise ContainerError(collaborator, f"{type(behavior).__name__} does not work with a {cls.__name__}{known}.")
        bound += [Binding(partial(_same, collaborator), cls, cls.__name__, kind) for kind in kinds]
    return [binding for binding in bound if binding.takes(type(message))]


def _same(part: Any) -> Any:
    return part
