"""Stream: a running stream request with its behaviors. The stream's scope is current only while an item is produced."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import AsyncGeneratorType, TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from mediator.blocks import raise_failures
from mediator.context import MessageContext
from mediator.errors import ScopeError, SettingError, misuse
from mediator.messages import Origin
from mediator.pipeline import Message_contra, Source, checked_replacement
from mediator.scope import Frame, enter
from mediator.transactions import TransactionMode, check_mode

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_KEEP: Any = object()


class StreamNext(Protocol[T_co]):
    """Calls the rest of the pipeline with the same request, or with a replacement."""

    def __call__(self, request: Any = ..., /) -> AsyncIterator[T_co]:
        """Return the items of the rest of the pipeline. Iterate over the result; do not await it."""
        ...


class StreamPipelineBehavior(ABC, Generic[Message_contra, T]):
    """A behavior that wraps a whole stream, once. The type argument says to which stream requests it applies.

    The method `handle` is an async generator:

        async def handle(self, request, call_next):
            async for item in call_next():
                yield item
    """

    role: ClassVar[str | None] = None
    """`PipelineBehavior` explains `role`, `belongs_inside` and `belongs_outside`."""

    belongs_inside: ClassVar[Mapping[str, str]] = {}
    belongs_outside: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def handle(self, request: Message_contra, call_next: StreamNext[T], /) -> AsyncIterator[T]:
        """Yield the items of `call_next()`, or other items."""


StreamCall = Callable[[Any, "Stream[Any]"], AsyncIterator[Any]]


class Stream(Generic[T]):
    """A stream that is opened by `async with` and then iterated.

    The scope of the stream is the running scope while an item is produced, but not while the consumer handles the item.
    So two streams in one task do not mix, and messages that the consumer dispatches do not belong to the stream.

    The stream inherits the message context `cause`. Without `cause` it inherits the context of the running dispatch.

    Raises:
        SettingError: `mode` is `NESTED`, or no `TransactionMode`.
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
            problem = "a stream cannot use a savepoint, because the savepoint would stay open between two items"
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
        """Enter the scope and create the outermost behavior. The handler begins when the first item is requested.

        Raises:
            MisuseError: The stream is open already.
            DispatchDepthError: Too many dispatches are nested.
        """
        if self._frame is not None:
            raise misuse.stream_already_open(self._request)
        cause = self._cause
        frame = enter(self._mode, self._request, self._origin, cause.caused(self._origin.ids()) if cause else None)
        try:
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
        """Close the behaviors from the outermost inward, then the handler, then the scope.

        Raises:
            BaseException: Closing failed; several failures are raised as a group, and a cancellation is raised alone.
                If the stream ends with an error, failures are added to that error as notes and not raised.
        """
        frame, self._frame = self._frame, None
        if frame is None:
            return
        if frame.scope.exits and self._close_with_scope in frame.scope.exits:
            frame.scope.exits.remove(self._close_with_scope)
        try:
            with frame.resumed():
                failures = await self._close_all()
                await frame.leave(error if error is not None else next(iter(failures), None))
        except ScopeError as refused:  # the scope cannot be resumed, so the stream is closed outside the scope
            raise_failures("stream", await self._close_all(), refused)
            raise
        raise_failures("stream", failures, error)

    async def _close_with_scope(self, error: BaseException | None) -> None:
        """Close the stream, if it is still open, when the enclosing dispatch closes the scope that the stream has joined."""
        raise_failures("stream", await self._close_all(), error)

    async def _close_all(self) -> Sequence[BaseException]:
        failures: list[BaseException] = []
        while self._opened:
            iterator = self._opened.pop(0)
            try:
                if hasattr(iterator, "aclose"):
                    await iterator.aclose()
            except BaseException as error:  # collected: the other iterators are still closed
                failures.append(error)
        return failures

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next item, with the scope of the stream as the running scope.

        Raises:
            MisuseError: The stream is not inside its `async with`.
        """
        if self._frame is None or self._items is None:
            raise misuse.stream_not_open(self._request)
        with self._frame.resumed():
            try:
                return await anext(self._items)
            finally:
                self._stay_last(self._frame)

    def _stay_last(self, frame: Frame) -> None:
        """Move the exit callback of the stream to the end of the scope's list. The last callback is called first.

        So the stream is closed before the other callbacks close resources that the handler may need in its `finally`.
        """
        exits = frame.scope.exits if not frame.owner else None
        if exits and exits[-1] != self._close_with_scope:
            exits.remove(self._close_with_scope)
            exits.append(self._close_with_scope)

    def begin(self, link: Any, *arguments: Any) -> AsyncIterator[Any]:
        """Call a handler or a behavior and return its iterator, which is closed together with this stream.

        Raises:
            MisuseError: The handler or behavior returned no async iterator.
        """
        iterator = _resolved(link, arguments) if hasattr(link, "__await__") else link.handle(*arguments)
        if not hasattr(iterator, "__anext__"):
            if not hasattr(iterator, "__aiter__"):
                _discard(iterator)
                raise misuse.not_a_stream(self._request, iterator)
            iterator = aiter(iterator)
        self._opened = [opened for opened in self._opened if not _is_used_up(opened)]
        self._opened.append(iterator)
        found: AsyncIterator[Any] = iterator
        return found

    @property
    def is_over(self) -> bool:
        """Whether the stream was opened and then closed."""
        return self._frame is None and self._items is not None


def _is_used_up(iterator: Any) -> bool:
    """Return whether an async generator has ended, so that there is nothing left to close."""
    return isinstance(iterator, AsyncGeneratorType) and iterator.ag_frame is None


def _discard(given: Any) -> None:
    if hasattr(given, "close"):
        given.close()  # a coroutine that nobody will await; Python would warn about it


async def _resolved(resolving: Any, arguments: Sequence[Any]) -> AsyncIterator[Any]:
    iterator = (await resolving).handle(*arguments)
    if not hasattr(iterator, "__aiter__"):
        _discard(iterator)
        raise misuse.not_a_stream(arguments[0], iterator)
    try:
        async for item in iterator:
            yield item
    finally:
        if hasattr(iterator, "aclose"):
            await iterator.aclose()


def compile_stream(behaviors: Sequence[Source], handler: Source) -> StreamCall:
    """Compile the behaviors of a stream request, outermost first, and its handler into one chain."""
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
                raise misuse.called_late(request, "the stream")
            if run is not None and _is_used_up(run):
                raise misuse.called_late(request, run.__qualname__)
            return inner(request if replacement is _KEEP else checked_replacement(request, replacement), stream)

        items = run = stream.begin(source(), request, call_next)
        return items

    return call
