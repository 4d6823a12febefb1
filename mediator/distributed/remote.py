"""RemoteSender: sends a request to another application and waits for the response."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from mediator.context import IdFactory, MessageContext, new_id
from mediator.distributed.bounds import check_positive
from mediator.distributed.channel import RemoteCall, RemoteReply, ReplyStatus, RequestChannel
from mediator.distributed.cloudevents import CAUSATION, CORRELATION, TENANT
from mediator.distributed.requests import Exposure, exposure_of
from mediator.errors import (
    ContextError,
    PublisherUnavailableError,
    RemoteFailedError,
    RemoteRefusedError,
    RemoteResponseError,
    RemoteTimeoutError,
    RemoteUnavailableError,
)
from mediator.headers import Headers
from mediator.messages import Request
from mediator.scope import current_frame

R = TypeVar("R")
Credentials = Callable[[], Awaitable[Mapping[str, str]]]

MESSAGE_ID = "messageid"

_LONGEST = 3600.0
"""Seconds: nobody holds a request open for longer."""
_SHORTEST = 0.001


class RemoteSender:
    """Sends requests that other applications expose: `providers.Singleton(RemoteSender, channel)`.

    The other application handles them in its own pipeline and its own transaction. It is not transactional with anything
    here: what was sent is not undone by a rollback, is sent at most once, and when no answer comes in time nobody knows
    whether it was handled. What must happen is a distributed event.

    Args:
        channel: Where the other applications are.
        timeout: How long to wait for an answer, in seconds, unless a call says otherwise.
        credentials: Gives the headers by which the other application knows who is calling, such as
            `{"authorization": "Bearer ..."}`; asked for each request. They are in no log and no error.
        ids: Makes the ids of requests.

    Raises:
        SettingError: The timeout is not above 0 and at most an hour.
    """

    def __init__(
        self,
        channel: RequestChannel,
        *,
        timeout: float = 5.0,
        credentials: Credentials | None = None,
        ids: IdFactory = new_id,
    ) -> None:
        self._channel = channel
        check_positive(timeout=timeout, at_most=_LONGEST)
        self._timeout = timeout
        self._credentials = credentials
        self._ids = ids
        self._exposures: dict[type, Exposure] = {}

    async def send(self, request: Request[R], /, *, timeout: float | None = None) -> R:  # noqa: ASYNC109  (it travels)
        """Send a request and return the response of the other application's handler.

        Correlation, causation and tenant travel along; the principal does not, for the other application establishes who
        calls by itself.

        Args:
            request: Its class declares the name under which it is exposed: `request_type: ClassVar[str]`.
            timeout: How long to wait for this answer, in seconds.

        Raises:
            RequestDeclarationError: The class has no valid name, or something that has no encoding.
            RemoteUnavailableError: It was not sent, or not taken: nobody answers to this name, all are busy, or the
                credentials did not come in time.
            RemoteTimeoutError: No answer came in time; whether it was handled is not known.
            RemoteRefusedError: The other application did not let it through; it was not handled.
            RemoteFailedError: Its handler there failed.
            RemoteResponseError: It was handled, and its response cannot be read.
        """
        exposure = self._exposure(type(request))
        seconds = self._timeout if timeout is None else timeout
        check_positive(timeout=seconds, at_most=_LONGEST)
        call = await self._call(request, exposure, seconds)
        try:
            reply = await self._channel.call(call)
        except PublisherUnavailableError as error:
            raise RemoteUnavailableError(request, self._channel.place, error.reason) from error
        except TimeoutError as error:
            raise RemoteTimeoutError(request, seconds) from error
        except ValueError as error:
            raise RemoteRefusedError(request, str(error)) from error
        response: R = self._response(request, exposure, reply)
        return response

    def _exposure(self, request_class: type[Any]) -> Exposure:
        known = self._exposures.get(request_class)
        if known is None:
            known = self._exposures[request_class] = exposure_of(request_class, self._channel.codec)
        return known

    async def _call(self, request: object, exposure: Exposure, seconds: float) -> RemoteCall:
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        try:
            data = self._channel.codec.encode(request)
            async with asyncio.timeout_at(deadline):
                given = Headers(await self._credentials() if self._credentials is not None else None)
        except (ValueError, ContextError) as error:
            raise RemoteRefusedError(request, f"it cannot be written: {error}") from error
        except TimeoutError as error:
            raise RemoteUnavailableError(
                request, self._channel.place, "its credentials did not come in time"
            ) from error
        frame = current_frame()
        context = MessageContext.new(ids=self._ids) if frame is None else frame.context.caused(self._ids())
        headers = {**given, MESSAGE_ID: context.message_id, CORRELATION: context.correlation_id}
        if context.causation_id is not None:
            headers[CAUSATION] = context.causation_id
        if context.tenant is not None:
            headers[TENANT] = context.tenant
        return RemoteCall(exposure.name, data, max(deadline - clock(), _SHORTEST), headers)

    def _response(self, request: object, exposure: Exposure, reply: RemoteReply) -> Any:
        if reply.status is ReplyStatus.BUSY:
            raise RemoteUnavailableError(request, self._channel.place, reply.reason or "it is busy")
        if reply.status is ReplyStatus.REFUSED:
            raise RemoteRefusedError(request, reply.reason, reply.reference)
        if reply.status is ReplyStatus.FAILED:
            raise RemoteFailedError(request, reply.error, reply.reason, reply.reference)
        if reply.status is ReplyStatus.UNREADABLE:
            raise RemoteResponseError(request, reply.reason, reply.reference)
        try:
            return self._channel.codec.decode(reply.data, exposure.response)
        except ValueError as error:
            raise RemoteResponseError(request, str(error)) from error
