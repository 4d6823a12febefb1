"""Blocks: context managers that raise every error unchanged, and functions that raise the errors of a cleanup.

The context managers of `contextlib` set the traceback of an error that the body raises. If the error is a frozen
dataclass, a `FrozenInstanceError` is raised in its place, and nobody can catch the body's error. This package makes
every context manager with `contextmanager` or `asynccontextmanager` of this module.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar, cast

from mediator.printable import shown_error, shown_reason

P = ParamSpec("P")
T = TypeVar("T")


def contextmanager(function: Callable[P, Iterator[T]]) -> Callable[P, AbstractContextManager[T]]:
    """Make a context manager from a generator function that yields once."""

    @wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        return _Block(cast("Generator[T, None, None]", function(*args, **kwargs)))

    return make


def asynccontextmanager(function: Callable[P, AsyncIterator[T]]) -> Callable[P, AbstractAsyncContextManager[T]]:
    """Make an asynchronous context manager from an asynchronous generator function that yields once."""

    @wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
        return _AsyncBlock(cast("AsyncGenerator[T, None]", function(*args, **kwargs)))

    return make


class _Block(AbstractContextManager[T]):
    def __init__(self, steps: Generator[T, None, None]) -> None:
        self._steps = steps

    def __enter__(self) -> T:
        try:
            return next(self._steps)
        except StopIteration:
            raise RuntimeError("the generator of a context manager did not yield") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                next(self._steps)
            else:
                self._steps.throw(error)
        except StopIteration as end:
            return end is not error
        except BaseException as raised:
            if not _is_the_same(raised, error):
                raise
            _restore(error, traceback)
            return False
        self._steps.close()
        raise RuntimeError("the generator of a context manager yielded twice")


class _AsyncBlock(AbstractAsyncContextManager[T]):
    def __init__(self, steps: AsyncGenerator[T, None]) -> None:
        self._steps = steps

    async def __aenter__(self) -> T:
        try:
            return await anext(self._steps)
        except StopAsyncIteration:
            raise RuntimeError("the generator of a context manager did not yield") from None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                await anext(self._steps)
            else:
                await self._steps.athrow(error)
        except StopAsyncIteration as end:
            return end is not error
        except BaseException as raised:
            if not _is_the_same(raised, error):
                raise
            _restore(error, traceback)
            return False
        await self._steps.aclose()
        raise RuntimeError("the generator of a context manager yielded twice")


def _is_the_same(raised: BaseException, error: BaseException | None) -> bool:
    """Return whether a generator raised the error that was thrown into it, perhaps as the cause of a `RuntimeError`.

    Python raises such a `RuntimeError` when a generator raises a `StopIteration` or `StopAsyncIteration`.
    """
    stops = isinstance(error, StopIteration | StopAsyncIteration)
    return raised is error or (stops and isinstance(raised, RuntimeError) and raised.__cause__ is error)


def _restore(error: BaseException | None, traceback: TracebackType | None) -> None:
    """Remove the steps of the generator from the traceback, even if the error's class forbids setting attributes."""
    if error is not None:
        BaseException.with_traceback(error, traceback)


ExitCallback = Callable[[BaseException | None], Awaitable[None] | None]


async def call_all(exits: list[ExitCallback], error: BaseException | None) -> Sequence[BaseException]:
    """Call every callback, the last added first, and return the failures.

    After a failure or a cancellation, the remaining callbacks are still called. The list of callbacks becomes empty.
    """
    failures: list[BaseException] = []
    while exits:
        try:
            pending = exits.pop()(error)
            if pending is not None:
                await pending
        except BaseException as failure:  # collected: the remaining callbacks still run
            failures.append(failure)
    return failures


def add_note(error: BaseException, text: str) -> None:
    """Add a note to an error, once. An error that cannot hold notes, such as a frozen dataclass, stays unchanged."""
    text = shown_reason(text)
    with suppress(Exception):
        if text not in getattr(error, "__notes__", ()):
            error.add_note(text)


def raise_failures(what: str, failures: Sequence[BaseException], error: BaseException | None) -> None:
    """Raise the failures of closing something: a single failure unchanged, several failures as a group.

    A failure that is no `Exception`, such as a cancellation, is raised alone. If the closed block itself ended with
    `error`, the failures are added to `error` as notes and not raised.
    """
    for failure in failures:
        if not isinstance(failure, Exception):
            raise failure
    if error is not None:
        for failure in failures:
            add_note(error, f"While closing the {what}: {shown_error(failure)}")
    elif len(failures) == 1:
        raise failures[0]
    elif failures:
        raise BaseExceptionGroup(f"errors while closing the {what}", failures)
