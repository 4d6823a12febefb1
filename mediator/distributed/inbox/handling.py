"""Handling: runs the handlers of one event in a new scope and a new transaction."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mediator.context import MessageContext
from mediator.distributed import failpoints
from mediator.distributed.callers import EventAuthenticator, vouched, vouched_context
from mediator.distributed.cloudevents import CloudEvent, incoming
from mediator.distributed.events import DistributedEvent, decode_event
from mediator.distributed.inbox.handler import CurrentDelivery
from mediator.distributed.inbox.port import Admission
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import FatalEventError, MessageTimeoutError, NotAuthorizedError
from mediator.logger import Logger
from mediator.mediator import Mediator
from mediator.pipeline import LastCalled
from mediator.printable import traceback_of
from mediator.transactions import Outcome, TransactionMode
from mediator.watching import check_awaited

Admit = Callable[[UnitOfWork], Awaitable[Admission]]
"""Runs the first statements of the transaction. The handlers run only when this function returns `NEW`."""


@dataclass(frozen=True, slots=True)
class HandlingParts:
    """The objects that all handlings of one consumer share.

    Attributes:
        unit_of_work: Returns the unit of work of the current scope.
        timeout: How long the handlers of one event may take, in seconds.
        log: Logs the invalid attributes that are dropped from an event, and errors after a commit.
        authenticate: Verifies the sender of an event, and returns its `Caller`.
    """

    mediator: Mediator
    unit_of_work: Callable[[], UnitOfWork]
    timeout: float
    log: Logger
    authenticate: EventAuthenticator


class Handling:
    """Runs the handlers of one event once. Each start of the handlers needs a new `Handling`.

    Attributes:
        outcome: The outcome of the transaction, even when `run` raises an error.
        context: The message context of the event. After the authentication, the context names the verified caller.
        last_called: The class of the handler that was called last. If a behavior failed before the first call, the
            class of the first handler. `None` if the pipeline was not called.
    """

    def __init__(
        self,
        parts: HandlingParts,
        envelope: CloudEvent,
        event_class: type[DistributedEvent],
        attempt: int,
        admit: Admit,
        *,
        conclude: Callable[[UnitOfWork], Awaitable[None]] | None = None,
    ) -> None:
        self.outcome: Outcome = Outcome.NONE
        self.last_called: type | None = None
        self._parts = parts
        self._envelope = envelope
        self._event_class = event_class
        self._attempt = attempt
        self._admit = admit
        self._conclude = conclude
        self.context: MessageContext
        self.context, self._dropped = incoming(envelope)

    async def run(self) -> Admission:
        """Begin a transaction, run the handlers if the inbox admits the event, commit, and return the inbox's answer.

        An error after the commit is only logged, because the event has taken effect.

        Raises:
            MessageTimeoutError: The handlers took too long, and were rolled back.
            FatalEventError: The authenticator refuses the event.
            Exception: A handler, a behavior or the database failed. The transaction was rolled back.
        """
        admission = Admission.NEW
        if self._dropped:
            self._parts.log.warning("attributes dropped", attributes=self._dropped, **self.context.log_fields())
        try:
            admission = await self._run_in_time()
        except Exception as error:
            if self.outcome is not Outcome.COMMITTED:
                raise
            self._log_failed_after_commit(error)
        return admission

    def _log_failed_after_commit(self, error: Exception) -> None:
        flow = self.context.log_fields()
        kind, stack = type(error).__name__, traceback_of(error)
        self._parts.log.error("delivery failed after the commit", error=kind, stack=stack, **flow)

    async def _run_in_time(self) -> Admission:
        admission, failure = Admission.NEW, None
        limit = asyncio.timeout(self._parts.timeout)
        try:
            async with limit:
                try:
                    admission = await self._run()
                except Exception as error:  # raised below, because `asyncio.timeout` changes errors since Python 3.13
                    failure = error
        except TimeoutError as error:
            failure = error
        if failure is None:
            return admission
        try:
            if limit.expired() and isinstance(failure, TimeoutError):
                raise MessageTimeoutError(self._envelope.type, self._parts.timeout, delivered=True) from failure
            raise failure
        finally:
            del failure  # without this, the error and this frame would form a reference cycle

    async def _run(self) -> Admission:
        parts, envelope = self._parts, self._envelope
        await self._authenticate()
        async with parts.mediator.scope(TransactionMode.NEW, message=envelope.type, context=self.context) as scope:
            scope.instances[CurrentDelivery] = CurrentDelivery(envelope, self._attempt)
            try:
                return await self._handle(parts.unit_of_work())
            finally:
                self.outcome = scope.outcome
                self.last_called = scope.instances.get(LastCalled, self.last_called)

    async def _authenticate(self) -> None:
        authenticate, envelope = self._parts.authenticate, self._envelope
        try:
            caller = await vouched(authenticate, envelope, envelope.type)
        except NotAuthorizedError as error:
            raise FatalEventError(f"the authenticator refused the event: {error.reason or 'not authorized'}") from error
        self.context = vouched_context(self.context, caller, authenticate)

    async def _handle(self, unit_of_work: UnitOfWork) -> Admission:
        event = decode_event(unit_of_work.codec, self._envelope.type, self._envelope.data, self._event_class)
        async with unit_of_work:
            await failpoints.reach("consumer.before_insert")
            admission = await self._admit(unit_of_work)
            if admission is Admission.NEW:
                await failpoints.reach("consumer.after_insert")
                pipeline = self._parts.mediator.registry.pipeline(self._event_class)
                self.last_called = next((handler.cls for handler in pipeline.handlers), None)
                check_awaited(await pipeline.call(event), event)
                await failpoints.reach("consumer.after_handlers")
                if self._conclude is not None:
                    await self._conclude(unit_of_work)
        if admission is not Admission.DUPLICATE:
            await failpoints.reach("consumer.after_commit")
        return admission
