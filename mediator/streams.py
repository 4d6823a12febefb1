"""Stream: one running stream request, the behaviors around it, and the scope that is there only while it is stepped."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import AsyncGeneratorType, TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from mediator.closing import raise_failures
from mediator.context import MessageContext
from mediator.errors import (
    CallNextError,
    ConcurrentDispatchError,
    NotAStreamError,
    ScopeClosedError,
    SettingError,
    StreamNotOpenError,
)
from mediator.pipeline import Message_contra, Source, checked_replacement
from mediator.scope import Frame, enter
from mediator.sender import Origin
from mediator.transactions import TransactionMode, check_mode

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_KEEP: Any = object()


class StreamNext(Protocol[T_co]):
    """Goes on with the rest of the pipeline, for the same request or for the one given in its place."""

    def __call__(self, request: Any = ..., /) -> AsyncIterator[T_co]:
        """The items of everything inside this behavior. It is iterated and not awaited."""
        ...


class StreamPipelineBehavior(ABC, Generic[Message_contra, T]):
    """Something that happens around a whole stream, once. The type argument says where it applies.

    Its `handle` is an async generator:

        async def handle(self, request, call_next):
            async for item in call_next():
                yield item
    """

    role: ClassVar[str | None] = None
    """As that of a `PipelineBehavior`; the two below too."""

    belongs_inside: ClassVar[Mapping[str, str]] = {}
    belongs_outside: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def handle(self, request: Message_contra, call_next: StreamNext[T], /) -> AsyncIterator[T]:
        """Yield the items of `call_next()`, or others."""


StreamCall = Callable[[Any, "Stream[Any]"], AsyncIterator[Any]]


class Stream(Generic[T]):
    """A stream that is opened by `async with` and then iterated.

    Its scope is the running one while a step is made, and is not while the consumer has the turn: two streams in one
    task do not mix, and what the consumer dispatches between items is none of the stream's.

    Args:
        request: What was asked for.
        call: The compiled chain.
        mode: How it stands to the dispatch that is running when it is opened.
        origin: The mediator.
        cause: The context that it inherits, instead of the running one's.
    """

    def __init__(
        self,
        request: object,
        call: StreamCall,
        mode: TransactionMode,
        origin: Origin,
        *,
        cause: MessageContext | None = None,
    ) -> None:
        if mode is TransactionMode.NESTED:
            problem = "a stream cannot stand behind a savepoint, which would stay open between items"
            raise SettingError("mode", mode, problem)
        check_mode(mode)
        self._request = request
        self._call = call
        self._mode = mode
        self._origin = origin
        self._cause = cause
        self._frame: Frame | None = None
        self._items: AsyncIterator[T] | None = None
        self._opened: list[Any] = []

    async def __aenter__(self) -> Self:
        """Enter the scope and build the outermost behavior; the handler begins with the first step.

        Raises:
            StreamNotOpenError: It is open already.
        """
        if self._frame is not None:
            raise StreamNotOpenError(self._request, already_open=True)
        cause = self._cause
        frame = enter(self._mode, self._request, self._origin, cause.caused(self._origin.ids()) if cause else None)
        try:
            if frame.depth > self._origin.max_depth:
                frame.refuse(self._origin.max_depth)
            self._items = self._call(self._request, self)
        except BaseException as error:
            await frame.leave(error)
            raise
        frame.suspend()
        self._frame = frame
        if not frame.owner:
            frame.scope.on_exit(self._close_with_scope)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the behaviors from the outside in, then the handler, then the scope.

        Raises:
            BaseException: What failed, or a group of it; a cancellation wins. When the stream ends with an error, failures
                are added to that as notes instead.
        """
        frame, self._frame = self._frame, None
        if frame is None:
            return
        if frame.scope.exits and self._close_with_scope in frame.scope.exits:
            frame.scope.exits.remove(self._close_with_scope)
        try:
            with frame.resumed():
                failures = await self._close_all()
                await frame.leave(error or next(iter(failures), None))
        except (ScopeClosedError, ConcurrentDispatchError) as refused:  # all is closed, if need be without the scope
            raise_failures("stream", await self._close_all(), refused)
            raise
        raise_failures("stream", failures, error)

    async def _close_with_scope(self, error: BaseException | None) -> None:
        """Close what a dispatch has left open that the stream had joined; there are no more items then."""
        raise_failures("stream", await self._close_all(), error)

    async def _close_all(self) -> Sequence[BaseException]:
        failures: list[BaseException] = []
        while self._opened:
            iterator = self._opened.pop(0)
            try:
                if hasattr(iterator, "aclose"):
                    await iterator.aclose()
            except BaseException as error:  # kept: the others are closed all the same
                failures.append(error)
        return failures

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Make one step.

        Raises:
            StreamNotOpenError: It is not inside its `async with`.
        """
        if self._frame is None or self._items is None:
            raise StreamNotOpenError(self._request)
        with self._frame.resumed():
            try:
                return await anext(self._items)
            finally:
                self._stay_last(self._frame)

    def _stay_last(self, frame: Frame) -> None:
        """Be closed with the scope before what was opened in a step, which the handler may still use when it is closed."""
        exits = frame.scope.exits if not frame.owner else None
        if exits and exits[-1] != self._close_with_scope:
            exits.remove(self._close_with_scope)
            exits.append(self._close_with_scope)

    def begin(self, link: Any, *arguments: Any) -> AsyncIterator[Any]:
        """The items of a handler or behavior, to be closed with this stream.

        Raises:
            NotAStreamError: It gives no async iterator.
        """
        iterator = _resolved(link, arguments) if hasattr(link, "__await__") else link.handle(*arguments)
        if not hasattr(iterator, "__anext__"):
            if not hasattr(iterator, "__aiter__"):
                _discard(iterator)
                raise NotAStreamError(self._request, iterator)
            iterator = aiter(iterator)
        self._opened = [opened for opened in self._opened if not _is_used_up(opened)]
        self._opened.append(iterator)
        found: AsyncIterator[Any] = iterator
        return found

    @property
    def is_over(self) -> bool:
        """Whether it was open and is not any more."""
        return self._frame is None and self._items is not None


def _is_used_up(iterator: Any) -> bool:
    """Whether it has ended by itself, so that nothing in it is left to be closed."""
    return isinstance(iterator, AsyncGeneratorType) and iterator.ag_frame is None


def _discard(given: Any) -> None:
    if hasattr(given, "close"):
        given.close()  # a coroutine that nobody will await


async def _resolved(resolving: Any, arguments: Sequence[Any]) -> AsyncIterator[Any]:
    iterator = (await resolving).handle(*arguments)
    if not hasattr(iterator, "__aiter__"):
        _discard(iterator)
        raise NotAStreamError(arguments[0], iterator)
    try:
        async for item in iterator:
            yield item
    finally:
        if hasattr(iterator, "aclose"):
            await iterator.aclose()


def compile_stream(behaviors: Sequence[Source], handler: Source) -> StreamCall:
    """Fold behaviors, outermost first, around a handler."""
    chain = _handler_link(handler)
    for source in reversed(behaviors):
        chain = _behavior_link(source, chain)
    return chain


def _handler_link(source: Source) -> StreamCall:
    def call(request: Any, stream: Stream[Any]) -> AsyncIterator[Any]:
        return stream.begin(source(), request)

    return call


def _behavior_link(source: Source, inner: StreamCall) -> StreamCall:
    def call(request: Any, stream: Stream[Any]) -> AsyncIterator[Any]:
        run: Any = None

        def call_next(replacement: Any = _KEEP, /) -> AsyncIterator[Any]:
            if stream.is_over:
                raise CallNextError(request, "the stream")
            if run is not None and _is_used_up(run):
                raise CallNextError(request, run.__qualname__)
            return inner(request if replacement is _KEEP else checked_replacement(request, replacement), stream)

        items = run = stream.begin(source(), request, call_next)
        return items

    return call
