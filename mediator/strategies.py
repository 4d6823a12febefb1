"""PublishStrategy: how the handlers of one notification are run."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mediator.errors import ContainerError, SettingError

HandlerCall = Callable[[], Awaitable[None]]
"""Runs one handler, with the behaviors around it."""


class PublishStrategy(ABC):
    """How the handlers of one notification are run. Derive from it for another one than the two below.

    A strategy is compared and hashed to keep compiled pipelines: make it a frozen dataclass.
    """

    scope_per_handler: ClassVar[bool] = False
    """Whether each handler has a scope of its own, and so a transaction of its own."""

    @abstractmethod
    async def run(self, calls: Sequence[HandlerCall], notification: Any, /) -> None:
        """Run every handler, given in the order of declaration, and raise what failed."""


def check_strategy(strategy: object) -> None:
    """Make sure that a strategy is one, and not its class or name, and that it can be told from others.

    Raises:
        SettingError: It is not.
    """
    if not isinstance(strategy, PublishStrategy):
        called = strategy.__name__ if isinstance(strategy, type) else "Sequential"
        raise SettingError("strategy", strategy, f"it is no PublishStrategy. Write `strategy={called}()`, for one.")
    try:
        hash(strategy)
    except TypeError:
        problem = f"it is not hashable. Make {type(strategy).__name__} a frozen dataclass."
        raise SettingError("strategy", strategy, problem) from None


@dataclass(frozen=True, slots=True)
class Sequential(PublishStrategy):
    """One after the other, in the scope and the transaction of the publish.

    Attributes:
        on_error: `"stop"` at the first error, which is raised as it is; `"collect"` runs every handler, and raises the one
            error as it is, or several as an `ExceptionGroup`.
    """

    on_error: Literal["stop", "collect"] = "stop"

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "collect"):
            raise ContainerError(self, f'Sequential(on_error=...) is "stop" or "collect", and not {self.on_error!r}.')

    async def run(self, calls: Sequence[HandlerCall], notification: Any, /) -> None:
        """Run them in order."""
        errors: list[BaseException] = []
        for call in calls:
            try:
                await call()
            except Exception as error:  # collected, if asked for: the other handlers still run
                if self.on_error == "stop":
                    raise
                errors.append(error)
        raise_collected(errors, notification)


@dataclass(frozen=True, slots=True)
class Concurrent(PublishStrategy):
    """All at the same time, each in a task, a scope and a transaction of its own.

    All of them run to their end, also when one fails; the one error is raised as it is, several as an `ExceptionGroup`.
    Their transactions would commit even if an outer one rolled back, so it is not for use inside a unit of work.

    Attributes:
        limit: How many run at the same time; `None` for all.
    """

    scope_per_handler: ClassVar[bool] = True

    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ContainerError(self, f"Concurrent(limit=...) is at least 1, and not {self.limit}.")

    async def run(self, calls: Sequence[HandlerCall], notification: Any, /) -> None:
        """Run them in a task group."""
        turns = asyncio.Semaphore(self.limit or max(len(calls), 1))

        async def take_turn(call: HandlerCall) -> BaseException | None:
            async with turns:
                return await _error_of(call)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(take_turn(call)) for call in calls]
        ends = [_end_of(task) for task in tasks]
        raise_collected([error for error in ends if error is not None], notification)


async def _error_of(call: HandlerCall) -> BaseException | None:
    try:
        await call()
    except BaseException as error:
        if not is_failure(error):
            raise
        return error  # and not raised: the other handlers still run
    return None


def _end_of(task: asyncio.Task[BaseException | None]) -> BaseException | None:
    """What a task that has ended failed with. The group passes over one that was cancelled, by itself or by others."""
    try:
        return task.result()
    except asyncio.CancelledError as error:
        return error


def is_failure(error: BaseException) -> bool:
    """Whether an error, or each in a group, is one of what it was raised in, and not of the whole program.

    A group may hold a cancellation that one handler of several has raised; that on its own stays what it is.
    """
    inside: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    failures = (isinstance(each, asyncio.CancelledError) or is_failure(each) for each in inside)
    return isinstance(error, Exception) or (isinstance(error, BaseExceptionGroup) and all(failures))


def raise_collected(errors: Sequence[BaseException], notification: Any) -> None:
    """Raise one error as it is, several as a group."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup(f"errors in the handlers of {type(notification).__name__}", errors)
