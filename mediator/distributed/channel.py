"""RequestChannel: the port through which a request reaches another application, and its answer comes back."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from mediator.distributed.requests import RequestCodec


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """A request on its way.

    Attributes:
        name: The name under which it is exposed.
        data: The encoded request, in bytes.
        timeout: How long its sender will wait, in seconds, as of when it was sent.
        headers: What else it says, names in lower case: ids of the flow, tenant, credentials. Its `repr` keeps them to
            itself, for they may hold secrets.
    """

    name: str
    data: bytes = field(repr=False)
    timeout: float
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


class ReplyStatus(enum.Enum):
    """How a remote request ended."""

    OK = "ok"
    FAILED = "failed"
    """Its handler failed, and was rolled back."""
    REFUSED = "refused"
    """It was not handled."""
    BUSY = "busy"
    """It was not handled, and may be sent again."""
    UNREADABLE = "unreadable"
    """It was handled, and its response cannot be told."""


@dataclass(frozen=True, slots=True)
class RemoteReply:
    """The answer to a request.

    Attributes:
        status: How it ended.
        data: The encoded response, in bytes, when that is `OK`.
        reason: Else what may be known of why not.
        error: The name of the error's class, when the other application shows it.
        reference: The id under which the other application has logged it.
    """

    status: ReplyStatus
    data: bytes = field(default=b"", repr=False)
    reason: str = ""
    error: str = ""
    reference: str = ""


class IncomingCall(ABC):
    """A request that waits for its answer.

    Attributes:
        call: The request.
    """

    call: RemoteCall

    @property
    @abstractmethod
    def waited(self) -> float:
        """How long it has been waiting here, in seconds."""

    @abstractmethod
    async def reply(self, reply: RemoteReply, /) -> None:
        """Answer, once. Never raises for a broker that is away: the sender's time will run out.

        Raises:
            ValueError: The answer is too large, and was not sent; another one may be.
        """


class IncomingCalls(ABC):
    """A running service."""

    @abstractmethod
    async def next(self) -> IncomingCall:
        """Wait for the next request, through outages of the broker. Cancelling loses nothing."""


class RequestChannel(ABC):
    """Carries requests, at most once: nothing is stored, and nothing is sent again.

    Attributes:
        codec: How requests and responses are written.
        place: Where the other applications are, without secrets, for errors and logs.
    """

    codec: RequestCodec
    place: str

    @abstractmethod
    async def call(self, call: RemoteCall, /) -> RemoteReply:
        """Send a request and wait for its answer, at most `call.timeout` seconds.

        Raises:
            PublisherUnavailableError: It was not sent: there is no connection, or nobody answers to its name.
            TimeoutError: No answer came; whether it was handled is not known.
            ValueError: It cannot be sent, because it is too large.
        """

    @abstractmethod
    def serve(self, names: Collection[str], /, *, waiting: int) -> AbstractAsyncContextManager[IncomingCalls]:
        """Take requests of these names, shared out among all processes of this application that do.

        At most `waiting` of them wait here; more are answered with `BUSY` at once. Leaving takes no more of them, and
        answers those that wait with `BUSY`.
        """
