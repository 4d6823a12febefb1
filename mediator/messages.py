"""Messages: what an application sends to itself. Any class becomes one by deriving from a marker below."""

from typing import ClassVar, Generic, TypeVar

from mediator.errors import MessageDeclarationError
from mediator.strategies import PublishStrategy

R_co = TypeVar("R_co", covariant=True)
Item_co = TypeVar("Item_co", covariant=True)


class Request(Generic[R_co]):
    """A message with exactly one handler; `await mediator.send(request)` returns `R_co`."""

    __slots__ = ()


class Command(Request[R_co]):
    """A request that changes something. An outermost command runs in a unit of work."""

    __slots__ = ()


class Query(Request[R_co]):
    """A request that only reads. It begins no unit of work."""

    __slots__ = ()


class StreamRequest(Generic[Item_co]):
    """A request that is answered with any number of items: `async with mediator.stream(request) as items`."""

    __slots__ = ()


class Notification:
    """A message with any number of handlers, in this process and in the transaction that runs."""

    __slots__ = ()

    publish_strategy: ClassVar[PublishStrategy | None] = None
    """How its handlers are run; `None` leaves that to the mediator."""


_KINDS: tuple[type, ...] = (Request, StreamRequest, Notification)


def check_kind(cls: type) -> None:
    """Make sure that a class of messages is of one kind, for each is dispatched in another way.

    Raises:
        MessageDeclarationError: It is of several.
    """
    kinds = [kind for kind in _KINDS if issubclass(cls, kind)]
    if len(kinds) > 1:
        raise MessageDeclarationError(cls, [kind.__name__ for kind in kinds])


def is_stream_request(cls: type) -> bool:
    """Whether messages of a class are answered with a stream of items."""
    return issubclass(cls, StreamRequest)


def is_request(cls: type) -> bool:
    """Whether messages of a class are sent to one handler (and not published to any number)."""
    return issubclass(cls, Request)
