"""RequestChannel: the port that carries requests to another application, and the replies back."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from mediator.distributed.callers import Caller
from mediator.distributed.requests.port import RequestCodec


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """A request to another application.

    Attributes:
        name: The name under which the request is exposed.
        data: The encoded request, in bytes.
        timeout: How long the sender waits for the reply, in seconds since the request was sent.
        headers: Message ids, tenant and credentials. The names of headers are in lower case. The `repr` leaves the
            headers out, because they may be secret.
    """

    name: str
    data: bytes = field(repr=False)
    timeout: float
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


class ReplyStatus(enum.Enum):
    """The result of a remote request."""

    OK = "ok"
    FAILED = "failed"
    """The handler of the request failed, and was rolled back."""
    REFUSED = "refused"
    """The request was not handled."""
    BUSY = "busy"
    """The request was not handled, and may be sent again."""
    UNREADABLE = "unreadable"
    """The request was handled, but its response cannot be sent."""


@dataclass(frozen=True, slots=True)
class RemoteReply:
    """The reply to a request.

    Attributes:
        status: How the request ended.
        data: The encoded response, in bytes; empty when the status is not `OK`.
        reason: The reason of a failure, in as much detail as the caller is allowed to see.
        error: The name of the error's class; empty when the other application does not show the name.
        reference: The id under which the other application has logged the error.
    """

    status: ReplyStatus
    data: bytes = field(default=b"", repr=False)
    reason: str = ""
    error: str = ""
    reference: str = ""


class IncomingCall(ABC):
    """A request that waits for its reply.

    Attributes:
        call: The request.
    """

    call: RemoteCall

    @property
    @abstractmethod
    def waited(self) -> float:
        """The time that the request has been waiting here, in seconds."""

    @abstractmethod
    async def reply(self, reply: RemoteReply, /) -> None:
        """Send the reply. Call this once.

        No error is raised when the broker is unavailable: the sender gets no reply, and waits until its timeout.

        Raises:
            ValueError: The reply is too large and was not sent; a smaller reply may be sent instead.
        """


class IncomingCalls(ABC):
    """The incoming requests of a running service."""

    @abstractmethod
    async def next(self) -> IncomingCall:
        """Wait for a request, even while the broker is unavailable. A cancelled call loses no request."""


class RequestChannel(ABC):
    """Carries requests to other applications. Each request is sent at most once, and not stored.

    Attributes:
        codec: Encodes and decodes requests and responses.
        place: The address of the broker, without secrets, for errors and logs.
    """

    codec: RequestCodec
    place: str

    @abstractmethod
    async def call(self, call: RemoteCall, /) -> RemoteReply:
        """Send a request and return its reply, after at most `call.timeout` seconds.

        Raises:
            PublisherUnavailableError: The request was not sent, because there is no connection, or no responder for its
                name.
            TimeoutError: No reply arrived in time. It is not known whether the request was handled.
            ValueError: The request cannot be sent, because it is too large.
        """

    @abstractmethod
    def serve(self, names: Collection[str], /, *, waiting: int) -> AbstractAsyncContextManager[IncomingCalls]:
        """Receive requests with the given names. Each request goes to one of the processes of this application.

        At most `waiting` requests wait here; further requests get the reply `BUSY` at once. Leaving the context stops
        receiving, and replies `BUSY` to the requests that wait.
        """


Authenticator = Callable[[RemoteCall], Awaitable[Caller | None]]


async def trust_broker(_call: RemoteCall, /) -> None:
    """Accept every request, but verify no caller. This function is an authenticator.

    Only the permissions of the broker decide who can send requests. No principal, tenant or header is trusted. Because
    the sender is not verified, no response is cached, and a command with an idempotency key is refused.
    """
