"""RequestResponder: handles the requests that this application exposes to other applications."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from mediator.context import IdFactory, MessageContext, Unverified, new_id, problem_of
from mediator.distributed import failpoints
from mediator.distributed.callers import Caller, vouched, vouched_context
from mediator.distributed.cloudevents import CAUSATION, CORRELATION, TENANT
from mediator.distributed.requests.channel import (
    Authenticator,
    IncomingCall,
    IncomingCalls,
    RemoteCall,
    RemoteReply,
    ReplyStatus,
    RequestChannel,
)
from mediator.distributed.requests.fair_queue import FairQueue
from mediator.distributed.requests.port import RequestContract, contract_of, encoded_response
from mediator.distributed.requests.sender import MESSAGE_ID
from mediator.distributed.shield import drain, is_own_cancellation
from mediator.errors import (
    CommitOutcomeUnknownError,
    CommittedError,
    MediatorError,
    NotAuthorizedError,
    SettingError,
    misuse,
)
from mediator.logger import Logger, RateLimitedLogger
from mediator.mediator import Mediator
from mediator.messages import Request
from mediator.printable import text_of, traceback_of
from mediator.settings import check_counts, check_positive

_FLOW = frozenset({MESSAGE_ID, CORRELATION, CAUSATION, TENANT})
_REPLY_SECONDS = 5.0


class RequestResponder:
    """Answers the requests of other applications, each in its own scope, pipeline and unit of work.

    Other applications send requests with a `RemoteSender`. They can send only the request classes in `exposes`, by the
    names that these classes declare. An error of a handler is logged here and not sent: the caller gets the id under
    which the error is logged. Only errors in `shown_errors` are sent with their class and text.

    Args:
        channel: The channel that the requests come from.
        mediator: The mediator whose handlers and behaviors handle the requests.
        exposes: The request classes that other applications may send.
        authenticate: Verifies the sender of a request by the headers in `call.headers`, and returns a `Caller`. The
            principal, tenant and headers of the caller are put into the message context. The tenant and headers that
            the sender states are in `context.unverified`. The authenticator raises `NotAuthorizedError` for a
            request that must not be handled. `trust_broker` accepts every request, but verifies no caller. An
            `AuthorizationBehavior` in the pipeline works as for any other message.
        shown_errors: Exceptions whose class and text the caller may see.
        concurrency: The number of requests that are handled at a time. Each running request takes one place. If there
            are several places, an eighth of them (at least one) is kept free for names of which no request is running.
            So no name takes all places.
        waiting: The number of requests that may wait for a place. When one more arrives, the name with the most
            waiting requests is chosen. The newest request of that name gets the reply `BUSY`.
        handler_timeout: The longest time that one request may take, including its authentication, in seconds. After
            that time the request is cancelled, and a reply tells the sender that the request failed.
        drain_timeout: The time in which running requests must end when the responder is stopped, in seconds.
        ids: Makes ids for requests without an id.

    Raises:
        DeclarationError: A class declares no valid name, has a type that cannot be encoded, or has no handler.
        SettingError: A number is out of range, or there is no class to expose.
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
        handler_timeout: float = 300.0,
        drain_timeout: float = 25.0,
        ids: IdFactory = new_id,
    ) -> None:
        check_counts(concurrency=concurrency, waiting=waiting)
        check_positive(handler_timeout=handler_timeout, drain_timeout=drain_timeout)
        self._channel = channel
        self._mediator = mediator
        self._contracts = _by_name(exposes, channel, mediator)
        self._authenticate = authenticate
        self._shown = shown_errors
        self._concurrency = concurrency
        self._waiting = waiting
        self._handler_timeout = handler_timeout
        self._drain_timeout = drain_timeout
        self._ids = ids
        self._log: Logger = Logger(worker="responder")
        self._limited_log = RateLimitedLogger(self._log)

    async def run(self) -> None:
        """Answer requests until cancelled. Running requests get `drain_timeout` seconds to end."""
        self._log.info("responder started", requests=sorted(self._contracts))
        try:
            queue = FairQueue[IncomingCall](self._contracts, self._concurrency)
            async with self._channel.serve(self._contracts, waiting=self._waiting) as calls:
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._receive(calls, queue))
                        for _ in range(self._concurrency):
                            group.create_task(self._work(queue))
                finally:
                    for incoming in queue.clear():
                        await self._reject(incoming, "the responder is stopping")
        finally:
            self._log.info("responder stopped")

    async def _receive(self, calls: IncomingCalls, queue: FairQueue[IncomingCall]) -> None:
        """Queue requests by their names, so that requests of one name do not block requests of other names."""
        while True:
            incoming = await calls.next()
            if len(queue) >= self._waiting:
                for given_up in queue.drop(_is_given_up):
                    self._log_given_up(given_up)
            if len(queue) < self._waiting:
                queue.put(incoming.call.name, incoming)
                continue
            other = queue.drop_newest(incoming.call.name)
            if other is not None:
                queue.put(incoming.call.name, incoming)
            await self._reject(other or incoming, "too many requests already wait at the responder")

    async def _reject(self, incoming: IncomingCall, reason: str) -> None:
        self._limited_log.warning("request turned away", request=incoming.call.name, reason=reason)
        await self._reply(incoming, RemoteReply(ReplyStatus.BUSY, reason=reason))

    def _log_given_up(self, incoming: IncomingCall) -> None:
        self._limited_log.warning("request given up", request=incoming.call.name, waited=round(incoming.waited, 3))

    async def _work(self, queue: FairQueue[IncomingCall]) -> None:
        while True:
            name, incoming = await queue.take()
            try:
                await drain(self._answer(incoming), self._drain_timeout)
            except asyncio.CancelledError as error:
                if is_own_cancellation(error):
                    raise
                self._log.error("handler cancelled its own task", request=incoming.call.name)  # no reply is sent
            finally:
                queue.done(name)

    async def _answer(self, incoming: IncomingCall) -> None:
        if _is_given_up(incoming):
            self._log_given_up(incoming)
            return
        stated = incoming.call.headers.get(MESSAGE_ID, "")
        message_id = self._ids() if not stated or problem_of(stated) else stated
        reply = await self._handled(incoming.call, message_id, self._until(incoming))
        if reply is None:
            return

        def shorter(error: ValueError) -> RemoteReply:
            if reply.status is ReplyStatus.OK:
                return self._unreadable(incoming.call, message_id, error, str(error))
            return RemoteReply(reply.status, reference=message_id)

        await self._reply(incoming, reply, shorter)

    async def _reply(
        self, incoming: IncomingCall, reply: RemoteReply, shorter: Callable[[ValueError], RemoteReply] | None = None
    ) -> None:
        """Send a reply, in bounded time. If the reply is too large, send the reply that `shorter` returns instead."""
        try:
            async with asyncio.timeout(_REPLY_SECONDS):
                try:
                    await failpoints.reach("responder.before_reply")
                    await incoming.reply(reply)
                    await failpoints.reach("responder.after_reply")
                except ValueError as error:
                    if shorter is None:
                        raise
                    await incoming.reply(shorter(error))
        except (Exception, asyncio.CancelledError) as error:  # without a reply, the sender waits until its timeout
            if is_own_cancellation(error):
                raise
            self._limited_log.warning("answer not sent", request=incoming.call.name, error=type(error).__name__)

    def _until(self, incoming: IncomingCall) -> float:
        """Return the loop time at which the sender gives up, but at most `handler_timeout` seconds from now."""
        seconds = min(incoming.call.timeout - incoming.waited, self._handler_timeout)
        return asyncio.get_running_loop().time() + seconds

    async def _handled(self, call: RemoteCall, message_id: str, until: float) -> RemoteReply | None:
        """Authenticate, decode and handle a request, and return the reply; `None` when the outcome is not known.

        A `CancelledError` counts as a failure, like any other error, unless this task itself is being cancelled.
        """
        try:
            async with asyncio.timeout_at(until):
                caller = await vouched(self._authenticate, call, call.name)
        except NotAuthorizedError as error:
            return self._refused(call, message_id, error, cause=error.__cause__)
        except (Exception, asyncio.CancelledError) as error:  # a failing authenticator refuses the request
            if is_own_cancellation(error):
                raise
            return self._refused(call, message_id, NotAuthorizedError(call.name, None), cause=error)
        try:
            context = self._context(call, message_id, caller)
            request = self._channel.codec.decode(call.data, self._contracts[call.name].request_class)
        except ValueError as error:
            return self._refused(call, message_id, error)
        except Exception as error:  # the class of the request may raise any error
            return self._refused(call, message_id, NotAuthorizedError(call.name, None), cause=error)
        return await self._dispatched(call, request, context, until)

    async def _dispatched(
        self, call: RemoteCall, request: Request[Any], context: MessageContext, until: float
    ) -> RemoteReply | None:
        """Send the request to its handler, and return the reply; `None` when the outcome is not known."""
        message_id = context.message_id
        try:
            async with asyncio.timeout_at(until):
                response = await self._mediator.send(request, context=context)
        except NotAuthorizedError as error:
            return self._refused(call, message_id, error)
        except (Exception, asyncio.CancelledError) as error:  # logged below, under the id that the caller gets
            if is_own_cancellation(error):
                raise
            outcome = _outcome(error)
            if isinstance(outcome, CommitOutcomeUnknownError):
                # No reply is sent: a timeout tells the caller that the outcome is not known.
                self._failed(call, message_id, error)
                return None
            if not isinstance(outcome, CommittedError):
                return self._failed(call, message_id, error)
            # After the reply `FAILED` the caller would send the request again, so the reply has another status.
            kind, stack = type(error).__name__, traceback_of(error)
            self._log.error("request failed after the commit", error=kind, stack=stack, **context.log_fields())
            if outcome.message is not None and outcome.message is not request:
                reason = "the request committed only in part, so there is no response"
                return RemoteReply(ReplyStatus.UNREADABLE, reason=reason, reference=message_id)
            response = outcome.response
        try:
            contract = self._contracts[call.name]
            return RemoteReply(ReplyStatus.OK, encoded_response(self._channel.codec, response, contract.response))
        except Exception as error:  # the request has been handled, so the reply is not `FAILED`
            return self._unreadable(call, message_id, error, "the other application cannot encode the response")

    def _context(self, call: RemoteCall, message_id: str, caller: Caller | None) -> MessageContext:
        stated = {name: value for name, value in call.headers.items() if name not in _FLOW}
        context = MessageContext(
            call.headers.get(MESSAGE_ID) or message_id,
            call.headers.get(CORRELATION, message_id),
            call.headers.get(CAUSATION),
            vouched_by=None,
            unverified=Unverified(call.headers.get(TENANT), stated),
        )
        return vouched_context(context, caller, self._authenticate)

    def _refused(
        self, call: RemoteCall, message_id: str, error: Exception, *, cause: BaseException | None = None
    ) -> RemoteReply:
        kind = type(cause or error).__name__
        is_logged = self._limited_log.warning(
            "request refused", request=call.name, error=kind, message_id=message_id, stack=traceback_of(cause)
        )
        reason = (error.reason or "not authorized") if isinstance(error, NotAuthorizedError) else str(error)
        return RemoteReply(ReplyStatus.REFUSED, reason=reason, reference=message_id if is_logged else "")

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
            return RemoteReply(ReplyStatus.FAILED, reason=text_of(error), error=kind, reference=message_id)
        return RemoteReply(ReplyStatus.FAILED, reference=message_id)


def _is_given_up(incoming: IncomingCall) -> bool:
    """Return whether the sender no longer waits for the reply."""
    return incoming.waited >= incoming.call.timeout


def _outcome(error: BaseException) -> BaseException:
    """Return the error; for a timeout or a cancellation, return its cause. The cause may tell how a commit ended."""
    cause: BaseException | None = error
    while isinstance(cause, TimeoutError | asyncio.CancelledError) and not isinstance(cause, MediatorError):
        cause = cause.__cause__
    return error if cause is None else cause


def _by_name(exposes: Sequence[type[Any]], channel: RequestChannel, mediator: Mediator) -> dict[str, RequestContract]:
    found: dict[str, RequestContract] = {}
    for request_class in exposes:
        contract = contract_of(request_class, channel.codec)
        if contract.name in found:
            other = found[contract.name].request_class.__qualname__
            raise misuse.request_declaration(
                request_class, f"has the request_type {contract.name!r}, and so has {other}"
            )
        mediator.registry.pipeline(request_class)
        found[contract.name] = contract
    if not found:
        raise SettingError("exposes", exposes, "name at least one request class")
    return found
