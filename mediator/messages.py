"""Messages: the base classes of all kinds of messages, and the interfaces that dispatch messages."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Generic, Protocol, TypeVar

from mediator.context import IdFactory, MessageContext
from mediator.errors import misuse
from mediator.strategies import PublishStrategy
from mediator.transactions import TransactionMode

R_co = TypeVar("R_co", covariant=True)
Item_co = TypeVar("Item_co", covariant=True)


class Request(Generic[R_co]):
    """A message with exactly one handler; `await mediator.send(request)` returns `R_co`."""

    __slots__ = ()


class Command(Request[R_co]):
    """A request that changes something. The outermost command runs in a unit of work."""

    __slots__ = ()

    needs_unit_of_work: ClassVar[bool] = True
    """Declare False if the command writes nothing itself. `validate` then does not report a missing unit of work."""


class Query(Request[R_co]):
    """A request that only reads. It does not begin a unit of work."""

    __slots__ = ()


class StreamRequest(Generic[Item_co]):
    """A request whose response is a stream of any number of items: `async with mediator.stream(request) as items`."""

    __slots__ = ()


class Notification:
    """A message with any number of handlers, which run in this process and in the running transaction."""

    __slots__ = ()

    publish_strategy: ClassVar[PublishStrategy | None] = None
    """How the handlers are run; `None` for the strategy of the registry."""


_KINDS: tuple[type, ...] = (Request, StreamRequest, Notification)


def check_kind(cls: type) -> None:
    """Raise a `DeclarationError` if a class is of several kinds, because each kind is dispatched in its own way."""
    if len(kinds_of_message(cls)) > 1:
        raise misuse.several_kinds(cls, kinds_of_message(cls))


def kinds_of_message(cls: type, *others: type) -> list[str]:
    """Return the names of the kinds of a message class. A class that is declared correctly has exactly one kind."""
    kinds = [kind for kind in (*_KINDS, *others) if issubclass(cls, kind)]
    if issubclass(cls, Command) and issubclass(cls, Query):  # a command changes something, a query only reads
        kinds[kinds.index(Request) : kinds.index(Request) + 1] = (Command, Query)
    return [kind.__name__ for kind in kinds]


def is_stream_request(cls: type) -> bool:
    """Return whether a class is a class of stream requests."""
    return issubclass(cls, StreamRequest)


def is_request(cls: type) -> bool:
    """Return whether a class is a class of requests, which have exactly one handler."""
    return issubclass(cls, Request)


R = TypeVar("R")
T = TypeVar("T")


class Sender(Protocol):
    """The part of the mediator's interface that sends requests."""

    async def send(
        self,
        request: Request[R],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> R:
        """Send a request to its handler and return the response, as `Mediator.send` does."""
        ...

    def stream(
        self,
        request: StreamRequest[T],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        """Open the stream of items that answers a stream request, as `Mediator.stream` does."""
        ...


class Publisher(Protocol):
    """The part of the mediator's interface that publishes notifications."""

    async def publish(
        self,
        notification: Notification,
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        strategy: PublishStrategy | None = None,
        context: MessageContext | None = None,
    ) -> None:
        """Publish a notification to its handlers, as `Mediator.publish` does."""
        ...


class Origin(Publisher, Protocol):
    """The part of the mediator's interface that running dispatches use."""

    ids: IdFactory
    """The function that creates the ids of messages."""
    max_depth: int
    """The largest number of dispatches that may be nested."""
