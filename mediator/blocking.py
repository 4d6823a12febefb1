"""BlockingMediator: sends and publishes from code that is not async, such as a WSGI application or a notebook."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from mediator.context import MessageContext
from mediator.errors import BlockingCallError, MediatorNotStartedError
from mediator.extras import Extra
from mediator.mediator import Mediator
from mediator.messages import Notification, Request, StreamRequest
from mediator.scope import current_frame
from mediator.strategies import PublishStrategy
from mediator.transactions import TransactionMode

with Extra("blocking"):
    from anyio.from_thread import BlockingPortal, start_blocking_portal

R = TypeVar("R")
T = TypeVar("T")

_END: Any = object()


class BlockingMediator:
    """A mediator for synchronous callers; an event loop in a thread of its own does the work.

        with BlockingMediator(container.mediator(), lifespan(container)) as mediator:
            student_id = mediator.send(EnrollStudent("Ada"))

    It may be used from any number of threads at a time; each call is a dispatch of its own. At the end of the block new
    calls are refused, those that run have `drain_timeout` to end, and are cancelled after that.

    Args:
        mediator: Does the work.
        lifespan: Entered before and left after it, in the event loop: what starts and stops its container.
        drain_timeout: How long the calls that run may take at the end, in seconds.
    """

    def __init__(
        self, mediator: Mediator, lifespan: AbstractAsyncContextManager[Any], *, drain_timeout: float = 30.0
    ) -> None:
        self._mediator = mediator
        self._lifespan = lifespan
        self._drain_timeout = drain_timeout
        self._stack = ExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = threading.Lock()  # held while work is handed over: what the loop was given before its end, it does
        self._thread = 0
        self._running: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        """Start the event loop, and the container in it; raises what that raises."""
        with ExitStack() as stack:
            portal: BlockingPortal = stack.enter_context(start_blocking_portal(name="mediator"))
            stack.enter_context(portal.wrap_async_context_manager(self._lifespan))
            self._loop, self._thread = portal.call(_loop_and_thread)
            stack.callback(portal.call, self._drain)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Refuse new calls, wait for those that run, stop the container and the event loop."""
        with self._open:
            self._loop = None
        self._stack.__exit__(kind, error, traceback)

    def send(
        self,
        request: Request[R],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> R:
        """Send a request and wait for its response; raises what `Mediator.send` raises.

        Raises:
            BlockingCallError: Called where waiting would never end: in a handler, or in the event loop's own thread.
        """
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
        """Publish a notification and wait for its handlers; raises what `Mediator.publish` raises, and see `send`."""
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

        All of it, from its first step to its end, is done by one task, which is counted among the calls that run.
        """
        stream = _Stream(self._mediator.stream(request, mode=mode, context=context))
        running = self._begin(request, stream.run)

        def iterate() -> Iterator[T]:
            while True:
                answer: Future[Any] = Future()
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
            return future.result()
        finally:
            future.cancel()  # a Ctrl-C here cancels the work there; of what is done nothing is left to cancel

    def _begin(self, message: object, work: Callable[[], Awaitable[R]]) -> Future[R]:
        with self._open:
            loop = self._loop_for(message)
            return asyncio.run_coroutine_threadsafe(self._run(work), loop)

    def _loop_for(self, message: object) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise MediatorNotStartedError(message)
        if threading.get_ident() == self._thread or current_frame() is not None:
            raise BlockingCallError(message)
        return self._loop

    async def _run(self, work: Callable[[], Awaitable[R]]) -> R:
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await work()

    async def _drain(self) -> None:
        for bound in (self._drain_timeout, 5.0):
            if self._running:
                await asyncio.wait(self._running, timeout=bound)
            for task in self._running:
                task.cancel()


async def _loop_and_thread() -> tuple[asyncio.AbstractEventLoop, int]:
    return asyncio.get_running_loop(), threading.get_ident()


class _Stream:
    """A stream in a task of its own, for what is opened in a task is often to be closed in the same one."""

    def __init__(self, stream: AbstractAsyncContextManager[AsyncIterator[Any]]) -> None:
        self._stream = stream
        self._asked: asyncio.Queue[Future[Any] | BaseException | None] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.opened: Future[None] = Future()

    async def run(self) -> None:
        """Open it, answer who asks for the next item, and close it when told to."""
        self._loop = asyncio.get_running_loop()
        items = await self._stream.__aenter__()
        self.opened.set_result(None)
        try:
            while isinstance(asked := await self._asked.get(), Future):
                await _step(items, asked)
        except BaseException as error:
            await self._stream.__aexit__(type(error), error, error.__traceback__)
            raise
        await self._stream.__aexit__(type(asked) if asked else None, asked, asked.__traceback__ if asked else None)

    def ask(self, answer: Future[Any]) -> None:
        """Ask for the next item."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._asked.put_nowait, answer)

    def end(self, running: Future[None], error: BaseException | None) -> None:
        """Close it, and wait for that; raises what fails then."""
        if not running.done() and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, which it never is before its tasks have ended
                self._loop.call_soon_threadsafe(self._asked.put_nowait, error)
            running.result()


async def _step(items: AsyncIterator[Any], answer: Future[Any]) -> None:
    try:
        item = await anext(items, _END)
    except Exception as error:  # handed over to the thread that asked
        answer.set_exception(error)
    else:
        answer.set_result(item)


def _first_of(answer: Future[R], running: Future[Any]) -> R:
    """The answer; when the task ends without one, what it raised."""
    try:
        wait((answer, running), return_when=FIRST_COMPLETED)
    except BaseException:
        running.cancel()  # a Ctrl-C here ends the stream there
        raise
    if not answer.done():
        running.result()
    return answer.result()
