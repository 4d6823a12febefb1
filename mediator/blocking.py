"""BlockingMediator: a mediator for code that is not async, such as a WSGI application or a notebook."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from mediator.blocks import contextmanager
from mediator.context import MessageContext
from mediator.errors import CommitOutcomeUnknownError, CommittedError, ContainerError, misuse
from mediator.extras import Extra
from mediator.mediator import Mediator
from mediator.messages import Notification, Request, StreamRequest
from mediator.owner import Owner
from mediator.scope import current_frame
from mediator.strategies import PublishStrategy
from mediator.transactions import TransactionMode

with Extra("blocking"):
    from anyio.from_thread import BlockingPortal, start_blocking_portal

R = TypeVar("R")
T = TypeVar("T")

_Block = AbstractContextManager
_END: Any = object()


class BlockingMediator:
    """A mediator for synchronous callers. It handles the messages in an event loop, in a separate thread.

        with BlockingMediator(container.mediator(), lifespan(container)) as mediator:
            student_id = mediator.send(EnrollStudent("Ada"))

    Any number of threads may use the mediator at the same time; each call is a separate dispatch. At the end of the
    block new calls are refused. Running calls have `drain_timeout` seconds to finish and are then cancelled.

    A call in a handler or in the thread of the event loop raises a `MisuseError`, because waiting there would never
    end. A call in a process that was forked after the mediator was opened raises a `MisuseError` too.

    Args:
        mediator: The mediator that handles the messages.
        lifespan: Starts the mediator's container before the first call, and stops the container after the last call.
        drain_timeout: Seconds that running calls may take at the end of the block.
    """

    def __init__(
        self, mediator: Mediator, lifespan: AbstractAsyncContextManager[Any], *, drain_timeout: float = 30.0
    ) -> None:
        self._mediator = mediator
        self._lifespan = _KeepingError(lifespan)
        self._drain_timeout = drain_timeout
        self._owner: Owner | None = None
        self._opened: tuple[_Block[BlockingPortal], BlockingPortal, _Block[Any]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = threading.Lock()  # held while work is submitted, so that closing cannot begin in between
        self._thread = 0
        self._running: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        """Start the event loop, and start the container in the loop. Errors of the container are raised here."""
        if self._owner is not None:
            text = "A BlockingMediator can be opened only once. Make a new BlockingMediator with a new lifespan."
            raise ContainerError(self, text)
        self._owner = Owner("The BlockingMediator")
        opened = start_blocking_portal(name="mediator")
        portal = opened.__enter__()
        started = portal.wrap_async_context_manager(self._lifespan)
        try:
            Context().run(started.__enter__)  # the container's tasks must not keep the caller's context variables
            self._lifespan.check()
            self._loop, self._thread = portal.call(_loop_and_thread)
            portal.call(self._owner.check)
        except BaseException:
            opened.__exit__(None, None, None)
            raise
        self._opened = (opened, portal, started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Refuse new calls, wait for the running calls, and stop the container and the event loop."""
        if self._owner is not None and self._owner.is_in_another_process:
            return  # this process was forked; the thread exists only in the parent process
        with self._open:
            self._loop = None
        if self._opened is None:
            return
        (opened, portal, started), self._opened = self._opened, None
        try:
            portal.call(self._drain)
        finally:
            try:
                started.__exit__(kind, error, traceback)
                self._lifespan.check()
            finally:
                opened.__exit__(None, None, None)  # without the error, which anyio would modify

    def send(
        self,
        request: Request[R],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> R:
        """Send a request, wait for its response and return it. Errors of `Mediator.send` are raised here."""
        return self._call(request, lambda: self._mediator.send(request, mode=mode, context=context))

    def publish(
        self,
        notification: Notification,
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        strategy: PublishStrategy | None = None,
        context: MessageContext | None = None,
    ) -> None:
        """Publish a notification and wait for its handlers. Errors of `Mediator.publish` are raised here."""
        publish = partial(self._mediator.publish, notification, mode=mode, strategy=strategy, context=context)
        self._call(notification, publish)

    @contextmanager
    def stream(
        self,
        request: StreamRequest[T],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> Generator[Iterator[T], None, None]:
        """Open a stream: `with mediator.stream(request) as items: for item in items: ...`.

        One task runs the whole stream, from its first step to its end. The task counts as a running call.
        """
        stream = _Stream(self._mediator.stream(request, mode=mode, context=context))
        running = self._begin(request, stream.run)

        def iterate() -> Iterator[T]:
            while True:
                answer: Future[Any] = Future()
                self._check_process()
                with self._open:
                    self._loop_for(request)
                    stream.ask(answer)
                if (item := _first_of(answer, running)) is _END:
                    return
                yield item

        try:
            _first_of(stream.opened, running)
            yield iterate()
        except BaseException as error:
            stream.end(running, error)
            raise
        stream.end(running, None)

    def _call(self, message: object, work: Callable[[], Awaitable[R]]) -> R:
        future = self._begin(message, work)
        try:
            return _result(future)
        finally:
            future.cancel()  # Ctrl-C in this thread cancels the work in the event loop; a finished future is not affected

    def _begin(self, message: object, work: Callable[[], Awaitable[R]]) -> Future[R]:
        self._check_process()
        with self._open:
            loop = self._loop_for(message)
            return asyncio.run_coroutine_threadsafe(self._run(work), loop)

    def _check_process(self) -> None:
        """Refuse calls in a forked process. Call this before taking the lock, which may stay locked after a fork."""
        if self._owner is not None and self._owner.is_in_another_process:
            self._owner.check()

    def _loop_for(self, message: object) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise misuse.not_started(message)
        if threading.get_ident() == self._thread or current_frame() is not None:
            raise misuse.blocking_call(message)
        return self._loop

    async def _run(self, work: Callable[[], Awaitable[R]]) -> R:
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        try:
            return await work()
        except asyncio.CancelledError as error:  # cancelled by `_drain`; the caller must learn of a commit
            outcome = error.__cause__
            if not isinstance(outcome, CommittedError | CommitOutcomeUnknownError):
                raise
        raise outcome

    async def _drain(self) -> None:
        for bound in (self._drain_timeout, 5.0):
            if self._running:
                await asyncio.wait(self._running, timeout=bound)
            for task in self._running:
                task.cancel()


def _result(future: Future[R]) -> R:
    """Return the result of a future or raise its error. `Future.result` ignores an error whose truth value is false."""
    error = future.exception()
    if error is not None:
        try:
            raise error
        finally:
            del error, future  # without this, the error's traceback and these variables refer to each other
    return future.result()


class _KeepingError(AbstractAsyncContextManager[None]):
    """Wrap a context manager and keep its error, because anyio loses an error whose truth value is false."""

    def __init__(self, block: AbstractAsyncContextManager[Any]) -> None:
        self._block = block
        self._failure: BaseException | None = None

    async def __aenter__(self) -> None:
        try:
            await self._block.__aenter__()
        except BaseException as error:
            self._failure = error
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._block.__aexit__(kind, error, traceback)
        except BaseException as failure:
            self._failure = failure
            raise

    def check(self) -> None:
        """Raise the kept error, if there is one, and forget the error. Call this after anyio has run the block."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


async def _loop_and_thread() -> tuple[asyncio.AbstractEventLoop, int]:
    return asyncio.get_running_loop(), threading.get_ident()


class _Stream:
    """A stream that one task opens and closes, because many resources must be closed by the task that opened them."""

    def __init__(self, stream: AbstractAsyncContextManager[AsyncIterator[Any]]) -> None:
        self._stream = stream
        self._asked: asyncio.Queue[Future[Any] | BaseException | None] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.opened: Future[None] = Future()

    async def run(self) -> None:
        """Open the stream, answer each `ask` with the next item, and close the stream after `end`."""
        self._loop = asyncio.get_running_loop()
        items = await self._stream.__aenter__()
        self.opened.set_result(None)
        try:
            while isinstance(asked := await self._asked.get(), Future):
                await _step(items, asked)
        except BaseException as error:
            await self._stream.__aexit__(type(error), error, error.__traceback__)
            raise
        if asked is None:
            await self._stream.__aexit__(None, None, None)
        else:
            await self._stream.__aexit__(type(asked), asked, asked.__traceback__)

    def ask(self, answer: Future[Any]) -> None:
        """Request the next item. The item becomes the result of `answer`."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._asked.put_nowait, answer)

    def end(self, running: Future[None], error: BaseException | None) -> None:
        """Close the stream, wait until it is closed, and raise the error of closing if there is one."""
        if not running.done() and self._loop is not None:
            with suppress(
                RuntimeError
            ):  # a RuntimeError means that the loop is closed; then the task of the stream has ended
                self._loop.call_soon_threadsafe(self._asked.put_nowait, error)
            _result(running)


async def _step(items: AsyncIterator[Any], answer: Future[Any]) -> None:
    try:
        item = await anext(items, _END)
    except Exception as error:  # `_first_of` raises the error in the thread that requested the item
        answer.set_exception(error)
    else:
        answer.set_result(item)


def _first_of(answer: Future[R], running: Future[Any]) -> R:
    """Wait for the answer and return it. If the task of the stream ends without an answer, raise the task's error."""
    try:
        wait((answer, running), return_when=FIRST_COMPLETED)
    except BaseException:
        running.cancel()  # Ctrl-C in this thread ends the stream in the event loop
        raise
    if not answer.done():
        running.result()
    return _result(answer)
