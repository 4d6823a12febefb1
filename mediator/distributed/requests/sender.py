"""RemoteSender: sends a request to another application and waits for the response."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from mediator.context import Headers, IdFactory, MessageContext, new_id
from mediator.distributed.cloudevents import CAUSATION, CORRELATION, TENANT
from mediator.distributed.requests.channel import RemoteCall, RemoteReply, ReplyStatus, RequestChannel
from mediator.distributed.requests.port import RequestContract, contract_of, encoded_request
from mediator.errors import (
    ContextError,
    PublisherUnavailableError,
    RemoteFailedError,
    RemoteRefusedError,
    RemoteResponseError,
    RemoteTimeoutError,
    RemoteUnavailableError,
)
from mediator.messages import Request
from mediator.printable import shown, shown_reason, text_of
from mediator.scope import current_frame
from mediator.settings import check_positive

R = TypeVar("R")
Credentials = Callable[[], Awaitable[Mapping[str, str]]]

MESSAGE_ID = "messageid"

_LONGEST = 3600.0
"""Longest timeout of a request, in seconds."""
_SHORTEST = 0.001


class RemoteSender:
    """Sends requests that other applications expose: `providers.Singleton(RemoteSender, channel)`.

    The other application handles each request in its own pipeline and its own transaction. A rollback in this
    application does not undo the sending. A request is sent at most once. When no reply arrives in time, it is not
    known whether the request was handled. Use a distributed event for work that must be done.

    Args:
        channel: Carries the requests to the other applications.
        timeout: How long to wait for a reply, in seconds, if `send` gets no timeout.
        credentials: Returns the headers with which the other application verifies the caller, such as
            `{"authorization": "Bearer ..."}`. The function is called for each request. The headers do not appear in
            logs and errors.
        ids: Makes the ids of requests.

    Raises:
        SettingError: The timeout is 0 or less, or longer than an hour.
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
        self._contracts: dict[type, RequestContract] = {}

    async def send(self, request: Request[R], /, *, timeout: float | None = None) -> R:  # noqa: ASYNC109  (the call carries it)
        """Send a request and return the response of the other application's handler.

        Correlation, causation and tenant are sent along. The principal is not sent, because the other application
        verifies the caller itself.

        Args:
            request: A request whose class declares the name under which it is exposed: `request_type: ClassVar[str]`.
            timeout: How long to wait for this reply, in seconds; `None` for the timeout of this sender.

        Raises:
            DeclarationError: The class has no valid name, or a type that cannot be encoded.
            RemoteUnavailableError: The request was not sent or not accepted: there is no responder for its name, all
                responders are busy, or the credentials were not available in time.
            RemoteTimeoutError: No reply arrived in time. It is not known whether the request was handled.
            RemoteRefusedError: The request cannot be sent, or the other application refused it. Nothing was handled.
            RemoteFailedError: The handler in the other application failed.
            RemoteResponseError: The request was handled, but its response cannot be read.
        """
        contract = self._contract(type(request))
        seconds = self._timeout if timeout is None else timeout
        check_positive(timeout=seconds, at_most=_LONGEST)
        call = await self._call(request, contract, seconds)
        try:
            reply = await self._channel.call(call)
        except PublisherUnavailableError as error:
            raise RemoteUnavailableError(request, self._channel.place, shown_reason(error.reason)) from error
        except TimeoutError as error:
            raise RemoteTimeoutError(request, seconds) from error
        except ValueError as error:
            raise RemoteRefusedError(request, shown_reason(str(error))) from error
        response: R = self._response(request, contract, reply)
        return response

    def _contract(self, request_class: type[Any]) -> RequestContract:
        known = self._contracts.get(request_class)
        if known is None:
            known = self._contracts[request_class] = contract_of(request_class, self._channel.codec)
        return known

    async def _call(self, request: object, contract: RequestContract, seconds: float) -> RemoteCall:
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        try:
            data = encoded_request(self._channel.codec, request)
            async with asyncio.timeout_at(deadline):
                given = Headers(await self._credentials() if self._credentials is not None else None)
        except (ValueError, ContextError) as error:
            reason = f"the request or its headers cannot be encoded: {error}"
            raise RemoteRefusedError(request, shown_reason(reason)) from error
        except TimeoutError as error:
            raise RemoteUnavailableError(
                request, self._channel.place, "`credentials` returned nothing before the timeout"
            ) from error
        frame = current_frame()
        context = MessageContext.new(ids=self._ids) if frame is None else frame.context.caused(self._ids())
        headers = {**given, MESSAGE_ID: context.message_id, CORRELATION: context.correlation_id}
        if context.causation_id is not None:
            headers[CAUSATION] = context.causation_id
        if context.tenant is not None:
            headers[TENANT] = context.tenant
        return RemoteCall(contract.name, data, max(deadline - clock(), _SHORTEST), headers)

    def _response(self, request: object, contract: RequestContract, reply: RemoteReply) -> Any:
        reason, reference = shown_reason(reply.reason), shown(reply.reference)
        if reply.status is ReplyStatus.BUSY:
            raise RemoteUnavailableError(request, self._channel.place, reason or "it is busy")
        if reply.status is ReplyStatus.REFUSED:
            raise RemoteRefusedError(request, reason, reference)
        if reply.status is ReplyStatus.FAILED:
            raise RemoteFailedError(request, shown(reply.error), reason, reference)
        if reply.status is ReplyStatus.UNREADABLE:
            raise RemoteResponseError(request, reason, reference)
        try:
            return self._channel.codec.decode(reply.data, contract.response)
        except Exception as error:  # the class of the response may raise any error
            raise RemoteResponseError(request, shown_reason(text_of(error))) from error
