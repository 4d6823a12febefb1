"""PublishStrategy: how the handlers of one notification are run."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mediator.errors import ContainerError, SettingError
from mediator.settings import is_count

HandlerCall = Callable[[], Awaitable[None]]
"""A call that runs one handler with the behaviors around it."""


class PublishStrategy(ABC):
    """How the handlers of one notification are run. To write a strategy of your own, derive from this class.

    Make a strategy a frozen dataclass. The registry keeps a compiled pipeline for each strategy, and finds the pipeline
    by the hash of the strategy.
    """

    scope_per_handler: ClassVar[bool] = False
    """Whether each handler runs in a separate scope, and therefore in a separate transaction."""

    @abstractmethod
    async def run(self, calls: Sequence[HandlerCall], notification: Any, /) -> None:
        """Run every handler and raise the errors. `calls` contains one call per handler, in the order of declaration."""


def check_strategy(strategy: object) -> None:
    """Raise a `SettingError` unless a value is a hashable instance of `PublishStrategy`."""
    if not isinstance(strategy, PublishStrategy):
        called = strategy.__name__ if isinstance(strategy, type) else "Sequential"
        raise SettingError("strategy", strategy, f"it is no PublishStrategy. Write `strategy={called}()`, for example.")
    try:
        hash(strategy)
    except TypeError:
        problem = f"it is not hashable. Make {type(strategy).__name__} a frozen dataclass."
        raise SettingError("strategy", strategy, problem) from None


@dataclass(frozen=True, slots=True)
class Sequential(PublishStrategy):
    """Runs the handlers one after the other, in the scope and the transaction of the publish.

    Attributes:
        on_error: `"stop"` stops at the first error and raises it unchanged. `"collect"` runs every handler, then raises
            a single error unchanged, or several errors as an `ExceptionGroup`.

    Raises:
        ContainerError: `on_error` is neither `"stop"` nor `"collect"`.
    """

    on_error: Literal["stop", "collect"] = "stop"

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "collect"):
            raise ContainerError(self, f'Sequential(on_error=...) must be "stop" or "collect", not {self.on_error!r}.')

    async def run(self, calls: Sequence[HandlerCall], notification: Any, /) -> None:
        errors: list[BaseException] = []
        for call in calls:
            try:
                await call()
            except Exception as error:  # with "collect" the remaining handlers still run
                if self.on_error == "stop":
                    raise
                errors.append(error)
        raise_collected(errors, notification)


@dataclass(frozen=True, slots=True)
class Concurrent(PublishStrategy):
    """Runs all handlers concurrently, each in a separate task, scope and transaction.

    Every handler runs to its end, even if other handlers fail. A single error is raised unchanged, several errors as an
    `ExceptionGroup`. The handlers' transactions would commit even if an outer transaction rolled back. This strategy
    can therefore not be used inside a unit of work.

    Attributes:
        limit: The largest number of handlers that run at the same time; `None` for no limit.

    Raises:
        ContainerError: `limit` is not a whole number of at least 1.
    """

    scope_per_handler: ClassVar[bool] = True

    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and not is_count(self.limit):
            raise ContainerError(self, f"Concurrent(limit=...) must be a whole number of at least 1, not {self.limit}.")

    async def run(self, calls: Sequence[HandlerCall], notification: Any, /) -> None:
        slots = asyncio.Semaphore(max(len(calls), 1) if self.limit is None else self.limit)

        async def run_one(call: HandlerCall) -> BaseException | None:
            async with slots:
                return await _error_of(call)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run_one(call)) for call in calls]
        ends = [_end_of(task) for task in tasks]
        raise_collected([error for error in ends if error is not None], notification)


async def _error_of(call: HandlerCall) -> BaseException | None:
    try:
        await call()
    except BaseException as error:
        if not is_failure(error):
            raise
        return error  # returned, because raising the error would cancel the remaining handlers
    return None


def _end_of(task: asyncio.Task[BaseException | None]) -> BaseException | None:
    """Return the error of an ended task, or `None`. A cancellation, which a task group ignores, counts as an error."""
    try:
        return task.result()
    except asyncio.CancelledError as error:
        return error


def is_failure(error: BaseException) -> bool:
    """Return whether an error is a failure of a handler, and not of the whole program.

    Every `Exception` is a failure. A group is a failure if it holds only failures and cancellations. Such a group is
    raised when one handler of a notification fails and another one is cancelled. A single cancellation is no failure.
    """
    inside: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    failures = (isinstance(each, asyncio.CancelledError) or is_failure(each) for each in inside)
    return isinstance(error, Exception) or (isinstance(error, BaseExceptionGroup) and all(failures))


def raise_collected(errors: Sequence[BaseException], notification: Any) -> None:
    """Raise a single error unchanged, and several errors as a group. Do nothing if there are no errors."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup(f"errors in the handlers of {type(notification).__name__}", errors)
