"""RequestResponder: handles the requests that this application exposes to others, for as long as it runs."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from mediator.context import IdFactory, MessageContext, new_id
from mediator.distributed.bounds import check_counts, check_positive
from mediator.distributed.channel import (
    IncomingCall,
    IncomingCalls,
    RemoteCall,
    RemoteReply,
    ReplyStatus,
    RequestChannel,
)
from mediator.distributed.cloudevents import CAUSATION, CORRELATION, TENANT
from mediator.distributed.remote import MESSAGE_ID
from mediator.distributed.requests import Exposure, exposure_of
from mediator.distributed.shield import drain, is_own_cancellation
from mediator.errors import (
    CommitOutcomeUnknownError,
    CommittedError,
    ContextError,
    NotAuthorizedError,
    RequestDeclarationError,
    SettingError,
)
from mediator.headers import Headers
from mediator.mediator import Mediator
from mediator.messages import Request
from mediator.tracebacks import traceback_of

Authenticator = Callable[[RemoteCall], Awaitable[str | None]]
_FLOW = frozenset({MESSAGE_ID, CORRELATION, CAUSATION, TENANT})
_REPLY_SECONDS = 5.0


async def trust_broker(_call: RemoteCall, /) -> None:
    """An authenticator that lets everybody call, as nobody: the permissions of the broker decide who can."""


class RequestResponder:
    """Answers what a `RemoteSender` of another application asks: one scope, pipeline and unit of work for each request.

    Nothing can be asked for but the request classes given here, by the names they declare. What a handler raises is logged
    here and told to nobody: the caller gets the id under which it is found, and class and text of those errors only that
    are given as `shown_errors`.

    Args:
        channel: Where the requests come from.
        mediator: Whose handlers and behaviors are used.
        exposes: The request classes that other applications may send.
        authenticate: Says for whom a request is handled, from what its sender has put into `call.headers`: the principal
            of its message context. It raises `NotAuthorizedError` for a request that is not to be handled. `trust_broker`
            lets all of them in, for nobody; an `AuthorizationBehavior` in the pipeline works as it does for any message.
        shown_errors: Exceptions whose class and text may be told to the caller.
        concurrency: How many requests are handled at a time.
        waiting: How many may wait for their turn; more are turned away as busy.
        drain_timeout: How long the requests at hand have when this is stopped, in seconds.
        ids: Makes the ids of requests that come without one.

    Raises:
        RequestDeclarationError: A class declares no valid name, has something that has no encoding, or has no handler.
        SettingError: A number is out of range, or there is nothing to expose.
    """

    def __init__(
        self,
        channel: RequestChannel,
        mediator: Mediator,
        *,
        exposes: Sequence[type[Request[Any]]],
        authenticate: Authenticator,
        shown_errors: tuple[type[Exception], ...] = (),
        concurrency: int = 16,
        waiting: int = 256,
        drain_timeout: float = 25.0,
        ids: IdFactory = new_id,
    ) -> None:
        check_counts(concurrency=concurrency, waiting=waiting)
        check_positive(drain_timeout=drain_timeout)
        self._channel = channel
        self._mediator = mediator
        self._exposures = _by_name(exposes, channel, mediator)
        self._authenticate = authenticate
        self._shown = shown_errors
        self._concurrency = concurrency
        self._waiting = waiting
        self._drain_timeout = drain_timeout
        self._ids = ids
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(worker="responder")

    async def run(self) -> None:
        """Answer requests until cancelled; those at hand are then given `drain_timeout` to end."""
        self._log.info("responder started", requests=sorted(self._exposures))
        try:
            async with (
                self._channel.serve(self._exposures, waiting=self._waiting) as calls,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(self._concurrency):
                    group.create_task(self._work(calls))
        finally:
            self._log.info("responder stopped")

    async def _work(self, calls: IncomingCalls) -> None:
        while True:
            incoming = await calls.next()
            try:
                await drain(self._answer(incoming), self._drain_timeout)
            except asyncio.CancelledError as error:
                if is_own_cancellation(error):
                    raise
                self._log.error("handler cancelled its own task", request=incoming.call.name)  # nobody is answered

    async def _answer(self, incoming: IncomingCall) -> None:
        if incoming.waited >= incoming.call.timeout:
            return  # nobody waits for it any more
        message_id = incoming.call.headers.get(MESSAGE_ID) or self._ids()
        reply = await self._handled(incoming, message_id)
        if reply is None:
            return
        try:
            async with asyncio.timeout(_REPLY_SECONDS):
                try:
                    await incoming.reply(reply)
                except ValueError as error:
                    handled = reply.status is ReplyStatus.OK
                    shorter = RemoteReply(reply.status, reference=message_id)
                    told = self._unreadable(incoming.call, message_id, error, str(error)) if handled else shorter
                    await incoming.reply(told)
        except (Exception, asyncio.CancelledError) as error:  # settled: its sender learns from its own clock
            if is_own_cancellation(error):
                raise
            self._log.warning("answer not sent", request=incoming.call.name, error=type(error).__name__)

    async def _handled(self, incoming: IncomingCall, message_id: str) -> RemoteReply | None:
        """The answer; `None` when nobody knows it.

        What is cancelled in here while nobody cancels this has failed, as with any other error.
        """
        call = incoming.call
        try:
            async with _in_time(incoming):
                context = await self._context(call, message_id)
            request = self._channel.codec.decode(call.data, self._exposures[call.name].request_class)
        except (NotAuthorizedError, ContextError, ValueError) as error:
            return self._refused(call, message_id, error)
        except (Exception, asyncio.CancelledError) as error:  # an authenticator that fails lets nobody through
            if is_own_cancellation(error):
                raise
            return self._refused(call, message_id, NotAuthorizedError(call.name, None), cause=error)
        return await self._told(incoming, request, context)

    async def _told(self, incoming: IncomingCall, request: Request[Any], context: MessageContext) -> RemoteReply | None:
        """What is told of what its handler did."""
        call, message_id = incoming.call, context.message_id
        try:
            async with _in_time(incoming):
                response = await self._respond(request, context)
        except NotAuthorizedError as error:
            return self._refused(call, message_id, error)
        except CommitOutcomeUnknownError as error:  # the caller's time runs out, which tells it that nobody knows
            self._failed(call, message_id, error)
            return None
        except (Exception, asyncio.CancelledError) as error:  # settled: it is logged here, and the caller learns where
            if is_own_cancellation(error):
                raise
            return self._failed(call, message_id, error)
        try:
            return RemoteReply(ReplyStatus.OK, self._channel.codec.encode(response))
        except Exception as error:  # its effects are committed: to call it failed would have it sent again
            return self._unreadable(call, message_id, error, "it cannot be encoded there")

    async def _respond(self, request: Request[Any], context: MessageContext) -> Any:
        try:
            return await self._mediator.send(request, context=context)
        except CommittedError as error:  # it has taken effect, and asking for it again would double it
            self._log.error(
                "request failed after the commit",
                error=type(error).__name__,
                stack=traceback_of(error),
                **context.log_fields(),
            )
            return error.response

    async def _context(self, call: RemoteCall, message_id: str) -> MessageContext:
        principal = await self._authenticate(call)
        return MessageContext(
            message_id,
            call.headers.get(CORRELATION, message_id),
            call.headers.get(CAUSATION),
            principal,
            call.headers.get(TENANT),
            Headers({name: value for name, value in call.headers.items() if name not in _FLOW}),
        )

    def _refused(
        self, call: RemoteCall, message_id: str, error: Exception, *, cause: BaseException | None = None
    ) -> RemoteReply:
        kind = type(cause or error).__name__
        self._log.warning(
            "request refused", request=call.name, error=kind, message_id=message_id, stack=traceback_of(cause)
        )
        reason = (error.reason or "not authorized") if isinstance(error, NotAuthorizedError) else str(error)
        return RemoteReply(ReplyStatus.REFUSED, reason=reason, reference=message_id)

    def _unreadable(self, call: RemoteCall, message_id: str, error: Exception, reason: str) -> RemoteReply:
        kind = type(error).__name__
        self._log.error(
            "response not sent", request=call.name, error=kind, message_id=message_id, stack=traceback_of(error)
        )
        return RemoteReply(ReplyStatus.UNREADABLE, reason=reason, reference=message_id)

    def _failed(self, call: RemoteCall, message_id: str, error: BaseException) -> RemoteReply:
        kind = type(error).__name__
        self._log.error(
            "request failed", request=call.name, error=kind, message_id=message_id, stack=traceback_of(error)
        )
        if isinstance(error, self._shown):
            return RemoteReply(ReplyStatus.FAILED, reason=str(error), error=kind, reference=message_id)
        return RemoteReply(ReplyStatus.FAILED, reference=message_id)


def _in_time(incoming: IncomingCall) -> asyncio.Timeout:
    """As long as somebody waits for the answer."""
    return asyncio.timeout(incoming.call.timeout - incoming.waited)


def _by_name(exposes: Sequence[type[Any]], channel: RequestChannel, mediator: Mediator) -> dict[str, Exposure]:
    found: dict[str, Exposure] = {}
    for request_class in exposes:
        exposure = exposure_of(request_class, channel.codec)
        if exposure.name in found:
            other = found[exposure.name].request_class.__qualname__
            raise RequestDeclarationError(request_class, f"has the request_type {exposure.name!r}, and so has {other}")
        mediator.registry.pipeline(request_class)
        found[exposure.name] = exposure
    if not found:
        raise SettingError("exposes", exposes, "name at least one request class")
    return found
