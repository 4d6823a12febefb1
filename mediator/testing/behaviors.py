"""BehaviorRun: one behavior, run alone around a stand-in for everything inside it."""

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mediator.context import MessageContext
from mediator.mediator import Mediator
from mediator.pipeline import PipelineBehavior
from mediator.registry import Registry

R = TypeVar("R")

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


async def run_behavior(
    behavior: PipelineBehavior[Any, R],
    message: Any,
    *,
    returns: Any = None,
    raises: BaseException | None = None,
    context: MessageContext | None = None,
) -> BehaviorRun[R]:
    """Run a behavior in a scope of its own.

        run = await run_behavior(Audit(log), Enroll("Ada"), returns="42")
        assert run.response == "42"

    Args:
        behavior: The behavior.
        message: What it is to handle.
        returns: What `call_next` returns.
        raises: What `call_next` raises instead.
        context: The context of the message.
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
        response = await behavior.handle(message, call_next)
    return BehaviorRun(response, inner)
